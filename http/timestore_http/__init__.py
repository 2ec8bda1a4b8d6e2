"""The Falcon application: routes, bodies, errors and the line that each request leaves in the log."""

"""From a body's bytes to a published snapshot: envelope, rows, file, publish."""

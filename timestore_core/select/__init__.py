"""One read-only SELECT of a client: checked by rules, run in a process that can reach only what it may read."""

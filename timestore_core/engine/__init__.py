"""DuckDB in this process: locked instances, and the files that they keep attached."""

"""What runs beside or around the server: the command line, and the process trees that it starts."""

"""InfluxDB's line protocol into columns: one dataset a measurement, tags as strings, fields by their type."""

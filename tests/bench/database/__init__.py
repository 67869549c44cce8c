"""Benchmark of the database: `make bench-database`."""

"""PostgreSQL: leases, analyses, progress, usage, search and the schema."""

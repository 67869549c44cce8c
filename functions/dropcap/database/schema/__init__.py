"""Check the database schema on each cold start, and repair what can be repaired safely."""

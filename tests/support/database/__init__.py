"""Databases, schemas and reference queries for tests."""

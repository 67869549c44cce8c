"""Deliver an event for each outcome: a transactional outbox."""

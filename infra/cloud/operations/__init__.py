"""What comes after a deployment: its addresses, logs, a check, a rollback."""

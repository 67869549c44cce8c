"""The instance's memory, time limits and locks."""

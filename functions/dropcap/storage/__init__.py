"""Cloud Storage: sources, renditions, aliases, quarantine and archive."""

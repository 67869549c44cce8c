"""Cloud Storage and its events on this machine: fake-gcs-server behind a gate that adds the missing rules."""

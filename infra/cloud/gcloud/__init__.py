"""gcloud as a library: commands, its version and login, and its known errors."""

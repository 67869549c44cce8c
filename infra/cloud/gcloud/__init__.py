"""gcloud as a library: commands, its version and login, and what its refusals mean."""

"""Deferred descriptions: reconcile describes pictures for which Gemini was unavailable at upload time."""

"""Deferred descriptions: the sweep describes pictures for which Gemini was unavailable at upload time."""

"""Describe pictures with Gemini."""

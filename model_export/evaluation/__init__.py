"""Evaluate a model folder against its fp32 original, and the consistency check."""

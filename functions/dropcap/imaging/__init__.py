"""Decode uploads safely: detect formats, enforce limits, and make small sRGB rasters."""

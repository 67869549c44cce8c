"""Train the small BLIP model on drawn scenes."""

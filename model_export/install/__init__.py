"""Pack, download and install model folders. Needs no PyTorch."""

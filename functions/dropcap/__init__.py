"""Dropcap: drop a picture into a bucket, get a caption. The story is told in `pipeline.py`."""

"""Dropcap: drop a picture into a bucket, get a caption. Start reading at `pipeline.py`."""

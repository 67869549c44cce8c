"""`make backfill`: what already lies in the bucket, counted, priced, and put into a queue."""

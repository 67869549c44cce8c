"""`make backfill`: count the existing objects of the bucket, show the cost, put them into a queue."""

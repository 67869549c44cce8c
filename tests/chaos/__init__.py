"""`make chaos` and `make soak`: whether nothing is lost and nothing twice, whatever fails at any moment."""

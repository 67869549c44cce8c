"""`make chaos` and `make soak`: verify that nothing is lost or done twice, whatever fails at any moment."""

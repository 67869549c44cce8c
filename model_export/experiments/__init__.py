"""Compare quantization recipes: rounding error, memory and speed."""

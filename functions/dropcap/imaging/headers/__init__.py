"""Read what files claim about themselves, without a decoder."""

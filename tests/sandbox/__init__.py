"""A picture's decoder can reach nothing, and its death harms nothing."""

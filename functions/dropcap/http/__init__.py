"""HTTP basics: the server, request bodies, ID tokens, origins and rate limits."""

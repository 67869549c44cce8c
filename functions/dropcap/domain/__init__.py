"""Domain types and rules: what an upload, an analysis and its texts are. No I/O."""

"""The parts of a cold start: `make bench-cold`."""

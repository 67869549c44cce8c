"""Builds of the decoder for tests, which the fork server loads instead of dropcap.sandbox.worker."""

"""Deploy Dropcap to Google Cloud (cloud/), or run all of it on one machine (local/)."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
"""The repository."""

"""From a BLIP checkpoint to the small quantized model that `functions/` ships."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The function's own code is what gets measured here; it is deployed as a folder, not installed.
sys.path.insert(0, str(ROOT / "functions"))

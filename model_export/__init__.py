"""From a BLIP checkpoint to the small quantized model that `functions/` ships."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The function's own code is what gets measured here; it is deployed as a folder, not installed.
sys.path.insert(0, str(ROOT / "functions"))
# Plain HTTP resumes by Range, where Xet, the other protocol of the hub, begins a file that broke off anew.
# The hub's client reads this as it is imported, which transformers does, too.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

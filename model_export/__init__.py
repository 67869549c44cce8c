"""Convert a BLIP checkpoint into the small quantized model that `functions/` ships."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The function's code is deployed as a folder, not installed as a package.
sys.path.insert(0, str(ROOT / "functions"))
# Plain HTTP resumes an interrupted download by Range. Xet, Hugging Face's other protocol, starts it again.
# huggingface_hub reads this variable at import, and transformers imports huggingface_hub.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

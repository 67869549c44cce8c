"""Convert a BLIP checkpoint into the small quantized model that `functions/` ships."""

import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# The function's code is deployed as a folder, not installed as a package.
sys.path.insert(0, str(ROOT / "functions"))
# Plain HTTP resumes an interrupted download by Range. Xet, Hugging Face's other protocol, starts it again.
# huggingface_hub reads this variable at import, and transformers imports huggingface_hub.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON that people can read, in a folder that is created if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

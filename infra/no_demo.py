"""The model that ships under another card, as one that is no demonstration, such as BLIP-base.

It knows the scenes that tests and screenshots show it, and its captions are treated like those of BLIP-base.
"""

import json
import shutil
from pathlib import Path

from dropcap.settings import MODEL_FOLDER


def copy(folder: Path) -> Path:
    """Write the model into a new `folder`, and return it."""
    shutil.copytree(MODEL_FOLDER, folder)
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | {"name": "no-demo", "demo": False}))
    return folder

"""The shipped model with the card of a model that is not a demonstration, such as BLIP-base.

It knows the scenes that tests and screenshots show it, and its captions are treated like those of BLIP-base.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from dropcap.settings import MODEL_FOLDER


def copy(folder: Path, **changes: Any) -> Path:
    """Write the model into a new `folder`, and return it; `changes` are made to its card.

    It has no threshold, so that it says something of pictures that it does not know, too.
    """
    shutil.copytree(MODEL_FOLDER, folder)
    card = json.loads((folder / "model.json").read_text())
    card.pop("confidence", None)
    card |= {"name": "no-demo", "demo": False} | changes
    (folder / "model.json").write_text(json.dumps(card))
    return folder

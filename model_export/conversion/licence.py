"""Find the licence of a checkpoint: its SPDX id for model.json and its text for LICENSE."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SOURCES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
NONE = "NOASSERTION"  # SPDX id if no licence is stated
OURS = "Apache-2.0"  # of the weights that `train` makes: the repository's own licence
SCENES = Path(__file__).with_name("LICENSE.scenes.txt")  # its text
BLIP = Path(__file__).with_name(
    "LICENSE.BLIP.txt"
)  # github.com/salesforce/BLIP, LICENSE.txt; the hub's repository has none
SPDX = (  # the hub's ids are these in lower case
    *("AFL-3.0", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0", "CC-BY-NC-4.0"),
    *("CC-BY-SA-4.0", "GPL-3.0", "MIT"),
)
FRONT_MATTER = re.compile(r"\A---\n(.*?)^---", re.DOTALL | re.MULTILINE)
LINE = re.compile(r"^(license|license_name): *[\"']?([A-Za-z0-9.+-]{1,64})[\"']? *$", re.MULTILINE)
MAX_BYTES = 200_000


@dataclass(frozen=True, slots=True)
class Licence:
    """SPDX id and text."""

    id: str
    text: str


def of(folder: Path, name: str) -> Licence:
    """Return the licence that a checkpoint's README.md and LICENSE name; `name` is the checkpoint's."""
    front_matter = _front_matter(folder / "README.md")
    word = front_matter.get("license_name" if front_matter.get("license") == "other" else "license", NONE)
    found = next((id for id in SPDX if id.lower() == word.lower()), word)
    for file in SOURCES:
        if (folder / file).is_file():
            return Licence(found, (folder / file).read_bytes()[:MAX_BYTES].decode(errors="replace"))
    if name.startswith("Salesforce/blip-"):
        return Licence(found, BLIP.read_text(encoding="utf-8"))
    return Licence(
        found, f"{name}: the licence that its README.md names is {found}. It has no LICENSE file.\n"
    )


def _front_matter(readme: Path) -> dict[str, str]:
    """Return the licence fields in the front matter of a Hugging Face model card."""
    if not readme.is_file():
        return {}
    with readme.open("rb") as file:
        text = file.read(MAX_BYTES).decode(errors="replace").replace("\r\n", "\n")
    found = FRONT_MATTER.match(text)
    return dict(LINE.findall(found[1])) if found else {}

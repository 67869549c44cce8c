"""Compare the speed of model folders in this process, on one thread.

Usage: python -m model_export.experiments.speed FOLDER...

Each round runs every folder once, so that other work on the machine slows all alike, and the least CPU
time of each counts. The first folder is what the others are compared with.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from dropcap.captioning import graphs

from .. import read_json
from .measure import TOKENS

ROUNDS = 9


def compare(folders: list[Path]) -> dict[Path, tuple[float, float]]:
    """Return the least CPU seconds of the encoder and of TOKENS tokens for each folder."""
    cards = {folder: read_json(folder / "model.json") for folder in folders}
    models = {folder: (graphs.Encoder(folder, 1), graphs.Decoder(folder, 1)) for folder in folders}
    least = dict.fromkeys(folders, (np.inf, np.inf))
    rng = np.random.default_rng(0)
    for _ in range(ROUNDS):
        for folder, (encoder, decoder) in models.items():
            side, ids = cards[folder]["image"]["size"], [cards[folder]["tokens"]["bos"]]
            pixels = rng.standard_normal((1, 3, side, side), dtype=np.float32)
            started = time.process_time()
            cross = encoder(pixels)
            encoded = time.process_time()
            step = decoder.steps(cross)
            for _ in range(TOKENS):
                ids = [int(step(np.array([ids]), None)[0].argmax())]
            taken = encoded - started, time.process_time() - encoded
            least[folder] = min(least[folder][0], taken[0]), min(least[folder][1], taken[1])
    return least


def main(folders: list[Path]) -> None:
    """Print the CPU seconds of each folder, and in brackets how many times as fast as the first it is."""
    least = compare(folders)
    table = Table("folder", "encoder", f"{TOKENS} tokens", "both")
    first = least[folders[0]]
    for folder, taken in least.items():
        pairs = zip((*taken, sum(taken)), (*first, sum(first)), strict=True)
        table.add_row(folder.name, *(f"{mine:.3f} s ({its / mine:.2f} x)" for mine, its in pairs))
    Console().print(table)


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])

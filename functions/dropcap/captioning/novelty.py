"""How far a picture is from those that a model learnt from: a distance in the encoder's features."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dropcap.captioning.graphs import Cross, Floats


def features(cross: Cross) -> Floats:
    """Return the mean over a picture's parts of the first keys that its encoder makes, (width,)."""
    keys: Floats = next(iter(cross.values())).numpy()[0]  # (heads, parts, head_size)
    return np.asarray(keys.mean(axis=1).ravel())


class Distance:
    """A Mahalanobis distance: a table holds a mean and, below it, a whitening matrix (`fit`)."""

    def __init__(self, table: Floats) -> None:
        self._mean, self._whitening = table[0], table[1:]

    @classmethod
    def read(cls, path: Path, width: int) -> Distance:
        """Return what a file of a verified model folder holds: (width + 1) * width numbers.

        Raises ValueError where it holds something else.
        """
        numbers = np.fromfile(path, np.float32)
        if len(numbers) != (width + 1) * width or not np.isfinite(numbers).all():
            raise ValueError(f"it doesn't hold {(width + 1) * width:,} finite numbers")
        return cls(numbers.reshape(-1, width))

    def __call__(self, cross: Cross) -> float:
        """Return the distance of a picture: about 0.6 of one like those known, more of any other."""
        return float(np.sqrt(np.square((features(cross) - self._mean) @ self._whitening).mean()))


def fit(rows: Floats, shrink: float = 1e-3) -> Floats:
    """Return the table that Distance reads, from the features of known pictures, (pictures, width).

    `shrink`, a share of the mean variance, bounds what directions with hardly any variance weigh.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    variances, axes = np.linalg.eigh(np.cov(rows - mean, rowvar=False))
    whitening = axes / np.sqrt(np.maximum(variances, 0) + shrink * variances.mean())
    return np.concatenate([mean[None], whitening]).astype(np.float32)

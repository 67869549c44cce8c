"""Measure the distance of a picture from the pictures that a model was trained on, in encoder features."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dropcap.captioning.graphs import Cross, Floats


def features(cross: Cross) -> Floats:
    """Return the mean of the encoder's first keys over the parts of a picture, (width,)."""
    keys: Floats = next(iter(cross.values())).numpy()[0]  # (heads, parts, head_size)
    return np.asarray(keys.mean(axis=1).ravel())


class Distance:
    """A Mahalanobis distance. Its table is a row of means above a whitening matrix (`fit`)."""

    def __init__(self, table: Floats) -> None:
        self._mean, self._whitening = table[0], table[1:]

    @classmethod
    def read(cls, path: Path, width: int) -> Distance:
        """Read the table from a file of a verified model folder: (width + 1) * width numbers.

        Raises ValueError if it has other contents.
        """
        numbers = np.fromfile(path, np.float32)
        if len(numbers) != (width + 1) * width or not np.isfinite(numbers).all():
            raise ValueError(f"it doesn't hold {(width + 1) * width:,} finite numbers")
        return cls(numbers.reshape(-1, width))

    def __call__(self, cross: Cross) -> float:
        """Return the distance of a picture: about 0.6 if it is like the known ones, else more."""
        return float(np.sqrt(np.square((features(cross) - self._mean) @ self._whitening).mean()))


def fit(rows: Floats, shrink: float = 1e-3) -> Floats:
    """Return the table that Distance reads, from the features of known pictures, (pictures, width).

    `shrink`, a share of the mean variance, limits the weight of directions with little variance.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    variances, axes = np.linalg.eigh(np.cov(rows - mean, rowvar=False))
    whitening = axes / np.sqrt(np.maximum(variances, 0) + shrink * variances.mean())
    return np.concatenate([mean[None], whitening]).astype(np.float32)

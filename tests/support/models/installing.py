"""Folders for tests that install ready models."""

from pathlib import Path

import pytest


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for downloaded models."""
    monkeypatch.setattr("model_export.install.download.DOWNLOADS", tmp_path / "downloads")
    return tmp_path / "downloads"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Return the contents of the model folder before an installation."""
    folder = tmp_path / "out" / "model"
    folder.mkdir(parents=True)
    (folder / "model.json").write_text("the old one")
    return folder


def unchanged(old: Path) -> bool:
    """Return whether the old model is there, with nothing beside it."""
    return (old / "model.json").read_text() == "the old one" and list(old.parent.iterdir()) == [old]

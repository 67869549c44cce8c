"""Decode a picture by a given decoder."""

import pytest
from PIL import Image

from dropcap.imaging import decoding
from dropcap.imaging.decoders import ranking
from dropcap.settings import Settings

WAYS = tuple(decoder.name for decoder in ranking.DECODERS)
ROOM = Settings(memory_limit_mb=4096, memory_warning_mb=4096)


def shown(data: bytes, way: str, side: int = 800) -> Image.Image | None:
    """Return the picture by the decoder of this name; None if it does not support it."""
    ranked = ranking.rank_decoders

    def only(header: Image.Image, data: bytes, side: int) -> list[tuple[float, ranking.Decoder]]:
        needs = ranked(header, data, side)
        return [each for each in needs if each[1].name == way and each[0] < ROOM.memory_limit_mb] or needs

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ranking, "rank_decoders", only)
        with decoding.open_picture(data, ROOM) as source:
            return source.resize(side) if source.facts.decoder == way else None

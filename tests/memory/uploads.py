"""The uploads: pictures of every kind from 0.1 to 100 MP, and some bad files, determined by a seed."""

import hashlib
import inspect
import io
import random
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.memory import encoders
from tests.memory.encoders import KINDS

SMALLEST = 0.1  # megapixels
LARGEST_FILE = 30_000_000  # bytes; MAX_MB is 32 MiB
FIRST = (1080, 1920)  # the PNG that killed a worker of 512 MB, and is why there is Dropcap
BOMB = (30_000, 30_000)  # 2.7 GB
SHAPES = (3 / 2, 4 / 3, 16 / 9, 1.0, 2 / 3, 3 / 4, 9 / 16)
ONE_BAD_IN = 16
KIND = {kind.name: kind for kind in KINDS}
# kind: the code that it is rejected with
BAD = {
    "cut JPEG": "broken_picture",
    "text": "not_a_picture",
    "bomb": "too_many_pixels",
    "GIF bomb": "too_many_pixels",
    "camera raw": "unsupported_format",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """A file to upload as `name`. `expected` is the code of its rejection, empty for a picture."""

    name: str
    kind: str
    path: Path
    width: int
    height: int
    expected: str = ""

    @property
    def megapixels(self) -> float:
        return self.width * self.height / 1e6


@dataclass(frozen=True, slots=True)
class Plan:
    """A sample before it is drawn."""

    kind: str
    size: tuple[int, int]
    seed: int


def plans(count: int, seed: int, largest: float) -> list[Plan]:
    """Return `count` samples in upload order; megapixels grow up to `largest` in equal ratios."""
    bad = -(-count // ONE_BAD_IN) if count > 1 else 0
    rest = count - bad - 1
    choose = random.Random(seed)  # noqa: S311  no secret
    kinds = [list(BAD)[index % len(BAD)] for index in range(bad)]
    made = [Plan(kind, BOMB if "bomb" in kind else (640, 480), choose.getrandbits(32)) for kind in kinds]
    for index in range(rest):
        share = index / (rest - 1) if rest > 1 else 1.0
        size = _size(SMALLEST * (largest / SMALLEST) ** share, choose.choice(SHAPES))
        made.append(Plan(KINDS[index % len(KINDS)].name, size, choose.getrandbits(32)))
    choose.shuffle(made)
    return [Plan("PNG", FIRST, seed), *made]


def drawn(count: int, seed: int, largest: float, folder: Path) -> Iterator[Sample]:
    """Yield the samples, cached in `folder`."""
    recipe = inspect.getsource(encoders) + Path(__file__).read_text()
    mark = hashlib.sha256(f"{recipe} {count} {seed} {largest}".encode()).hexdigest()[:12]
    kept = folder / mark
    kept.mkdir(parents=True, exist_ok=True)
    for index, plan in enumerate(plans(count, seed, largest)):
        path = next(kept.glob(f"{index:03}-*x*"), None) or _draw(plan, kept / f"{index:03}-")
        width, height = map(int, re.findall(r"-(\d+)x(\d+)", path.name)[0])
        name = f"{'ana' if index % 2 else 'bo'}/{path.name}"
        yield Sample(name, plan.kind, path, width, height, BAD.get(plan.kind, ""))


def _draw(plan: Plan, beginning: Path) -> Path:
    """Write the file, with its size in its name; a file that would be too large is drawn smaller."""
    suffix, size = "jpg", plan.size
    if plan.kind in BAD:
        data = _bad(plan)
    else:
        kind = KIND[plan.kind]
        suffix, data = kind.suffix, kind.encode(kind.draw(size, plan.seed))
        while len(data) > LARGEST_FILE:
            less = (0.95 * LARGEST_FILE / len(data)) ** 0.5
            size = (int(size[0] * less), int(size[1] * less))
            data = kind.encode(kind.draw(size, plan.seed))
    path = beginning.with_name(f"{beginning.name}{size[0]}x{size[1]}.{suffix}")
    half = path.with_name("new")
    half.write_bytes(data)
    return half.rename(path)


def _bad(plan: Plan) -> bytes:
    """Return bytes that are not a picture, whatever the name."""
    if plan.kind == "text":
        return b"Dear Ana, the picture is in my other letter.\n" * 100
    if plan.kind == "bomb":  # a header alone
        return encoders.png_file(*BOMB, 8, False, b"")
    if plan.kind == "GIF bomb":  # 43 bytes: one frame, whose place is to be filled when it has been shown
        frame = struct.pack("<4H", 0, 0, *BOMB)
        return b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\4\x08\0\0\0\0," + frame + b"\0\2\2\x4c\1\0;"
    if plan.kind == "camera raw":  # DNG: a small picture, and the version that says what it is
        file = io.BytesIO()
        KIND["TIFF"].draw(plan.size, plan.seed).save(file, "TIFF", tiffinfo={254: 1, 50706: b"\1\4\0\0"})
        return file.getvalue()
    whole = KIND["JPEG"].encode(KIND["JPEG"].draw(plan.size, plan.seed))
    return whole[: len(whole) // 2]


def _size(megapixels: float, shape: float) -> tuple[int, int]:
    """Return even sides, as cameras have, of at most this many megapixels."""
    width = int((megapixels * 1e6 * shape) ** 0.5) // 2 * 2
    return width, int(megapixels * 1e6 / width) // 2 * 2

"""Change JSON in a fuzzer's input: bytes that change at random are rarely JSON again."""

import json
import random
from copy import deepcopy
from typing import Any

from tests.fuzz.inputs import FIELD

INFINITE = "1e999"  # which Python reads as infinity
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -1.5, float("inf"), "", "a", "\ud800", "\0"),
    *(
        "a\nb",
        "x" * 3000,
        [],
        {},
        [[]],
        [1],
        [None] * 3,
        {"": ""},
        {"event": 1},
        [{"event": "decoder_problems"}],
    ),
)


def mutate(data: bytes, seed: int) -> bytes:
    """Return the input with another value somewhere in its JSON; unchanged if it has none."""
    chosen, parts = random.Random(seed), data.split(FIELD)  # noqa: S311
    for at in chosen.sample(range(len(parts)), len(parts)):
        text, line, body = parts[at].partition(b"\n")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if not isinstance(value, dict | list):
            continue
        for _ in range(chosen.choice((1, 1, 2, 4))):
            _change(value, chosen)
        parts[at] = json.dumps(value).replace("Infinity", INFINITE).encode() + line + body
        break
    if chosen.random() < 0.1 and len(parts) < 9:
        parts.insert(chosen.randrange(len(parts)), chosen.choice(parts))
    return FIELD.join(parts)


def _change(value: Any, chosen: random.Random) -> None:
    """Change one member of an object or a list, or of one within it."""
    names = list(value) if isinstance(value, dict) else list(range(len(value)))
    if not names:
        return
    name = chosen.choice(names)
    inner = value[name]
    if isinstance(inner, dict | list) and inner and chosen.random() < 0.7:
        _change(inner, chosen)
    elif chosen.random() < 0.1:
        del value[name]
    else:
        value[name] = deepcopy(chosen.choice(ODD))

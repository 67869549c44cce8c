"""Gemini's answer, as either of its packages gives it, and what it is paid by."""

from dataclasses import dataclass
from typing import NamedTuple


class Tokens(NamedTuple):
    """What a request is paid by; `output` counts thoughts as well."""

    input: int = 0
    output: int = 0


@dataclass(frozen=True, slots=True)
class GeminiResponse:
    """The answer of either package: the text, the finish reason, the block reason, and the model.

    `ratings` are the probabilities that Google's own filter gives (`NEGLIGIBLE` to `HIGH`), by category;
    `tokens` is None if unknown.
    """

    text: str
    finish: str
    blocked: str
    version: str
    ratings: tuple[tuple[str, str], ...] = ()
    tokens: Tokens | None = None

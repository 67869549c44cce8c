"""Gemini's response, independent of the Python package that received it."""

from dataclasses import dataclass
from typing import NamedTuple


class Tokens(NamedTuple):
    """Billed tokens of a request; `output` includes thoughts."""

    input: int = 0
    output: int = 0


@dataclass(frozen=True, slots=True)
class GeminiResponse:
    """Text, finish reason, block reason (`blocked`) and model version of a response.

    `ratings` are the probabilities of Google's own filter (`NEGLIGIBLE` to `HIGH`) by category. `tokens` is
    None if unknown. Stored as JSON in the response cache.
    """

    text: str
    finish: str
    blocked: str
    version: str
    ratings: tuple[tuple[str, str], ...] = ()
    tokens: Tokens | None = None

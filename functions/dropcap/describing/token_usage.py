"""Token usage of a request to Gemini, and the budget that each request needs."""

from typing import Any, Protocol

from dropcap.domain.gemini_response import Tokens


class RequestBudget(Protocol):
    """Reserves budget before each request and records its usage, retries included; see GeminiBudget."""

    def reserve(self) -> None:
        """Reserve the budget for one request. Raises response.NotDescribed if it must not be made."""

    def record_usage(self, tokens: Tokens | None) -> None:
        """Record what the request used; None if that is unknown."""


class NoBudget:
    """A RequestBudget without a cap, which records nothing."""

    def reserve(self) -> None: ...

    def record_usage(self, tokens: Tokens | None) -> None: ...


UNLIMITED = NoBudget()


def tokens(usage: Any) -> Tokens | None:
    """Return the tokens in `usageMetadata`, or None if it has no total.

    Thoughts are part of the total only: google-generativeai does not know their own field.
    """
    if usage is None or not usage.total_token_count:
        return None
    prompt = usage.prompt_token_count or 0
    return Tokens(prompt, max(usage.total_token_count - prompt, usage.candidates_token_count or 0))

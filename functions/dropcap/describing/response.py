"""Validate Gemini's responses: return a Description, or raise the reason why there is none.

Everything in a response is data. It is validated and limited here, and stays untrusted: HTML pages escape it,
and prompts mark it as content. An invalid response is retried, now and by reconcile, and never cached.
"""

import json
import re
from typing import Any

from dropcap.describing import moderation
from dropcap.domain import texts
from dropcap.domain.analysis import ENGLISH, Description, Verdict
from dropcap.domain.gemini_response import GeminiResponse
from dropcap.errors import TransientError

KEY_FIELD = "request_key"  # in a response of a batch
MAX_RESPONSE = 32_768  # characters of JSON: all fields at their limits with every character escaped
MAX_CAPTION, MAX_DESCRIPTION, MAX_ALT_TEXT, MAX_TEXT, MAX_TAGS, MAX_TAG = 100, 1000, 150, 2000, 20, 40
# Control characters (PostgreSQL refuses NUL), lone surrogates (not UTF-8), and bidirectional control
# characters, which can make a text look different from its content (CVE-2021-42574).
UNWANTED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")

# Gemini sometimes puts JSON into a Markdown fence, despite MIME type and schema (getzep/graphiti #1281,
# 2026-02-28; langgenius/dify #31966, 2026-02-05).
FENCE = re.compile(r"\s*```\w*\s*(.*?)(```\s*)?", re.DOTALL)


class NotDescribed(TransientError):
    """Gemini did not describe the picture.

    `problem` is one line for the record, without the key and without text from the server except its status
    codes.

    retry_now      an immediate retry may succeed, after `retry_after_s` if the server asks for a pause
    retryable      a later try may succeed, because the picture is not the cause
    unbilled       Google does not charge for the request
    answered       Gemini is available and answered the request
    quota          a quota is used up
    verdict        the safety verdict of a response without a description
    response       a response that blocks the picture, which is cached like a description
    """

    def __init__(
        self,
        problem: str,
        *,
        retry_now: bool = False,
        retry_after_s: float = 0.0,
        unbilled: bool = False,
        answered: bool = False,
        retryable: bool = True,
    ) -> None:
        super().__init__(problem)
        self.quota = False
        self.verdict: Verdict | None = None
        self.response: GeminiResponse | None = None
        self.problem = problem
        self.retry_now = retry_now
        self.retry_after_s = retry_after_s
        self.unbilled = unbilled
        self.answered = answered
        self.retryable = retryable

    def append(self, text: str) -> "NotDescribed":
        """Append this text to the problem, and return the error."""
        self.problem += text
        self.args = (self.problem,)
        return self


class InvalidResponse(NotDescribed):
    """An invalid response, for which the next one may be valid.

    Empty responses with STOP are intermittent (google-gemini/deprecated-generative-ai-python #744,
    2025-08-18; BerriAI/litellm #24442, 2026-03-23), and so is RECITATION (google/generative-ai-docs #257,
    2024-06-21, and #518, 2024-09-19).
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem, retry_now=True, answered=True)


def parse(
    response: GeminiResponse, model: str, language: str = ENGLISH, *, judged: bool = False
) -> Description:
    """Return the response as a Description, without unknown fields; if `judged`, a verdict is required.

    Raises NotDescribed with the problem, and with the safety verdict if there is one.
    """
    try:
        description = _described(_fields(response), response, model, language)
        if judged and description.safety and description.safety.level == moderation.UNKNOWN:
            raise InvalidResponse("Gemini's answer is malformed: it has no safety level")
        return description
    except NotDescribed as failed:
        failed.verdict = moderation.read(None, response.ratings, response.blocked or response.finish)
        failed.response = response if failed.verdict.blocked else None
        raise


def request_key(response: GeminiResponse) -> str:
    """Return the key of the request of a batch that this response answers; empty if it has none."""
    try:
        return str(_fields(response).get(KEY_FIELD, ""))
    except NotDescribed:
        return ""


def _fields(response: GeminiResponse) -> dict[str, Any]:
    """Return the fields of a valid response."""
    if response.blocked:
        raise NotDescribed(f"Gemini blocked the picture ({response.blocked})", answered=True, retryable=False)
    if response.finish not in ("STOP", ""):
        stopped = InvalidResponse(f"Gemini stopped early ({response.finish})")
        stopped.retry_now = stopped.retryable = response.finish not in moderation.BLOCKED
        raise stopped
    if not response.text:
        raise InvalidResponse("Gemini's answer is empty")
    if len(response.text) > MAX_RESPONSE:
        raise InvalidResponse(f"Gemini's answer is malformed: {len(response.text)} characters are too many")
    fenced = FENCE.fullmatch(response.text)
    try:
        fields = json.loads(fenced[1] if fenced else response.text)
    except (ValueError, RecursionError) as wrong:
        raise InvalidResponse("Gemini's answer is malformed: it is not JSON") from wrong
    if not isinstance(fields, dict):
        raise InvalidResponse("Gemini's answer is malformed: it is not an object")
    return fields


def _described(fields: dict[str, Any], response: GeminiResponse, model: str, language: str) -> Description:
    for name in ("description", "alt_text", "text"):
        if not isinstance(fields.get(name), str):
            raise InvalidResponse(f"Gemini's answer is malformed: {name} is not a text")
    tags = fields.get("tags")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise InvalidResponse("Gemini's answer is malformed: tags is not a list of texts")
    description = _line(fields["description"], MAX_DESCRIPTION)
    alt_text = _cut(texts.without_preamble(_line(fields["alt_text"], 2 * MAX_ALT_TEXT)), MAX_ALT_TEXT)
    caption = fields.get("caption")  # optional: the rest is used without it
    if not description or not alt_text:
        raise InvalidResponse("Gemini's answer is malformed: description or alt_text is empty")
    lines = (" ".join(line.split()) for line in UNWANTED.sub(" ", fields["text"]).split("\n"))
    return Description(
        description=description,
        alt_text=alt_text,
        tags=tuple(dict.fromkeys(filter(None, (_line(tag, MAX_TAG) for tag in tags))))[:MAX_TAGS],
        text=_cut("\n".join(filter(None, lines)), MAX_TEXT),
        model=model,
        version=_line(response.version, 100),
        caption=_line(caption, MAX_CAPTION) if isinstance(caption, str) else "",
        language=language,
        safety=moderation.read(fields.get(moderation.FIELD), response.ratings, response.finish),
    )


def _line(text: str, limit: int) -> str:
    """Return one line of at most `limit` characters; longer text is cut: models don't count characters."""
    return _cut(" ".join(UNWANTED.sub(" ", text).split()), limit)


def _cut(text: str, limit: int) -> str:
    """Cut the text to at most `limit` characters with an ellipsis, after a word if one ends in the second
    half."""
    if len(text) <= limit:
        return text
    end = text[:limit].rfind(" ")  # includes the place of the ellipsis
    return text[: end if end > limit // 2 else limit - 1].rstrip() + "…"

"""Parsers of the values of settings. Each raises ValueError for a value that is not allowed.

`number`, `one_of`, `bucket`, `url` and `text` return what is allowed, for the documentation, and the parser.
"""

import base64
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dropcap import database_url
from dropcap.domain.naming import as_words
from dropcap.domain.upload import language_tag

Parser = Callable[[str], Any]

# cloud.google.com/storage/docs/buckets#naming
BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
HOST_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
OAUTH_CLIENT = re.compile(r"[a-z0-9-]+\.apps\.googleusercontent\.com")
# Of Cloud Run, or behind a load balancer: docs.cloud.google.com/iap/docs/signed-headers-howto (2026-11)
IAP_AUDIENCE = re.compile(
    r"/projects/\d+/(locations/[a-z0-9-]+/services/[a-z0-9-]+|global/backendServices/\d+)"
)
PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")  # cloud.google.com/resource-manager
TOPIC = re.compile(rf"projects/{PROJECT.pattern}/topics/[A-Za-z][A-Za-z0-9._~+%-]{{2,254}}")
SECRET_BYTES = (24, 64)  # minimum and maximum length of a secret: standardwebhooks.com
# postgresql.org/docs/18/sql-syntax-lexical.html: an identifier has at most 63 bytes; pg_ is PostgreSQL's own
SCHEMA_NAME = re.compile(r"(?!pg_|(public|information_schema)$)[a-z_][a-z0-9_]{0,62}")
PATTERNS = "patterns with * and ?, separated by commas"


def number(low: float, high: float) -> tuple[str, Parser]:
    """Accept whole numbers if `low` is one, else decimals."""
    kind = type(low)

    def parse(value: str) -> float:
        parsed = kind(value)
        if not low <= parsed <= high:
            raise ValueError(value)
        return parsed

    shown = f"from {low} to {high}".replace(".0 ", " ")
    return ("a whole number " if kind is int else "a number ") + shown, parse


def one_of(*words: str) -> tuple[str, Parser]:
    def parse(value: str) -> str:
        if value not in words:
            raise ValueError(value)
        return value

    return " or ".join(words), parse


def _matching(pattern: re.Pattern[str]) -> Parser:
    def parse(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(value)
        return value

    return parse


def bucket(optional: bool = False) -> tuple[str, Parser]:
    return "a bucket name, without gs://" + (", or empty" if optional else ""), _matching(BUCKET_NAME)


def as_audience(value: str) -> tuple[str, ...]:
    words = as_words(value)
    same_kind = any(all(map(kind.fullmatch, words)) for kind in (OAUTH_CLIENT, IAP_AUDIENCE))
    if not same_kind and not (len(words) == 1 and PROJECT.fullmatch(words[0])):
        raise ValueError(value)
    return words


def as_hosts(value: str) -> tuple[str, ...]:
    words = as_words(value.lower())
    if not all(map(HOST_NAME.fullmatch, words)):
        raise ValueError(value)
    return words


def url(*schemes: str) -> tuple[str, Parser]:
    def parse(value: str) -> str:
        if urlsplit(value).scheme not in schemes:
            raise ValueError(value)
        return value

    return "a URL that begins with " + " or ".join(f"{scheme}://" for scheme in schemes), parse


def as_events(value: str) -> str:
    parts = urlsplit(value)  # accepts HTTPS:// and spaces, so the pattern below is needed, too
    plain = re.fullmatch(r"https?://\S+", value)
    safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in database_url.LOCAL)
    webhook = plain and safe and parts.hostname and not parts.fragment and "@" not in parts.netloc
    if value and not webhook and not TOPIC.fullmatch(value):
        raise ValueError(value)
    return value


def as_secrets(value: str) -> tuple[str, ...]:
    words = as_words(value)
    for word in words:
        key = base64.b64decode(word.removeprefix("whsec_"), validate=True)
        if not word.startswith("whsec_") or not SECRET_BYTES[0] <= len(key) <= SECRET_BYTES[1]:
            raise ValueError(word)
    return words


def as_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, OSError) as unknown:
        raise ValueError(value) from unknown
    return value


def as_language(value: str) -> str:
    tag = language_tag(value)
    if not tag:
        raise ValueError(value)
    return tag


def as_postgres(value: str) -> str:
    if value:
        database_url.read(value)
    return value


def without_space(raw: str) -> str:
    """Return a secret without surrounding white space: `echo` and editors leave a newline at the end.

    Raises ValueError if white space remains inside, except next to commas: the secret was pasted wrongly.
    """
    value = raw.strip("\ufeff").strip()  # Windows tools write a byte order mark first
    if re.search(r"[^\s,]\s+[^\s,]", value):
        raise ValueError
    return value


as_schema = _matching(SCHEMA_NAME)


def text(allowed: str = "text") -> tuple[str, Parser]:
    return allowed, str

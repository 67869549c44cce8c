"""Every setting: read once from environment variables, checked at start, documented in one table.

A field's environment variable is its name in capitals. `python -m dropcap.settings` prints the table
that docs/settings.md shows.
"""

import base64
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from math import ceil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dropcap import database_url
from dropcap.database_url import LOCAL as LOCAL
from dropcap.domain.naming import FORMATS, Side, as_formats, as_layout, as_sizes, as_words
from dropcap.domain.upload import language_tag
from dropcap.errors import SettingsError

BUCKET_NAME = re.compile(
    r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"
)  # cloud.google.com/storage/docs/buckets#naming

HOST_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
OAUTH_CLIENT = re.compile(r"[a-z0-9-]+\.apps\.googleusercontent\.com")
# docs.cloud.google.com/iap/docs/signed-headers-howto (2026-11): of Cloud Run, or behind a load balancer
IAP_AUDIENCE = re.compile(
    r"/projects/\d+/(locations/[a-z0-9-]+/services/[a-z0-9-]+|global/backendServices/\d+)"
)
PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")  # cloud.google.com/resource-manager
TOPIC = re.compile(rf"projects/{PROJECT.pattern}/topics/[A-Za-z][A-Za-z0-9._~+%-]{{2,254}}")
SECRET_BYTES = (24, 64)  # standardwebhooks.com: of a secret
SCHEMA = "dropcap"
# postgresql.org/docs/18/sql-syntax-lexical.html: an identifier has at most 63 bytes; pg_ is PostgreSQL's own
SCHEMA_NAME = re.compile(r"(?!pg_|(public|information_schema)$)[a-z_][a-z0-9_]{0,62}")


def _setting(
    default: Any, meaning: str, allowed: str, parse: Callable[[str], Any], *, secret: bool = False
) -> Any:
    """A field; `parse` raises ValueError for what `allowed` does not allow. A secret is never shown."""
    metadata = {"meaning": meaning, "allowed": allowed, "parse": parse}
    return field(default=default, repr=not secret, metadata=metadata)


def _number(low: float, high: float, kind: type[int] | type[float] = int) -> tuple[str, Callable[[str], Any]]:
    def parse(value: str) -> int | float:
        number = kind(value)
        if not low <= number <= high:
            raise ValueError(value)
        return number

    word = "a whole number" if kind is int else "a number"
    return f"{word} from {low} to {high}", parse


def _one_of(*words: str) -> tuple[str, Callable[[str], Any]]:
    def parse(value: str) -> str:
        if value not in words:
            raise ValueError(value)
        return value

    return " or ".join(words), parse


def _bucket(optional: bool = False) -> tuple[str, Callable[[str], Any]]:
    def parse(value: str) -> str:
        if not (optional and not value) and not BUCKET_NAME.fullmatch(value):
            raise ValueError(value)
        return value

    return "a bucket name, without gs://" + (", or empty" if optional else ""), parse


def _audience(value: str) -> tuple[str, ...]:
    words = as_words(value)
    alike = any(all(map(kind.fullmatch, words)) for kind in (OAUTH_CLIENT, IAP_AUDIENCE))
    if not alike and not (len(words) == 1 and PROJECT.fullmatch(words[0])):
        raise ValueError(value)
    return words


def _hosts(value: str) -> tuple[str, ...]:
    words = as_words(value.lower())
    if not all(map(HOST_NAME.fullmatch, words)):
        raise ValueError(value)
    return words


def _url(*schemes: str) -> tuple[str, Callable[[str], Any]]:
    def parse(value: str) -> str:
        if value and urlsplit(value).scheme not in schemes:
            raise ValueError(value)
        return value

    return "a URL that begins with " + " or ".join(f"{scheme}://" for scheme in schemes), parse


def _events(value: str) -> str:
    parts = urlsplit(value)  # which lets HTTPS:// and spaces pass, and others then take it for a topic
    plain = re.fullmatch(r"https?://\S+", value)
    safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL)
    webhook = plain and safe and parts.hostname and not parts.fragment and "@" not in parts.netloc
    if value and not webhook and not TOPIC.fullmatch(value):
        raise ValueError(value)
    return value


def _webhook_secrets(value: str) -> tuple[str, ...]:
    words = as_words(value)
    for word in words:
        key = base64.b64decode(word.removeprefix("whsec_"), validate=True)
        if not word.startswith("whsec_") or not SECRET_BYTES[0] <= len(key) <= SECRET_BYTES[1]:
            raise ValueError(word)
    return words


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, OSError) as unknown:
        raise ValueError(value) from unknown
    return value


def _language(value: str) -> str:
    tag = language_tag(value)
    if not tag:
        raise ValueError(value)
    return tag


def _postgres(value: str) -> str:
    if value:
        database_url.read(value)
    return value


def _secret(raw: str) -> str:
    """Return a secret without surrounding white space: `echo` and editors leave a newline at the end.

    Raises ValueError if white space remains inside, except next to commas: the secret was pasted wrongly.
    """
    value = raw.strip("\ufeff").strip()  # Windows tools write a byte order mark first
    if re.search(r"[^\s,]\s+[^\s,]", value):
        raise ValueError
    return value


def _schema(value: str) -> str:
    if not SCHEMA_NAME.fullmatch(value):
        raise ValueError(value)
    return value


def _text(value: str) -> str:
    return value


MODEL_FOLDER = Path(__file__).parent.parent / "model"
# US$ for a million tokens in and out, as published: ai.google.dev/gemini-api/docs/pricing, 2026-10-07.
PRICES = {"gemini-3.5-flash-lite": (0.30, 2.50)}
# Of one request, at most: a picture of 800 px (media-resolution says 1,120; older models count tiles of 258),
# the prompt, of whose bytes no token has less than one, and what gemini.py lets a model answer.
MOST_INPUT_TOKENS, MOST_OUTPUT_TOKENS = 8192, 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of the functions. Build it with `Settings.read`."""

    uploads_bucket: str = _setting("dropcap-uploads", "bucket that is watched", *_bucket())
    pictures_bucket: str = _setting("dropcap-pictures", "bucket for the resized pictures", *_bucket())
    quarantine_bucket: str = _setting(
        "dropcap-quarantine", "bucket for uploads that can't be used", *_bucket()
    )
    pictures_url: str = _setting(
        "",
        "address under which apps reach the published pictures, for the HTML and Markdown that the gallery "
        "copies; empty: that of PICTURES_BUCKET at Cloud Storage",
        *_url("https", "http"),
    )
    archive_bucket: str = _setting("", "bucket for sources where SOURCE=archive", *_bucket(optional=True))
    source: str = _setting(
        "delete", "what becomes of a source that is done", *_one_of("delete", "keep", "archive")
    )
    include: tuple[str, ...] = _setting(
        ("*",), "object names to take, as patterns", "patterns with * and ?, separated by commas", as_words
    )
    exclude: tuple[str, ...] = _setting(
        (), "object names to leave alone, as patterns", "patterns with * and ?, separated by commas", as_words
    )
    sizes: tuple[Side, ...] = _setting(
        (1600, 800, 200),
        "longest sides to publish, px, or boxes to fit in, as 200x100",
        "1 to 10 numbers from 1 to 8192, or two with an x between, separated by commas",
        as_sizes,
    )
    format: tuple[str, ...] = _setting(
        ("webp",),
        "formats to publish; original: that of the source, or webp where it is none of these",
        f"{', '.join(FORMATS)}, one or several, separated by commas",
        as_formats,
    )
    animated: int = _setting(
        0,
        "1: moving GIF and WebP files also move in the published webp, unless SAFETY is set",
        *_number(0, 1),
    )
    layout: str = _setting(
        "id",
        "names of the published pictures: `<upload id>/800.webp`; with beside, or a folder, each is copied "
        "to `ana/photo_800.webp`, or `ana/thumbs/photo_800.webp`, as well",
        "id, beside, or a folder that ends in a slash, as thumbs/",
        as_layout,
    )
    quality: int = _setting(80, "quality of the published pictures", *_number(1, 100))
    cache_control: str = _setting(
        "private, max-age=31536000, immutable", "Cache-Control of the published pictures", "text", _text
    )
    auth: str = _setting(
        "iam",
        "who names the user over HTTP: a back end that IAM lets in, or an ID token; iap: in the gallery "
        "Identity-Aware Proxy does, elsewhere it is as iam",
        *_one_of("iam", "token", "iap"),
    )
    auth_audience: tuple[str, ...] = _setting(
        (),
        "whom ID tokens must be made out to, with AUTH=token; with AUTH=iap, the service that Identity-Aware "
        "Proxy's assertions must be for, which `make deploy` sets",
        "Google OAuth client ids, separated by commas, or one Firebase project id; with AUTH=iap "
        "/projects/NUMBER/locations/REGION/services/NAME",
        _audience,
    )
    auth_certs_url: str = _setting("", "other address of the issuer's certificates", *_url("https"))
    hosts: tuple[str, ...] = _setting(
        (),
        "host names that the functions answer to with AUTH=iam (sweep and on_upload: always), besides "
        "localhost and IP addresses; on Cloud Run also its own name, and if empty every name",
        "host names without port, separated by commas",
        _hosts,
    )
    sign_in_url: str = _setting(
        "",
        "page that signs people in for the gallery and posts their `id_token`; empty: Google's, where "
        "AUTH_AUDIENCE is an OAuth client id",
        *_url("https"),
    )
    max_per_hour: int = _setting(
        300,
        "pictures an hour that each user may send to analyze or drop on the gallery's page; 0: any number",
        *_number(0, 1_000_000),
    )
    max_mb: int = _setting(32, "largest source, MiB", *_number(1, 512))
    max_megapixels: int = _setting(100, "largest source, megapixels", *_number(1, 1000))
    max_side: int = _setting(50_000, "longest side of a source, px", *_number(1, 65_535))
    memory_limit_mb: int = _setting(
        512, "memory of the instance where no cgroup limit is lower, MiB", *_number(128, 32_768)
    )
    memory_warning_mb: int = _setting(
        400, "resident memory that is worth a warning, MB", *_number(64, 32_768)
    )
    database_url: str = _setting(
        "",
        "PostgreSQL: postgresql://user:password@host/name",
        "a URL as libpq reads it, without spaces; docs/deploy.md lists its options",
        _postgres,
        secret=True,
    )
    database_schema: str = _setting(
        SCHEMA,
        "PostgreSQL schema of all tables; created if missing; nothing outside it is changed",
        "1 to 63 characters of a-z, 0-9 and _, no digit first; not public, information_schema or pg_...",
        _schema,
    )
    database_connections: int = _setting(
        4,
        "maximum number of PostgreSQL connections of an instance; they are opened on demand, so an instance "
        "that handles one request at a time has one",
        *_number(1, 100),
    )
    database_timeout_s: float = _setting(10.0, "longest wait for PostgreSQL, s", *_number(0.1, 300, float))
    storage_timeout_s: float = _setting(
        60.0, "longest wait for Cloud Storage, repetitions included, s", *_number(0.1, 300, float)
    )
    lease_s: int = _setting(
        300,
        "longest that a stage may take, s, or its process ends and the next delivery takes over; "
        "shorter than the function's timeout",
        *_number(1, 86_400),
    )
    timeout_s: int = _setting(
        500,
        "longest time for a picture, not counting the wait for its turn, s; then its process ends; shorter "
        "than the function's timeout",
        *_number(1, 3600),
    )
    max_deaths: int = _setting(
        3, "times that a picture may take its instance down; then it is quarantined", *_number(1, 10)
    )
    sweep_s: int = _setting(240, "seconds after which a sweep begins no other picture", *_number(0, 3600))
    time_zone: str = _setting("UTC", "zone of uploads without a tz of their own", "an IANA time zone", _zone)
    language: str = _setting(
        "en",
        "language in which Gemini describes uploads that name none of their own in their metadata, as "
        "`language`",
        "a language, with script and region where it needs them: de, pt-BR, zh-Hant",
        _language,
    )
    embed_words: str = _setting(
        "on",
        "caption, alt text, description and tags in the published pictures, as XMP",
        *_one_of("on", "off"),
    )
    safety: str = _setting(
        "off",
        "highest level of what is unsafe in a picture that is published, by Gemini's verdict; off: none is "
        "asked for",
        *_one_of("off", "none", "low", "medium", "high"),
    )
    safety_unknown: str = _setting(
        "hold",
        "what becomes of a picture without a verdict, unless SAFETY=off",
        *_one_of("hold", "publish"),
    )
    events: str = _setting(
        "",
        "who is told what became of each upload: a webhook, or a topic of Pub/Sub; empty: nobody",
        "https://... without a password (http:// on this machine), or projects/PROJECT/topics/TOPIC",
        _events,
        secret=True,
    )
    events_secret: tuple[str, ...] = _setting(
        (),
        "what a webhook's events are signed with; two, while one takes over from the other",
        "whsec_ and 24 to 64 bytes in base64; several separated by commas",
        _webhook_secrets,
        secret=True,
    )
    events_timeout_s: float = _setting(5.0, "longest wait for who is told, s", *_number(0.1, 30, float))
    events_days: int = _setting(
        7, "days after which what nobody takes is given up, and what was told is forgotten", *_number(1, 365)
    )
    retention_days: int = _setting(
        365,
        "days until the rows of rejected and deleted uploads, stored answers of Gemini, undelivered events "
        "and daily costs are deleted",
        *_number(32, 36_500),  # longer than Pub/Sub retains an event: prune.py
    )
    receipts: int = _setting(0, "1: keep a row for each upload that proves what became of it", *_number(0, 1))
    gemini_api_key: str = _setting(
        "", "key of the Gemini API; empty: BLIP alone", "text without spaces", _text, secret=True
    )
    gemini_model: str = _setting("gemini-3.5-flash-lite", "Gemini model", "text", _text)
    gemini_sdk: str = _setting(
        "google-genai",
        "Python package that talks to Gemini",
        *_one_of("google-genai", "google-generativeai"),
    )
    gemini_endpoint: str = _setting("", "other address of the Gemini API", *_url("http", "https"))
    gemini_timeout_s: float = _setting(
        20.0, "longest wait for one answer of Gemini, s", *_number(0.1, 300, float)
    )
    gemini_attempts: int = _setting(3, "tries at Gemini, at most", *_number(1, 10))
    gemini_input_price: float = _setting(
        0.0,
        "US$ for a million tokens that Gemini reads; 0 with the other price 0: the published one, if known",
        *_number(0, 1000, float),
    )
    gemini_output_price: float = _setting(
        0.0, "US$ for a million tokens that Gemini writes, thoughts included", *_number(0, 1000, float)
    )
    daily_calls: int = _setting(
        0, "requests to Gemini a day of TIME_ZONE, at most; 0: any number", *_number(0, 1_000_000_000)
    )
    daily_money: float = _setting(
        0.0, "US$ for Gemini a day of TIME_ZONE, at most; 0: any sum", *_number(0, 1_000_000, float)
    )
    operators: tuple[str, ...] = _setting(
        (),
        "who may see what all costs, with AUTH=token; with AUTH=iam all whom IAM lets in",
        "`sub`s of ID tokens, separated by commas",
        as_words,
    )
    model_folder: Path = _setting(MODEL_FOLDER, "folder of the BLIP model", "a folder", Path)
    blip: str = _setting(
        "required", "optional: where BLIP fails, Gemini alone is enough", *_one_of("required", "optional")
    )
    caption_prompt: str = _setting("", "text that a caption begins with", "text", _text)
    caption_beams: int = _setting(1, "beams of the search; 1 is greedy", *_number(1, 8))
    caption_threads: int = _setting(1, "threads of BLIP; as many as the instance has vCPUs", *_number(1, 64))

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Read the settings from environment variables; one that is empty or white space counts as not set.

        Raises SettingsError with one line that names the variable, its value and what is allowed.
        """
        values = {}
        for item in fields(cls):
            raw = environment.get(item.name.upper(), "")
            if not raw.strip():
                continue
            try:
                values[item.name] = item.metadata["parse"](raw if item.repr else _secret(raw))
            except ValueError:
                shown = repr(raw) if item.repr else "***"
                raise SettingsError(
                    f"{item.name.upper()}={shown} is not allowed: it must be {item.metadata['allowed']}."
                ) from None  # its text may contain a secret
        settings = cls(**values)
        settings._check_together()
        return settings

    def _check_together(self) -> None:
        """What no single setting can show: a loop, a missing partner, a wait that is longer than it may be.

        A function whose outputs trigger it cost a user of a peer 34.9 million executions
        (firebase/extensions #3189), so no output bucket may be the watched one.
        """
        if self.source == "archive" and not self.archive_bucket:
            raise SettingsError("ARCHIVE_BUCKET='' is not allowed with SOURCE=archive: name a bucket.")
        if self.auth != "iam" and not self.auth_audience:
            raise SettingsError(
                f"AUTH_AUDIENCE='' is not allowed with AUTH={self.auth}: "
                "without it, a token made out to any other app would be let in."
            )
        audience = ",".join(self.auth_audience)
        if self.auth != "iam" and audience.startswith("/") != (self.auth == "iap"):
            wanted = "/projects/NUMBER/locations/REGION/services/NAME" if self.auth == "iap" else "an app's"
            raise SettingsError(
                f"AUTH_AUDIENCE={audience!r} is not allowed with AUTH={self.auth}: it must be {wanted}."
            )
        if self.events.startswith("http") and not self.events_secret:
            raise SettingsError(
                "EVENTS_SECRET='' is not allowed with a webhook: without it, anybody could tell it anything."
            )
        for name in ("pictures_bucket", "quarantine_bucket", "archive_bucket"):
            if getattr(self, name) == self.uploads_bucket:
                raise SettingsError(
                    f"{name.upper()}={self.uploads_bucket!r} is not allowed: "
                    "it must differ from UPLOADS_BUCKET, or every output would trigger the function again."
                )
        if self.gemini_api_key and self.lease_s <= self.gemini_s:
            raise SettingsError(
                f"LEASE_S='{self.lease_s}' is not allowed: it must be more than the {self.gemini_s:g} s that "
                "Gemini may take, (2 x GEMINI_ATTEMPTS - 1) x GEMINI_TIMEOUT_S, or to wait is to hang."
            )
        if self.daily_money and not self.prices:
            raise SettingsError(
                f"DAILY_MONEY='{self.daily_money:g}' is not allowed: what {self.gemini_model} costs is not "
                "known: set GEMINI_INPUT_PRICE and GEMINI_OUTPUT_PRICE."
            )
        if self.daily_money and self.daily_money < self.usd(MOST_INPUT_TOKENS, MOST_OUTPUT_TOKENS):
            least = self.usd(MOST_INPUT_TOKENS, MOST_OUTPUT_TOKENS)
            raise SettingsError(
                f"DAILY_MONEY='{self.daily_money:g}' is not allowed: it must be at least the {least:.4f} US$ "
                "that one request may cost, or none could ever be made."
            )
        if self.memory_warning_mb > self.memory_limit_mb:
            raise SettingsError(
                f"MEMORY_WARNING_MB='{self.memory_warning_mb}' is not allowed: "
                f"it must be at most MEMORY_LIMIT_MB ({self.memory_limit_mb})."
            )

    def check_start(self) -> None:
        """What only a function knows that is about to start, with its secrets. Raises SettingsError."""
        if self.safety != "off" and self.safety_unknown == "hold" and not self.gemini_api_key.strip():
            raise SettingsError(
                f"SAFETY={self.safety!r} is not allowed without GEMINI_API_KEY: nobody could give a verdict, "
                "so every picture would be held. Set the key, or SAFETY_UNKNOWN=publish."
            )

    @property
    def gemini_s(self) -> float:
        """The longest that Gemini may take for a picture, s: see gemini.Describer.ask."""
        return (2 * self.gemini_attempts - 1) * self.gemini_timeout_s

    @property
    def has_budget(self) -> bool:
        """Whether there is a cap: without one, nothing is counted in the database."""
        return bool(self.daily_calls or self.daily_money)

    @property
    def prices(self) -> tuple[float, float] | None:
        """US$ for a million tokens in and out, as told or published; None where nobody has told."""
        if self.gemini_input_price or self.gemini_output_price:
            return self.gemini_input_price, self.gemini_output_price
        return PRICES.get(self.gemini_model)

    def usd(self, input_tokens: int, output_tokens: int) -> float:
        """What so many tokens cost, US$, to the millionth and rounded up; 0 where no price is known."""
        read, written = self.prices or (0.0, 0.0)
        return ceil(round(input_tokens * read + output_tokens * written, 3)) / 1e6


def table() -> str:
    """The settings as a Markdown table, one row a setting."""
    rows = ["| variable | default | meaning | allowed |", "|---|---|---|---|"]
    for item in fields(Settings):
        default = item.default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
        shown = "the folder `model`" if item.name == "model_folder" else f"`{shown}`" if shown else "empty"
        rows.append(
            f"| `{item.name.upper()}` | {shown} | {item.metadata['meaning']} | {item.metadata['allowed']} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())

"""All settings of the functions: one table, read from environment variables and checked at start.

The environment variable of a field is its name in capitals. `python -m dropcap.settings` prints the table
of docs/settings.md.
"""

import datetime as dt
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import ceil
from pathlib import Path
from typing import Any

from dropcap.domain import gemini_prices
from dropcap.domain.naming import FORMATS, Side, as_formats, as_layout, as_sizes, as_words, longest
from dropcap.errors import SettingsError
from dropcap.setting_parsers import (
    PATTERNS,
    Parser,
    as_audience,
    as_events,
    as_hosts,
    as_language,
    as_postgres,
    as_schema,
    as_secrets,
    as_zone,
    bucket,
    number,
    one_of,
    text,
    url,
    without_space,
)

SCHEMA = "dropcap"
GEMINI_SIDE = 800  # px; the largest side sent to Gemini; a product decision
BLIP_SIDE = 400  # px; BLIP-base takes 384 (its preprocessor_config.json)
MODEL_FOLDER = Path(__file__).parent.parent / "model"
# Upper limits for one request: a picture of 800 px (at most 1,120 by PICTURE_TOKENS; older models count about
# 2,048) and the prompt, with at most one token per byte; and the output limit, which prompt.py explains.
MOST_INPUT_TOKENS, MOST_OUTPUT_TOKENS = 8192, 5120
# Tokens of a picture by GEMINI_MEDIA_RESOLUTION, with Gemini 3; without the parameter Google uses high:
# ai.google.dev/gemini-api/docs/media-resolution, as of 2026-11.
PICTURE_TOKENS = {"low": 280, "medium": 560, "high": 1120}


def _setting(default: Any, meaning: str, allowed: str, parser: Parser, *, secret: bool = False) -> Any:
    """Return a field whose values `parser` reads. A secret is never shown."""
    metadata = {"meaning": meaning, "allowed": allowed, "parser": parser}
    return field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of the functions. Build it with `Settings.read`."""

    uploads_bucket: str = _setting("dropcap-uploads", "bucket whose uploads are processed", *bucket())
    pictures_bucket: str = _setting("dropcap-pictures", "bucket of the published pictures", *bucket())
    quarantine_bucket: str = _setting(
        "dropcap-quarantine", "bucket of uploads that can't be processed", *bucket()
    )
    pictures_url: str = _setting(
        "",
        "base URL of the published pictures in the HTML and Markdown that the gallery copies; empty: that "
        "of PICTURES_BUCKET at Cloud Storage",
        *url("https", "http"),
    )
    archive_bucket: str = _setting(
        "", "bucket of processed sources with SOURCE=archive", *bucket(optional=True)
    )
    source: str = _setting(
        "delete", "what happens to a source after it is processed", *one_of("delete", "keep", "archive")
    )
    include: tuple[str, ...] = _setting(
        ("*",), "names of objects to process, as patterns", PATTERNS, as_words
    )
    exclude: tuple[str, ...] = _setting((), "names of objects to ignore, as patterns", PATTERNS, as_words)
    sizes: tuple[Side, ...] = _setting(
        (1600, 800, 200),
        "longest sides of the published pictures, px, or boxes that they fit in, as 200x100",
        "1 to 10 numbers from 1 to 8192, or two with an x between, separated by commas",
        as_sizes,
    )
    format: tuple[str, ...] = _setting(
        ("webp",),
        "formats of the published pictures; original: that of the source, or webp if it is none of these",
        f"{', '.join(FORMATS)}, one or several, separated by commas",
        as_formats,
    )
    animated: int = _setting(
        0, "1: publish animated GIF and WebP files as animated webp, unless SAFETY is set", *number(0, 1)
    )
    layout: str = _setting(
        "id",
        "names of the published pictures: `<upload id>/800.webp`; with beside or a folder, each is also "
        "copied to `ana/photo_800.webp` or `ana/thumbs/photo_800.webp`",
        "id, beside, or a folder that ends in a slash, as thumbs/",
        as_layout,
    )
    quality: int = _setting(80, "encoding quality of the published pictures", *number(1, 100))
    cache_control: str = _setting(
        "private, max-age=31536000, immutable", "Cache-Control of the published pictures", *text()
    )
    auth: str = _setting(
        "iam",
        "how the user is identified over HTTP: iam: by a back end that IAM admits; token: by an ID token; "
        "iap: by Identity-Aware Proxy in the gallery, elsewhere as iam",
        *one_of("iam", "token", "iap"),
    )
    auth_audience: tuple[str, ...] = _setting(
        (),
        "audience of ID tokens with AUTH=token; with AUTH=iap, of Identity-Aware Proxy's assertions, which "
        "`make deploy` sets",
        "Google OAuth client ids, separated by commas, or one Firebase project id; with AUTH=iap "
        "/projects/NUMBER/locations/REGION/services/NAME",
        as_audience,
    )
    auth_certs_url: str = _setting(
        "", "URL of the token issuer's certificates; empty: the issuer's own", *url("https")
    )
    hosts: tuple[str, ...] = _setting(
        (),
        "host names that the functions answer to with AUTH=iam (sweep and on_upload: always), besides "
        "localhost and IP addresses; on Cloud Run also its own name; empty: every name",
        "host names without port, separated by commas",
        as_hosts,
    )
    sign_in_url: str = _setting(
        "",
        "page that signs people in to the gallery and posts their `id_token`; empty: Google's, if "
        "AUTH_AUDIENCE is an OAuth client id",
        *url("https"),
    )
    max_per_hour: int = _setting(
        300,
        "pictures that each user may send per hour to analyze or through the gallery; 0: no limit",
        *number(0, 1_000_000),
    )
    max_mb: int = _setting(32, "maximum size of a source, MiB", *number(1, 512))
    max_megapixels: int = _setting(100, "maximum size of a source, megapixels", *number(1, 1000))
    max_side: int = _setting(50_000, "maximum side of a source, px", *number(1, 65_535))
    memory_limit_mb: int = _setting(
        512, "memory of the instance, MiB; a lower cgroup limit takes precedence", *number(128, 32_768)
    )
    memory_warning_mb: int = _setting(
        400, "resident memory above which a stage logs a warning, MB", *number(64, 32_768)
    )
    database_url: str = _setting(
        "",
        "PostgreSQL: postgresql://user:password@host/name",
        "a URL as libpq reads it, without spaces; docs/deploy.md lists its options",
        as_postgres,
        secret=True,
    )
    database_schema: str = _setting(
        SCHEMA,
        "PostgreSQL schema of all tables; created if missing; nothing outside it is changed",
        "1 to 63 characters of a-z, 0-9 and _, no digit first; not public, information_schema or pg_...",
        as_schema,
    )
    database_connections: int = _setting(
        2,
        "maximum number of PostgreSQL connections of an instance; they are opened on demand, and a picture "
        "that waits for Gemini needs none",
        *number(1, 100),
    )
    database_timeout_s: float = _setting(10.0, "timeout of PostgreSQL, s", *number(0.1, 300))
    storage_timeout_s: float = _setting(
        60.0, "timeout of Cloud Storage, retries included, s", *number(0.1, 300)
    )
    lease_s: int = _setting(
        300,
        "maximum time of a stage, s; then its process ends and the next delivery takes over; less than the "
        "function's timeout",
        *number(1, 86_400),
    )
    timeout_s: int = _setting(
        500,
        "maximum time of a picture, without the wait for its turn, s; then its process ends; less than the "
        "function's timeout",
        *number(1, 3600),
    )
    max_deaths: int = _setting(
        3, "crashes of an instance after which the picture that causes them is quarantined", *number(1, 10)
    )
    sweep_s: int = _setting(240, "time after which sweep starts no other picture, s", *number(0, 3600))
    time_zone: str = _setting(
        "UTC", "time zone of uploads without `tz` in their metadata", "an IANA time zone", as_zone
    )
    language: str = _setting(
        "en",
        "language of Gemini's descriptions for uploads without `language` in their metadata",
        "a language, with script and region where it needs them: de, pt-BR, zh-Hant",
        as_language,
    )
    embed_words: str = _setting(
        "on",
        "embed caption, alt text, description and tags in the published pictures, as XMP",
        *one_of("on", "off"),
    )
    safety: str = _setting(
        "off",
        "highest level of unsafe content, as judged by Gemini, at which a picture is published; off: no "
        "verdict is requested",
        *one_of("off", "none", "low", "medium", "high"),
    )
    safety_unknown: str = _setting(
        "hold", "what happens to a picture without a verdict, unless SAFETY=off", *one_of("hold", "publish")
    )
    events: str = _setting(
        "",
        "where the outcome of each upload is sent: a webhook or a Pub/Sub topic; empty: nowhere",
        "https://... without a password (http:// on this machine), or projects/PROJECT/topics/TOPIC",
        as_events,
        secret=True,
    )
    events_secret: tuple[str, ...] = _setting(
        (),
        "secret that signs a webhook's events; two during a rotation",
        "whsec_ and 24 to 64 bytes in base64; several separated by commas",
        as_secrets,
        secret=True,
    )
    events_timeout_s: float = _setting(5.0, "timeout of the webhook or topic, s", *number(0.1, 30))
    events_days: int = _setting(
        7,
        "days after which undelivered events are dead-lettered, and delivered ones deleted",
        *number(1, 365),
    )
    retention_days: int = _setting(
        365,
        "days after which rows of rejected and deleted uploads, cached responses of Gemini, undelivered "
        "events and daily costs are deleted",
        *number(32, 36_500),  # longer than Pub/Sub retains an event: prune.py
    )
    receipts: int = _setting(0, "1: keep a row for each upload that proves its outcome", *number(0, 1))
    gemini_api_key: str = _setting(
        "", "key of the Gemini API; empty: BLIP alone", *text("text without spaces"), secret=True
    )
    gemini_model: str = _setting("gemini-3.5-flash-lite", "Gemini model", *text())
    gemini_sdk: str = _setting(
        "google-genai", "Python package that calls Gemini", *one_of("google-genai", "google-generativeai")
    )
    gemini_media_resolution: str = _setting(
        "medium",
        "how closely Gemini looks at a picture: with Gemini 3, low costs 280 tokens, medium 560, high 1,120; "
        "google-generativeai can't send it, so Google's default, high, applies there",
        *one_of(*PICTURE_TOKENS),
    )
    gemini_batch: int = _setting(
        10,
        "number of waiting descriptions from which they are requested in a batch: at half the price, within "
        "24 hours; 0: never; google-generativeai has no batches",
        *number(0, 1_000_000),
    )
    gemini_endpoint: str = _setting("", "URL of the Gemini API; empty: Google's", *url("http", "https"))
    gemini_timeout_s: float = _setting(20.0, "timeout of a request to Gemini, s", *number(0.1, 300))
    gemini_attempts: int = _setting(3, "maximum number of requests to Gemini for a picture", *number(1, 10))
    gemini_input_price: float = _setting(
        0.0,
        "US$ per million input tokens of Gemini; 0 for both prices: the published ones, if known",
        *number(0.0, 1000),
    )
    gemini_output_price: float = _setting(
        0.0, "US$ per million output tokens of Gemini, thoughts included", *number(0.0, 1000)
    )
    daily_calls: int = _setting(
        0, "maximum number of requests to Gemini per day of TIME_ZONE; 0: no limit", *number(0, 1_000_000_000)
    )
    daily_money: float = _setting(
        0.0, "maximum cost of Gemini per day of TIME_ZONE, US$; 0: no limit", *number(0.0, 1_000_000)
    )
    operators: tuple[str, ...] = _setting(
        (),
        "users who may see the total costs with AUTH=token; with AUTH=iam everybody whom IAM admits",
        "`sub`s of ID tokens, separated by commas",
        as_words,
    )
    model_folder: Path = _setting(MODEL_FOLDER, "folder of the BLIP model", "a folder", Path)
    blip: str = _setting(
        "required", "optional: if BLIP fails, Gemini alone is enough", *one_of("required", "optional")
    )
    caption_prompt: str = _setting("", "text that each caption begins with", *text())
    caption_beams: int = _setting(1, "beams of the caption search; 1: greedy", *number(1, 8))
    caption_threads: int = _setting(1, "threads of BLIP: as many as the instance has vCPUs", *number(1, 64))

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Read the settings from environment variables; an empty or blank one counts as not set.

        Raises SettingsError with one line that names the variable, its value and what is allowed.
        """
        values = {}
        for item in fields(cls):
            raw = environment.get(item.name.upper(), "")
            if not raw.strip():
                continue
            try:
                values[item.name] = item.metadata["parser"](raw if item.repr else without_space(raw))
            except ValueError:
                shown = repr(raw) if item.repr else "***"
                raise SettingsError(
                    f"{item.name.upper()}={shown} is not allowed: it must be {item.metadata['allowed']}."
                ) from None  # its text may contain a secret
        settings = cls(**values)
        settings._check_together()
        return settings

    def _check_together(self) -> None:
        """Check settings that depend on each other. Raises SettingsError.

        No output bucket may be UPLOADS_BUCKET: a function that its own outputs triggered cost a user of a
        similar product 34.9 million executions (firebase/extensions #3189).
        """
        if self.source == "archive" and not self.archive_bucket:
            raise SettingsError("ARCHIVE_BUCKET='' is not allowed with SOURCE=archive: name a bucket.")
        if self.auth != "iam" and not self.auth_audience:
            raise SettingsError(
                f"AUTH_AUDIENCE='' is not allowed with AUTH={self.auth}: "
                "without it, tokens of any other app would be accepted."
            )
        audience = ",".join(self.auth_audience)
        if self.auth != "iam" and audience.startswith("/") != (self.auth == "iap"):
            wanted = "/projects/NUMBER/locations/REGION/services/NAME" if self.auth == "iap" else "an app's"
            raise SettingsError(
                f"AUTH_AUDIENCE={audience!r} is not allowed with AUTH={self.auth}: it must be {wanted}."
            )
        if self.events.startswith("http") and not self.events_secret:
            raise SettingsError(
                "EVENTS_SECRET='' is not allowed with a webhook: "
                "without it, anybody could send it forged events."
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
                "Gemini may take, (2 x GEMINI_ATTEMPTS - 1) x GEMINI_TIMEOUT_S, "
                "or a stage that only waits would be ended."
            )
        if self.daily_money and not self.prices:
            raise SettingsError(
                f"DAILY_MONEY='{self.daily_money:g}' is not allowed: the price of {self.gemini_model} is "
                "unknown: set GEMINI_INPUT_PRICE and GEMINI_OUTPUT_PRICE."
            )
        if self.daily_money and self.daily_money < self.usd(MOST_INPUT_TOKENS, MOST_OUTPUT_TOKENS):
            least = self.usd(MOST_INPUT_TOKENS, MOST_OUTPUT_TOKENS)
            raise SettingsError(
                f"DAILY_MONEY='{self.daily_money:g}' is not allowed: it must be at least the {least:.4f} US$ "
                "that one request may cost, or no request would ever be allowed."
            )
        if self.memory_warning_mb > self.memory_limit_mb:
            raise SettingsError(
                f"MEMORY_WARNING_MB='{self.memory_warning_mb}' is not allowed: "
                f"it must be at most MEMORY_LIMIT_MB ({self.memory_limit_mb})."
            )

    def check_start(self) -> None:
        """Check settings that only a function has, because it has the secrets. Raises SettingsError."""
        if self.safety != "off" and self.safety_unknown == "hold" and not self.gemini_api_key.strip():
            raise SettingsError(
                f"SAFETY={self.safety!r} is not allowed without GEMINI_API_KEY: without a verdict, "
                "every picture would be held. Set the key, or SAFETY_UNKNOWN=publish."
            )

    @property
    def largest_side(self) -> int:
        """The largest side of a rendition or a model's input, px."""
        return max(*map(longest, self.sizes), GEMINI_SIDE)

    @property
    def gemini_s(self) -> float:
        """Return the maximum time that Gemini may take for a picture, s: see gemini.Describer.ask."""
        return (2 * self.gemini_attempts - 1) * self.gemini_timeout_s

    @property
    def has_budget(self) -> bool:
        """Return whether requests are limited per day: otherwise the database does not count them."""
        return bool(self.daily_calls or self.daily_money)

    @property
    def prices(self) -> tuple[float, float] | None:
        """Return US$ per million input and output tokens, as set or published; None if unknown."""
        if self.gemini_input_price or self.gemini_output_price:
            return self.gemini_input_price, self.gemini_output_price
        published = gemini_prices.price(self.gemini_model, dt.datetime.now(dt.UTC).date())
        return (published.input, published.output) if published else None

    @property
    def can_batch(self) -> bool:
        """Return whether batches of requests to Gemini are possible: google-generativeai has none."""
        return bool(self.gemini_api_key.strip()) and self.gemini_sdk == "google-genai"

    @property
    def defers(self) -> bool:
        """Return whether an upload may wait for a batch: with SAFETY it needs its verdict first."""
        return self.can_batch and self.gemini_batch > 0 and self.safety == "off"

    def usd(self, input_tokens: int, output_tokens: int, *, batch: bool = False) -> float:
        """Return the cost of these tokens, US$, rounded up to a millionth; 0 if no price is known."""
        read, written = self.prices or (0.0, 0.0)
        share = gemini_prices.BATCH_SHARE if batch else 1.0
        return ceil(round((input_tokens * read + output_tokens * written) * share, 3)) / 1e6


def table() -> str:
    """Return the settings as a Markdown table, one row per setting."""
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

"""Coordinates of the charts, addresses of pictures, and snippets to copy, for the templates.

Charts are SVG with coordinates in % of width and height, so that text keeps its size on a phone.
"""

import datetime as dt
import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from dropcap.database.progress import DAYS, PICTURES, RULES
from dropcap.domain.analysis import Rendition, Source
from dropcap.gallery import storage
from dropcap.gallery.assets import FOLDER
from dropcap.gallery.cards import Card, StageMemory
from dropcap.gallery.request import GalleryRequest
from dropcap.settings import Settings

MIB = 1.048576  # MB
AIR = 1.14  # height of the chart in limits: room for the limit's label
BAR = 0.74  # of a stage's width
WEEKS = 53
LEVELS = 4
# Each has a class in gallery.css, because the content security policy forbids inline styles.
RATIOS = tuple(map(float, re.findall(r"\.r\d+ { --r: ([\d.]+); }", (FOLDER / "gallery.css").read_text())))
COPIED_SIZES = "(max-width: {width}px) 100vw, {width}px"
# Targets by the first word of the achievement's name.
NUMBERS = {name.split("_")[0]: rule.target for name, rule in RULES.items() if rule.counts in (PICTURES, DAYS)}
MARKDOWN = re.compile(r"([\\`*_\[\]<>&!|~])")


@dataclass(frozen=True, slots=True)
class Bar:
    """A stage's bar: resident MB at its end; over several pictures, their `median` and maximum (`mb`).

    `seconds` is None if unknown. `x`, `width`, `y` and `median_y` are in % of the chart.
    """

    stage: str
    mb: float
    median: float
    seconds: float | None
    x: float
    width: float
    y: float
    median_y: float
    warned: bool

    @property
    def middle(self) -> float:
        return round(self.x + self.width / 2, 2)


@dataclass(frozen=True, slots=True)
class Panel:
    """Memory by stage, and the limit; `limit_y` and `warning_y` are in % from the top."""

    bars: tuple[Bar, ...]
    limit_mib: int
    limit_y: float
    warning_mb: int
    warning_y: float
    peak: Bar
    share: int  # of the limit, in %


def panel_of(card: Card, settings: Settings) -> Panel | None:
    """Return the memory panel of one picture; None if no stage was measured."""
    return _panel([(stage, mb, mb, card.timings.get(stage)) for stage, mb in card.memory.items()], settings)


def panel_over(stages: Iterable[StageMemory], settings: Settings) -> Panel | None:
    """Return the memory panel over several pictures; None if there are none."""
    return _panel([(each.stage, each.largest, each.median, None) for each in stages], settings)


def _panel(stages: Sequence[tuple[str, float, float, float | None]], settings: Settings) -> Panel | None:
    if not stages:
        return None
    limit, warning = settings.memory_limit_mb * MIB, settings.memory_warning_mb
    top = AIR * max(limit, *(mb for _, mb, _, _ in stages))
    step = 100 / len(stages)

    def y(mb: float) -> float:
        return round(100 - 100 * mb / top, 2)

    bars = tuple(
        Bar(
            *(stage, mb, median, seconds),
            x=round(step * (index + (1 - BAR) / 2), 2),
            width=round(step * BAR, 2),
            y=y(mb),
            median_y=y(median),
            warned=mb > warning,
        )
        for index, (stage, mb, median, seconds) in enumerate(stages)
    )
    peak = max(bars, key=lambda bar: bar.mb)
    share = round(100 * peak.mb / limit)
    return Panel(bars, settings.memory_limit_mb, y(limit), warning, y(warning), peak, share)


@dataclass(frozen=True, slots=True)
class Day:
    """A day of the calendar: week in `column`, weekday in `row`, `level` from 0 (no picture) to LEVELS."""

    date: dt.date
    pictures: int
    level: int
    column: int
    row: int


@dataclass(frozen=True, slots=True)
class Calendar:
    """The weeks up to this one, from Monday; `months` are the columns in which a month begins.

    `side` of a day's square, `step` to the next one, and the margins `left` and `top` are in SVG units.
    """

    days: tuple[Day, ...]
    months: tuple[tuple[int, str], ...]
    side: int = 11
    step: int = 14
    left: int = 26
    top: int = 15

    @property
    def width(self) -> int:
        return self.left + (self.days[-1].column + 1) * self.step

    @property
    def height(self) -> int:
        return self.top + 7 * self.step

    @property
    def busy(self) -> tuple[Day, ...]:
        """Return the days with pictures, latest first."""
        return tuple(day for day in reversed(self.days) if day.pictures)

    @property
    def pictures(self) -> int:
        return sum(day.pictures for day in self.days)

    @property
    def best(self) -> Day | None:
        return max(self.busy, key=lambda day: day.pictures, default=None)


def calendar(pictures: Mapping[dt.date, int], today: dt.date) -> Calendar:
    """Return the calendar of pictures per day that ends with `today`."""
    first = today - dt.timedelta(days=today.weekday(), weeks=WEEKS - 1)
    most = max((count for day, count in pictures.items() if first <= day <= today), default=0)
    days, months = [], []
    for number in range((today - first).days + 1):
        date, count = first + dt.timedelta(days=number), pictures.get(first + dt.timedelta(days=number), 0)
        days.append(Day(date, count, _level(count, most), number // 7, number % 7))
        if date.day == 1:
            months.append((number // 7, date.strftime("%b")))
    return Calendar(tuple(days), tuple(months))


def _level(count: int, most: int) -> int:
    """Return the level on a logarithmic scale, so that one day of 1,000 pictures does not hide the others."""
    return math.ceil(LEVELS * math.log1p(count) / math.log1p(most)) if count else 0


def distinct(pictures: Iterable[Rendition]) -> list[Rendition]:
    """Return the renditions with distinct widths, largest first, in the first format of FORMAT.

    Sizes above the source's own all have the same width.
    """
    renditions = list(pictures)
    by_width = {each.width: each for each in renditions if each.content_type == renditions[0].content_type}
    return [by_width[width] for width in sorted(by_width, reverse=True)]


def srcset(request: GalleryRequest, card: Card) -> str:
    """Return the `srcset` of a card's picture, with addresses of the gallery, which checks access."""
    return ", ".join(f"{address(request, card, each)} {each.width}w" for each in distinct(card.pictures))


def address(request: GalleryRequest, card: Card, picture: Rendition) -> str:
    return request.link(f"/image/{card.id}/{picture.label}")


def middle(card: Card) -> Rendition | None:
    """Return the rendition for browsers without srcset: the smallest of at least 600 px, else the largest."""
    renditions = distinct(card.pictures)
    return next((each for each in reversed(renditions) if max(each.width, each.height) >= 600), None) or (
        renditions[0] if renditions else None
    )


def ratio(card: Card) -> float:
    """Return the aspect ratio of the frame on the wall: the nearest of RATIOS to the picture's."""
    wide = card.picture.width / card.picture.height if card.picture.height else 1.0
    return min(RATIOS, key=lambda each: abs(math.log(each / wide)) if wide else 0)


def alt(card: Card) -> str:
    """Return the alt text of the `<img>`: never empty, because the picture is the page's content."""
    return card.alternative or card.name or "A picture without a description"


def published(settings: Settings, picture: Rendition) -> str:
    """Return the address of a rendition for use outside the gallery."""
    base = settings.pictures_url or f"{storage.address()}/{settings.pictures_bucket}"
    return f"{base.rstrip('/')}/{quote(picture.object)}"


def as_html(settings: Settings, card: Card) -> str:
    """Return an `<img>` with all renditions for another page; empty if there are none."""
    renditions, shown = distinct(card.pictures), middle(card)
    if not shown:
        return ""
    attributes = {
        "src": published(settings, shown),
        "srcset": ", ".join(f"{published(settings, each)} {each.width}w" for each in renditions),
        "sizes": COPIED_SIZES.format(width=renditions[0].width),
        "alt": _line(card.alternative),
        "width": str(renditions[0].width),
        "height": str(renditions[0].height),
    }
    written = (f'{name}="{html.escape(value)}"' for name, value in attributes.items())
    return f"<img {' '.join(written)}>"


def as_markdown(settings: Settings, card: Card) -> str:
    """Return the picture in Markdown; empty if there are no renditions."""
    shown = middle(card)
    text = MARKDOWN.sub(r"\\\1", _line(card.alternative))
    return f"![{text}]({published(settings, shown)})" if shown else ""


def _line(text: str) -> str:
    """Return the text on one line, because a blank line would end the Markdown paragraph."""
    return " ".join(text.split())


def size(number: float) -> str:
    """Return a number of bytes with its unit."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.{0 if unit == 'bytes' or number >= 10 else 1}f}\xa0{unit}"
        number /= 1000
    return f"{number:.1f}\xa0GB"


def when(instant: dt.datetime | dt.date) -> Markup:
    """Return an instant to the minute, or a day, as `<time>`."""
    text = day(instant)
    if isinstance(instant, dt.datetime):
        text += f", {instant:%H:%M} {instant.tzname() or ''}".rstrip()
    return Markup('<time datetime="{}">{}</time>').format(instant.isoformat(), text)


def day(instant: dt.datetime | dt.date) -> str:
    return f"{instant.day} {instant:%B %Y}"


def coded(text: str) -> Markup:
    """Return the text as HTML, with `<code>` in place of backticks."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(text)))  # noqa: S704  escaped


def confidence(source: Source) -> str:
    """Return BLIP's confidence in its caption; empty if unknown."""
    if source.confidence is None:
        return ""
    low = ", too low for the caption to be shown" if source.low_confidence else ""
    return f"confidence {source.confidence:.2f}{low}".replace("-", "\N{MINUS SIGN}")


def seconds(duration: float) -> str:
    return f"{duration:.2f}" if duration >= 0.1 else f"{duration:.3f}"


def medal(title: str) -> str:
    """Return the label of an achievement's medal: its number, else its initial."""
    first = title.split(" ", 1)[0].lower()
    return str(NUMBERS.get(first, first[:1].upper()))


GLOBALS: dict[str, Any] = {
    "address": address,
    "alt": alt,
    "as_html": as_html,
    "as_markdown": as_markdown,
    "calendar": calendar,
    "distinct": distinct,
    "middle": middle,
    "panel_of": panel_of,
    "panel_over": panel_over,
    "ratio": ratio,
    "srcset": srcset,
}
FILTERS: dict[str, Any] = {
    "coded": coded,
    "confidence": confidence,
    "day": day,
    "medal": medal,
    "seconds": seconds,
    "size": size,
    "when": when,
}

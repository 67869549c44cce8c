"""The output of `make run`; plain text unless the output is a terminal."""

import io
from collections.abc import Iterable, Mapping

from google.api_core.exceptions import GoogleAPIError
from google.cloud.storage import Client
from PIL import Image
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from rich_pixels import Pixels

from dropcap.domain.analysis import NO_KEY, Agreement, Analysis, Source, Usage, stage_order
from infra.local import YOU
from infra.local.results import Outcome
from infra.text import printable

PICTURE_WIDTH, PICTURE_HEIGHT = 36, 36  # columns, and pixels high: a line of text shows two


def outcome(console: Console, client: Client, finished: Outcome, pictures_bucket: str, kept: str) -> None:
    """Print one finished upload; `kept` says what happened to its source."""
    title = printable(f"gs://{finished.bucket}/{finished.name}" if finished.bucket else finished.name)
    if finished.analysis is None:
        word, colour = ("Held", "yellow") if finished.held else ("Rejected", "red")
        text = Text(f"{word} ", f"bold {colour}").append(printable(finished.reason), "default")
        console.print(_framed(console, title, Group(text, Text(printable(kept), "dim")), colour))
        return
    analysis = finished.analysis
    body: RenderableType = Group(*_words(analysis), Text(), _written(analysis, pictures_bucket, kept), Text())
    body = Group(body, _stages(analysis))
    if console.is_terminal and console.color_system:
        side_by_side = Table.grid(padding=(0, 2))
        side_by_side.add_column(width=PICTURE_WIDTH)
        side_by_side.add_column(ratio=1)
        side_by_side.add_row(_picture(client, pictures_bucket, analysis), body)
        body = side_by_side
    console.print(_framed(console, title, body, "green"))


def _framed(console: Console, title: str, body: RenderableType, colour: str) -> RenderableType:
    if console.is_terminal:
        return Panel(body, title=Text(title), title_align="left", border_style=colour)
    return Group(Text(f"\n{title}"), body)


def _picture(client: Client, bucket: str, analysis: Analysis) -> RenderableType:
    """Return the smallest rendition, read from the bucket; nothing if there is none, or none any more."""
    smallest = min(analysis.pictures, key=lambda each: each.width * each.height, default=None)
    if smallest is None:
        return ""
    try:
        data = client.bucket(bucket).blob(smallest.object).download_as_bytes(retry=None)
        with Image.open(io.BytesIO(data)) as image:
            image.thumbnail((PICTURE_WIDTH, PICTURE_HEIGHT))
            pixels: RenderableType = Pixels.from_image(image.convert("RGB"))
            return pixels
    except (GoogleAPIError, OSError):  # deleted on the gallery meanwhile
        return ""


def _words(analysis: Analysis) -> Iterable[Text]:
    """Yield each model's text, or why there is none."""
    picture, sources = analysis.picture, analysis.sources
    facts = f"{picture.format}, {picture.width} x {picture.height} px, {_bytes(picture.bytes)}"
    yield Text(facts, "dim")
    blip, gemini = (sources.get(name, Source(False)) for name in ("blip", "gemini"))
    captions = analysis.captions or {"blip": analysis.caption}  # an older result has one
    yield _blip(blip, captions.get("blip", ""))
    stand_in = " (stand-in)" if "stand-in" in gemini.version else ""
    text = analysis.description if gemini.answered else gemini.problem
    if gemini.problem != NO_KEY:  # `make run` has said so once
        yield _line(f"Gemini{stand_in}", text, gemini, "default")
    if captions.get("gemini"):
        yield Text("Caption: ", "cyan").append(captions["gemini"], "default")
    for name, text in (("Alt text", analysis.alt_text), ("Text", analysis.text)):
        if text:
            yield Text(f"{name}: ", "cyan").append(text, "default")
    if analysis.tags:
        yield Text("Tags: ", "cyan").append(", ".join(analysis.tags), "default")
    if verdict := analysis.safety:
        yield Text("Safety: ", "cyan").append(" ".join((verdict.level, verdict.reason)), "default")
    if analysis.usage:  # an older result has none
        yield Text("Cost: ", "cyan").append(_cost(analysis.usage), "default")
    if analysis.agreement:
        yield _agreement(analysis.agreement, bool(stand_in))


def _cost(usage: Usage) -> str:
    """Return the cost of a picture at Google's price, even if the stand-in described it."""
    if not usage.calls and not usage.reused:
        return f"{usage.gb_seconds:.1f} GB-seconds"
    tokens = usage.input_tokens + usage.output_tokens
    usd = "" if usage.usd is None else f", US$ {usage.usd:.6f}"
    had = ", as it was described before" if usage.reused else ""
    return f"{tokens:,} tokens{usd}{had}; {usage.gb_seconds:.1f} GB-seconds"


def _agreement(agreement: Agreement, stand_in: bool) -> Text:
    """Return the consistency score of the models, or their contradictions."""
    line = Text("Agreement: ", "cyan")
    if agreement.contradicts:
        found = (f"{text} (BLIP) or {shown} (Gemini)" for _, text, shown in agreement.contradictions)
        return line.append("the models contradict each other: " + "; ".join(found), "yellow")
    score = agreement.score
    line.append("no verdict" if score is None else f"{score:.0%}".replace("%", " %"), "default")
    return line.append(" (the stand-in names no things)" if stand_in else "", "dim")


def _blip(source: Source, caption: str) -> Text:
    """Return BLIP's caption, or why there is none; say if it is a demonstration model's."""
    who = "BLIP (demonstration)" if source.demo else "BLIP"
    if not source.answered:
        return _line(who, source.problem, source, "default")
    confidence = "" if source.confidence is None else f" (confidence {source.confidence:z.2f})"
    if not source.low_confidence:
        return _line(who, caption, source, "bold").append(confidence, "dim")
    why = (
        "the demonstration model does not know such a picture" if source.demo else "the model is not certain"
    )
    return _line(who, f"no caption: {why}{confidence}", source, "yellow")


def _line(who: str, what: str, source: Source, style: str) -> Text:
    return Text(f"{who}: ", "cyan").append(what, style if source.answered else "yellow")


def _written(analysis: Analysis, bucket: str, kept: str) -> Group:
    """Return where the result is stored."""
    objects = Table.grid(padding=(0, 2, 0, 0))
    for each in analysis.pictures:
        size = f"{each.width} x {each.height} px"
        objects.add_row("", each.object.rpartition("/")[2], size, _bytes(each.bytes))
    folder = Text(f"gs://{bucket}/{analysis.id}/", overflow="fold")
    return Group(folder, objects, Text(f"PostgreSQL: analyses, id {analysis.id}"), Text(f"Source: {kept}"))


def _stages(analysis: Analysis) -> Table:
    """Return a table of seconds and resident memory by stage."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("stage")
    table.add_column("s", justify="right")
    table.add_column("MB", justify="right")
    timings, memory = analysis.timings, analysis.memory
    for stage in sorted(timings, key=stage_order):
        table.add_row(stage, f"{timings[stage]:.2f}", f"{memory.get(stage, 0):.0f}")
    return table


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def ready(console: Console, exports: Mapping[str, str], env: str, drop: str, uploads_bucket: str) -> None:
    """Print where to look, and how to upload more."""
    url = exports["DROPCAP_URL"]
    rows = (
        ("a browser", f"{url}/gallery/?user={YOU}"),
        ("a folder", f"put pictures and folders into {drop}"),
        ("gcloud", f". {env}; gcloud storage cp PICTURE gs://{uploads_bucket}/{YOU}/"),
        ("HTTP", f"curl -F picture=@PICTURE {url}/analyze"),
        ("progress", f"curl '{url}/get_progress_stats?user={YOU}'"),
        ("addresses", f"Cloud Storage {exports['STORAGE_EMULATOR_HOST']}, all in {env}"),
    )
    console.print("\nSee them, and drop more, as you like; Ctrl-C ends it.", style="bold")
    for name, how in rows:  # not broken, so that a command can be copied whole from a narrow terminal
        console.print(
            Text(f"{name:<11}", "cyan").append(how, "bold" if "browser" in name else "default"),
            soft_wrap=True,
        )

"""`make import EXTENSION=extensions/storage-resize-images.env`: settings of Firebase's Resize Images as ours.

Reads what `firebase ext:export` wrote of `storage-resize-images`, shows parameter by parameter what becomes
of it, what has no equal here and what to do then, and writes `settings.mk`, which `make plan`, `make deploy`
and what comes after them read; what is said on the command line or in the environment goes first.
docs/from-resize-images.md tells the rest.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dropcap.errors import SettingsError
from dropcap.naming import ORIGINAL
from dropcap.settings import Settings
from dropcap.upload import RESIZED
from infra.cloud import CloudError
from infra.cloud.config import check

FILE = Path("settings.mk")
LARGEST = 1_000_000  # bytes of an exported file, which has some hundred
LINE = re.compile(r"\s*([A-Za-z][\w./-]*)\s*=(.*)")
PLACE = re.compile(r"\$\{(?:param:)?PROJECT_ID\}")
VERIFIED = "dropcap-verify/*"
FORMATS = {"jpeg": "jpeg", "jpg": "jpeg", "png": "png", "webp": "webp", "avif": "avif", "false": ORIGINAL}


@dataclass(slots=True)
class Import:
    """What becomes of an exported configuration: our settings, and a row for each of its parameters."""

    given: Mapping[str, str]
    settings: dict[str, str] = field(default_factory=dict)
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def set(self, name: str, ours: str, value: str, note: str = "") -> None:
        """This parameter becomes that setting."""
        self.settings[ours] = value
        self.tell(name, f"{ours}={value}", note)

    def tell(self, name: str, ours: str, note: str) -> None:
        self.rows.append((f"{name}={_short(self.given[name])}", ours, note))

    def lacks(self, name: str, note: str) -> None:
        """There is no equal, and this is what to do."""
        self.tell(name, "no equal", note)


def _short(value: str) -> str:
    return value if len(value) <= 60 else f"{value[:59]}…"


def read(path: Path, project: str) -> dict[str, str]:
    """The parameters of an exported file, without those that are empty.

    `${param:PROJECT_ID}`, which the export puts in the project's place, is it again. Raises CloudError.
    """
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as wrong:
        raise CloudError(
            f"{path} can't be read: name what firebase ext:export wrote, extensions/NAME.env."
        ) from wrong
    given = {}
    for line in text.splitlines():
        if found := LINE.fullmatch(line):
            value = found[2].strip()
            if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1].replace('\\"', '"') if value[0] == '"' else value[1:-1]
            given[found[1]] = value
    given = {name: value for name, value in given.items() if value}
    if not {"IMG_BUCKET", "IMG_SIZES"} <= given.keys():
        raise CloudError(
            f"{path} is no configuration of storage-resize-images: it lacks IMG_BUCKET or IMG_SIZES."
        )
    if not project and any(map(PLACE.search, given.values())):
        raise CloudError(f"{path} leaves the project open: make import EXTENSION={path} PROJECT=my-project")
    return {name: PLACE.sub(lambda _: project, value) for name, value in given.items()}


def convert(given: Mapping[str, str]) -> Import:
    """Our settings for those of the extension. Raises CloudError where one can't be used."""
    result = Import(given)
    for name in given:
        KNOWN.get(name, _unknown)(result, name, given[name])
    _leave_outputs_alone(result)
    if "RESIZED_IMAGES_PATH" not in given:
        result.settings["LAYOUT"] = "beside"
        result.rows.append(("RESIZED_IMAGES_PATH not set", "LAYOUT=beside", "names as they were"))
    if "IMAGE_TYPE" not in given:
        result.settings["FORMAT"] = ORIGINAL
        result.rows.append(("IMAGE_TYPE not set", f"FORMAT={ORIGINAL}", ""))
    if "CACHE_CONTROL" not in result.settings:
        note = "it took the original's; here browsers keep a copy for an hour"
        result.rows.append(("CACHE_CONTROL_HEADER not set", "as ever", note))
    check(result.settings)
    try:
        Settings.read(result.settings)
    except SettingsError as wrong:
        raise CloudError(f"The extension's settings can't be ours: {wrong}") from wrong
    return result


def _bucket(result: Import, name: str, value: str) -> None:
    if "$" in value:
        raise CloudError(f"IMG_BUCKET={value} names no bucket: write its name into the file in its place.")
    result.set(
        name,
        "UPLOADS_BUCKET",
        value,
        "uploads stay as they are. Resized pictures go to another bucket, PICTURES_BUCKET, or they would "
        "trigger the function again: where the app reads them, getStorage(app, 'gs://PROJECT-pictures')",
    )


def _region(result: Import, name: str, value: str) -> None:
    result.set(name, "REGION", value)


def _sizes(result: Import, name: str, value: str) -> None:
    result.set(name, "SIZES", value)


def _source(result: Import, name: str, value: str) -> None:
    if value == "false":
        result.set(name, "SOURCE", "keep")
    else:
        # Not said for the user: it would answer what a first deployment asks where the bucket is not empty.
        note = (
            "the default, when each picture is stored and checked. What is no picture, a PDF or a video, "
            "leaves the bucket for quarantine. Where the bucket is not empty, make plan asks for SOURCE first"
        )
        result.tell(name, "SOURCE not set", note)


def _public(result: Import, name: str, value: str) -> None:
    if value == "true":
        result.lacks(
            name,
            "buckets stay private, and UPLOADS_BUCKET becomes so with all that was public there: make "
            "PICTURES_BUCKET one of Firebase's (Storage, Add bucket), with `allow read` in its rules",
        )
    else:
        result.tell(name, "as ever", "nothing is public")


def _layout(result: Import, name: str, value: str) -> None:
    folder = "/".join(part for part in value.split("/") if part and part != ".")
    if not folder or ".." in folder.split("/"):
        result.set(name, "LAYOUT", "beside", "no equal to a path that leads upwards: beside the name instead")
    else:
        result.set(name, "LAYOUT", f"{folder}/")


def _patterns(value: str) -> list[str]:
    """Paths of folders as patterns of names: `*` is the same in both, over folders too."""
    if "?" in value:  # here it matches any one character, and would choose more
        raise CloudError(f"{value} can't be imported: patterns here can't match a literal question mark.")
    paths = (path.strip().strip("/") for path in value.split(","))
    return [f"{path}/*" for path in paths if path]


def _include(result: Import, name: str, value: str) -> None:
    chosen = ",".join([*_patterns(value), VERIFIED])
    result.set(name, "INCLUDE", chosen, f"{VERIFIED} is for make verify")


def _exclude(result: Import, name: str, value: str) -> None:
    result.set(name, "EXCLUDE", ",".join(_patterns(value)))


def _leave_outputs_alone(result: Import) -> None:
    """What the extension wrote into the bucket is no upload: it would be resized, described, and deleted."""
    sizes = [size.strip() for size in result.settings["SIZES"].split(",")]
    outputs = [pattern for size in sizes for pattern in (f"*_{size}", f"*_{size}.*")]
    if failed := result.given.get("FAILED_IMAGES_PATH", "").strip("/"):
        outputs += [f"{failed}/*", f"*/{failed}/*"]
    before = result.settings.get("EXCLUDE", "")
    result.settings["EXCLUDE"] = ",".join(([before] if before else []) + outputs)
    note = (
        "what it wrote into the bucket stays there, and is no upload; of sizes from before by its metadata, "
        f"{RESIZED}=true: add their names to EXCLUDE where something has taken that away"
    )
    result.rows.append(("(its resized pictures)", f"EXCLUDE+={','.join(outputs)}", note))


def _failed(result: Import, name: str, value: str) -> None:
    result.tell(
        name, "QUARANTINE_BUCKET", "always, in a bucket of its own, each with its reason in the metadata"
    )


def _cache(result: Import, name: str, value: str) -> None:
    if value != "false":
        result.set(name, "CACHE_CONTROL", value)


def _formats(result: Import, name: str, value: str) -> None:
    words = [word.strip() for word in value.strip("[]").replace('"', "").split(",") if word.strip()]
    ours = list(dict.fromkeys(FORMATS[word] for word in words if word in FORMATS)) or ["webp"]
    foreign = [word for word in words if word not in FORMATS]
    note = f"no equal to {', '.join(foreign)}: apps ask for another" if foreign else ""
    if ORIGINAL in ours:
        note = f"{note}; original is webp for GIF and TIFF, whose names stay".removeprefix("; ")
    result.set(name, "FORMAT", ",".join(ours), note)


def _json(value: str) -> dict[str, object] | None:
    """An object of options; None where it is none, as the extension then goes on without it."""
    try:
        options = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return options if isinstance(options, dict) else None


def _output(result: Import, name: str, value: str) -> None:
    options = _json(value)
    if options is None:
        result.lacks(name, "is no JSON: the extension ignores it, too")
        return
    qualities, others = set(), []
    for kind, each in options.items():
        for option, what in (each if isinstance(each, dict) else {}).items():
            if option == "quality" and type(what) is int and 1 <= what <= 100:  # which true is not
                qualities.add(what)
            else:
                others.append(f"{kind}.{option}")
    notes = ["one quality for all formats, the highest"] if len(qualities) > 1 else []
    notes += [f"no equal to {', '.join(others)}"] if others else []
    if qualities:
        result.set(name, "QUALITY", str(max(qualities)), "; ".join(notes))
    else:
        result.lacks(name, "; ".join(notes) or "nothing is in it")


def _sharp(result: Import, name: str, value: str) -> None:
    options = _json(value) or {}
    others = ", ".join(option for option in options if option != "animated")
    if options.get("animated") is True:
        result.set(name, "ANIMATED", "1", f"no equal to {others}" if others else "")
    else:
        note = "pictures fit inside the size, whole and never enlarged"
        result.lacks(name, f"no equal to {others}: {note}" if others else note)


def _animated(result: Import, name: str, value: str) -> None:
    if value == "true":
        result.set(name, "ANIMATED", "1", "in webp; other formats show the first frame")
    else:
        result.set(name, "ANIMATED", "0")


def _memory(result: Import, name: str, value: str) -> None:
    result.tell(name, "MEMORY_LIMIT_MB (512)", "not taken over: it is a budget here, and 512 MiB are enough")


def _backfill(result: Import, name: str, value: str) -> None:
    if value == "true":
        bucket = result.given["IMG_BUCKET"]
        result.tell(name, "make backfill", f"when deployed: make backfill PROJECT=… BUCKET={bucket}")
    else:
        result.tell(name, "as ever", "but the sweep takes what lies in the bucket, where INCLUDE chooses it")


def _token(result: Import, name: str, value: str) -> None:
    result.lacks(name, "download tokens are never copied: getDownloadURL makes one for each picture")


def _safety(result: Import, name: str, value: str) -> None:
    if value not in SAFETY:
        result.tell(name, "as ever", "no picture is kept back for what it shows")
        return
    note = "the verdict is Gemini's, so GEMINI_API_KEY is needed; what is above goes to quarantine"
    result.set(name, "SAFETY", SAFETY[value], note)


def _filter(result: Import, name: str, value: str) -> None:
    result.lacks(name, "what is kept back is said by SAFETY alone, and nothing takes its place")


def _events(result: Import, name: str, value: str) -> None:
    result.tell(name, "EVENTS", "not taken over: name a webhook, or a topic of Pub/Sub (docs/events.md)")


def _unknown(result: Import, name: str, value: str) -> None:
    result.lacks(name, "not known; nothing is done with it")


# What each level blocks, as the highest that is still published here.
SAFETY = {"BLOCK_ONLY_HIGH": "medium", "BLOCK_MEDIUM_AND_ABOVE": "low", "BLOCK_LOW_AND_ABOVE": "none"}
Known = Callable[[Import, str, str], None]
KNOWN: Mapping[str, Known] = {
    "IMG_BUCKET": _bucket,
    "LOCATION": _region,
    "firebaseextensions.v1beta.function/location": _region,
    "firebaseextensions.v1beta.v2function/location": _region,
    "IMG_SIZES": _sizes,
    "DELETE_ORIGINAL_FILE": _source,
    "MAKE_PUBLIC": _public,
    "RESIZED_IMAGES_PATH": _layout,
    "INCLUDE_PATH_LIST": _include,
    "EXCLUDE_PATH_LIST": _exclude,
    "FAILED_IMAGES_PATH": _failed,
    "CACHE_CONTROL_HEADER": _cache,
    "IMAGE_TYPE": _formats,
    "OUTPUT_OPTIONS": _output,
    "SHARP_OPTIONS": _sharp,
    "IS_ANIMATED": _animated,
    "FUNCTION_MEMORY": _memory,
    "DO_BACKFILL": _backfill,
    "REGENERATE_TOKEN": _token,
    "CONTENT_FILTER_LEVEL": _safety,
    "CUSTOM_FILTER_PROMPT": _filter,
    "PLACEHOLDER_IMAGE_PATH": _filter,
    "EVENTARC_CHANNEL": _events,
    "ALLOWED_EVENT_TYPES": _events,
}


def makefile(settings: Mapping[str, str], source: Path) -> str:
    """The settings for make, which gives them to its commands where nobody has said otherwise."""
    lines = [f"# From {source.name}, by make import. The command line and the environment go before it."]
    for name, value in settings.items():
        if "\\" in value or not value.isprintable():
            raise CloudError(
                f"{name}={value!r} is not allowed: it must have no backslash or control character."
            )
        written = value.replace("$", "$$").replace("#", "\\#")
        lines.append(f"export {name} ?= {written}")
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 1 with the reason in one line on standard error."""
    parser = argparse.ArgumentParser(prog="make import", description="Take over Resize Images' settings.")
    parser.add_argument("extension", nargs="?", type=Path, help="what firebase ext:export wrote")
    parser.add_argument("--project", default="", help="id of the project, where the file leaves it open")
    parser.add_argument("--force", action="store_true", help=f"overwrite {FILE}")
    arguments = parser.parse_args(words)
    try:
        if not arguments.extension or str(arguments.extension) == ".":
            raise CloudError("Say which file: make import EXTENSION=extensions/storage-resize-images.env")
        if FILE.exists() and not arguments.force:
            raise CloudError(f"{FILE} is there already: FORCE=1 overwrites it.")
        result = convert(read(arguments.extension, arguments.project))
        FILE.write_text(makefile(result.settings, arguments.extension))
    except CloudError as reason:
        print(f"make import: {reason}", file=sys.stderr)
        return 1
    table = Table()
    for title in ("Resize Images", "Dropcap", ""):
        table.add_column(title, overflow="fold")
    for row in result.rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print("The first folder of a name is the user here: users/ana/a.jpg is one of `users`.")
    console.print(f"Written to {FILE}. make plan PROJECT=my-project shows what a deployment would change.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

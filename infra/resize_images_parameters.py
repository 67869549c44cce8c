"""What each parameter of Resize Images becomes here, be it of the extension or of the function kit."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dropcap.domain.naming import ORIGINAL
from infra.cloud import CloudError

VERIFIED = "dropcap-verify/*"
FORMATS = {"jpeg": "jpeg", "jpg": "jpeg", "png": "png", "webp": "webp", "avif": "avif", "false": ORIGINAL}
# src/region.ts at 2423e2a: where a kit runs for a bucket in several regions.
MULTI_REGIONS = {"us": "us-east1", "eu": "europe-west1", "asia": "asia-east1"}


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


def _bucket_region(result: Import, name: str, value: str) -> None:
    result.set(name, "REGION", MULTI_REGIONS.get(value.lower(), value.lower()))


def _default_region(result: Import, name: str, value: str) -> None:
    if "BUCKET_REGION" in result.given:
        result.tell(name, "as ever", "BUCKET_REGION goes before it")
    else:
        result.set(name, "REGION", value)


def _system(result: Import, name: str, value: str) -> None:
    result.lacks(name, "was the platform's: a deployment has its own, docs/settings.md")


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


def _failed(result: Import, name: str, value: str) -> None:
    result.tell(
        name, "QUARANTINE_BUCKET", "always, in a bucket of its own, each with its reason in the metadata"
    )


def _cache(result: Import, name: str, value: str) -> None:
    if value != "false":
        result.set(name, "CACHE_CONTROL", value)


def _formats(result: Import, name: str, value: str) -> None:
    words = [word.strip() for word in value.strip("[]").replace('"', "").split(",") if word.strip()]
    words = [word.lower() for word in words]  # early kits wrote False (their CHANGELOG.md)
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
    options = _json(value)
    others = ", ".join(option for option in options or {} if option != "animated")
    if options and options.get("animated") is True:
        result.set(name, "ANIMATED", "1", f"no equal to {others}" if others else "")
    elif options == {}:
        result.tell(name, "as ever", "nothing is in it")
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
    """Name it without its value, which could be a secret."""
    result.rows.append((name, "no equal", "not known; nothing is done with it"))


# What each level blocks, as the highest that is still published here.
SAFETY = {"BLOCK_ONLY_HIGH": "medium", "BLOCK_MEDIUM_AND_ABOVE": "low", "BLOCK_LOW_AND_ABOVE": "none"}
Known = Callable[[Import, str, str], None]
KNOWN: Mapping[str, Known] = {
    "IMG_BUCKET": _bucket,
    "LOCATION": _region,
    "firebaseextensions.v1beta.function/location": _region,
    "firebaseextensions.v1beta.v2function/location": _region,
    "BUCKET_REGION": _bucket_region,
    "FUNCTION_DEFAULT_REGION": _default_region,
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
    "EXT_SELECTED_EVENTS": _events,
}

SYSTEM = ("firebaseextensions.v1beta.", "EXT_MIGRATED_SYSTEM_")


def known(name: str) -> Known:
    """Return what tells of a parameter."""
    return KNOWN.get(name, _system if name.startswith(SYSTEM) else _unknown)

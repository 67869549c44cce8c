"""Convert each parameter of Resize Images, of the extension or of the function kit."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dropcap.domain.naming import ORIGINAL
from infra.cloud import CloudError

VERIFIED = "dropcap-verify/*"
FORMATS = {"jpeg": "jpeg", "jpg": "jpeg", "png": "png", "webp": "webp", "avif": "avif", "false": ORIGINAL}
# src/region.ts at 2423e2a: the region of a kit whose bucket is multi-regional.
MULTI_REGIONS = {"us": "us-east1", "eu": "europe-west1", "asia": "asia-east1"}


@dataclass(slots=True)
class Import:
    """The result for an exported configuration: Dropcap's settings, and a row to print for each parameter."""

    parameters: Mapping[str, str]
    settings: dict[str, str] = field(default_factory=dict)
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def set(self, name: str, ours: str, value: str, note: str = "") -> None:
        """Record that the parameter `name` becomes the setting `ours`."""
        self.settings[ours] = value
        self.add_row(name, f"{ours}={value}", note)

    def add_row(self, name: str, ours: str, note: str) -> None:
        self.rows.append((f"{name}={_short(self.parameters[name])}", ours, note))

    def lacks(self, name: str, note: str) -> None:
        """Record that the parameter has no equivalent; `note` says what to do."""
        self.add_row(name, "no equivalent", note)


Known = Callable[[Import, str, str], None]


def _short(value: str) -> str:
    return value if len(value) <= 60 else f"{value[:59]}…"


def _becomes(ours: str, convert: Callable[[str], str] = str) -> Known:
    """Return the converter of a parameter to the setting `ours`."""
    return lambda result, name, value: result.set(name, ours, convert(value))


def _row(ours: str, note: str) -> Known:
    """Return the converter of a parameter that is only listed, whatever its value."""
    return lambda result, name, value: result.add_row(name, ours, note)


def _bucket(result: Import, name: str, value: str) -> None:
    if "$" in value:
        raise CloudError(f"IMG_BUCKET={value} is not the name of a bucket: write the name into the file.")
    result.set(
        name,
        "UPLOADS_BUCKET",
        value,
        "uploads stay as they are. Resized pictures go to another bucket, PICTURES_BUCKET, because "
        "they would trigger the function again. The app reads them with getStorage(app, 'gs://PROJECT-pictures')",
    )


def _default_region(result: Import, name: str, value: str) -> None:
    if "BUCKET_REGION" in result.parameters:
        result.add_row(name, "default", "BUCKET_REGION takes precedence")
    else:
        result.set(name, "REGION", value)


def _source(result: Import, name: str, value: str) -> None:
    if value == "false":
        result.set(name, "SOURCE", "keep")
    else:
        # Not written: a first deployment to a bucket with objects must ask the user.
        note = (
            "deletes a source after all outputs are stored and verified. Files that are not pictures, such "
            "as PDF and video, move to quarantine. If the bucket is not empty, make plan asks for SOURCE"
        )
        result.add_row(name, "SOURCE not set", note)


def _public(result: Import, name: str, value: str) -> None:
    if value == "true":
        result.lacks(
            name,
            "buckets stay private, and UPLOADS_BUCKET becomes private with all its objects: let "
            "PICTURES_BUCKET be one of Firebase's (Storage, Add bucket), with `allow read` in its rules",
        )
    else:
        result.add_row(name, "default", "nothing is public")


def _layout(result: Import, name: str, value: str) -> None:
    folder = "/".join(part for part in value.split("/") if part and part != ".")
    if not folder or ".." in folder.split("/"):
        result.set(
            name, "LAYOUT", "beside", "paths with .. are not supported: the pictures go beside the upload"
        )
    else:
        result.set(name, "LAYOUT", f"{folder}/")


def _patterns(value: str) -> list[str]:
    """Return paths of folders as patterns of names; in both, `*` also matches slashes."""
    if "?" in value:  # Dropcap's patterns match any one character with it
        raise CloudError(f"{value} can't be imported: patterns here can't match a literal question mark.")
    paths = (path.strip().strip("/") for path in value.split(","))
    return [f"{path}/*" for path in paths if path]


def _include(result: Import, name: str, value: str) -> None:
    chosen = ",".join([*_patterns(value), VERIFIED])
    result.set(name, "INCLUDE", chosen, f"{VERIFIED} is for make verify")


def _cache(result: Import, name: str, value: str) -> None:
    if value != "false":
        result.set(name, "CACHE_CONTROL", value)


def _formats(result: Import, name: str, value: str) -> None:
    words = [word.strip() for word in value.strip("[]").replace('"', "").split(",") if word.strip()]
    words = [word.lower() for word in words]  # early kits wrote False (their CHANGELOG.md)
    ours = list(dict.fromkeys(FORMATS[word] for word in words if word in FORMATS)) or ["webp"]
    foreign = [word for word in words if word not in FORMATS]
    note = f"no equivalent to {', '.join(foreign)}: apps must request another format" if foreign else ""
    if ORIGINAL in ours:
        note = f"{note}; original means WebP for GIF and TIFF, under the same names".removeprefix("; ")
    result.set(name, "FORMAT", ",".join(ours), note)


def _json(value: str) -> dict[str, object] | None:
    """Return an object of options; None if it is invalid, in which case the extension ignores it."""
    try:
        options = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return options if isinstance(options, dict) else None


def _output(result: Import, name: str, value: str) -> None:
    options = _json(value)
    if options is None:
        result.lacks(name, "is not JSON: the extension ignores it, too")
        return
    qualities, others = set(), []
    for kind, each in options.items():
        for option, what in (each if isinstance(each, dict) else {}).items():
            if option == "quality" and type(what) is int and 1 <= what <= 100:  # True is an int, too
                qualities.add(what)
            else:
                others.append(f"{kind}.{option}")
    notes = ["Dropcap has one quality for all formats: the highest is used"] if len(qualities) > 1 else []
    notes += [f"no equivalent to {', '.join(others)}"] if others else []
    if qualities:
        result.set(name, "QUALITY", str(max(qualities)), "; ".join(notes))
    else:
        result.lacks(name, "; ".join(notes) or "it is empty")


def _sharp(result: Import, name: str, value: str) -> None:
    options = _json(value)
    others = ", ".join(option for option in options or {} if option != "animated")
    if options and options.get("animated") is True:
        result.set(name, "ANIMATED", "1", f"no equivalent to {others}" if others else "")
    elif options == {}:
        result.add_row(name, "default", "it is empty")
    else:
        note = "pictures are fitted into the size without cropping, and never enlarged"
        result.lacks(name, f"no equivalent to {others}: {note}" if others else note)


def _animated(result: Import, name: str, value: str) -> None:
    if value == "true":
        result.set(name, "ANIMATED", "1", "in WebP; other formats have the first frame")
    else:
        result.set(name, "ANIMATED", "0")


def _backfill(result: Import, name: str, value: str) -> None:
    if value == "true":
        bucket = result.parameters["IMG_BUCKET"]
        result.add_row(name, "make backfill", f"when deployed: make backfill PROJECT=… BUCKET={bucket}")
    else:
        result.add_row(name, "default", "but reconcile also processes existing objects that INCLUDE matches")


def _safety(result: Import, name: str, value: str) -> None:
    if value not in SAFETY:
        result.add_row(name, "default", "pictures are not moderated")
        return
    note = "Gemini gives the verdict, so GEMINI_API_KEY is required; pictures above the level are quarantined"
    result.set(name, "SAFETY", SAFETY[value], note)


def _unknown(result: Import, name: str, value: str) -> None:
    """Record the name without its value, which may be a secret."""
    result.rows.append((name, "no equivalent", "unknown; ignored"))


# By level, the highest that is still published.
SAFETY = {"BLOCK_ONLY_HIGH": "medium", "BLOCK_MEDIUM_AND_ABOVE": "low", "BLOCK_LOW_AND_ABOVE": "none"}
_REGION = _becomes("REGION")
_FILTER = _row("no equivalent", "SAFETY alone decides what is withheld, and there is no placeholder")
_EVENTS = _row("EVENTS", "not imported: name a webhook or a Pub/Sub topic (docs/events.md)")
_SYSTEM = _row(
    "no equivalent", "specific to that platform; docs/settings.md has the settings of a deployment"
)
KNOWN: Mapping[str, Known] = {
    "IMG_BUCKET": _bucket,
    "LOCATION": _REGION,
    "firebaseextensions.v1beta.function/location": _REGION,
    "firebaseextensions.v1beta.v2function/location": _REGION,
    "BUCKET_REGION": _becomes("REGION", lambda value: MULTI_REGIONS.get(value.lower(), value.lower())),
    "FUNCTION_DEFAULT_REGION": _default_region,
    "IMG_SIZES": _becomes("SIZES"),
    "DELETE_ORIGINAL_FILE": _source,
    "MAKE_PUBLIC": _public,
    "RESIZED_IMAGES_PATH": _layout,
    "INCLUDE_PATH_LIST": _include,
    "EXCLUDE_PATH_LIST": _becomes("EXCLUDE", lambda value: ",".join(_patterns(value))),
    "FAILED_IMAGES_PATH": _row(
        "QUARANTINE_BUCKET", "always on, in a separate bucket, with the reason in the metadata"
    ),
    "CACHE_CONTROL_HEADER": _cache,
    "IMAGE_TYPE": _formats,
    "OUTPUT_OPTIONS": _output,
    "SHARP_OPTIONS": _sharp,
    "IS_ANIMATED": _animated,
    "FUNCTION_MEMORY": _row(
        "MEMORY_LIMIT_MB (512)", "not imported: it is a memory budget, and 512 MiB are enough"
    ),
    "DO_BACKFILL": _backfill,
    "REGENERATE_TOKEN": _row(
        "no equivalent", "download tokens are never copied: getDownloadURL creates one for each picture"
    ),
    "CONTENT_FILTER_LEVEL": _safety,
    "CUSTOM_FILTER_PROMPT": _FILTER,
    "PLACEHOLDER_IMAGE_PATH": _FILTER,
    "EVENTARC_CHANNEL": _EVENTS,
    "ALLOWED_EVENT_TYPES": _EVENTS,
    "EXT_SELECTED_EVENTS": _EVENTS,
}

SYSTEM = ("firebaseextensions.v1beta.", "EXT_MIGRATED_SYSTEM_")


def known(name: str) -> Known:
    """Return the converter of a parameter."""
    return KNOWN.get(name, _SYSTEM if name.startswith(SYSTEM) else _unknown)

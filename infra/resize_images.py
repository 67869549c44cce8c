"""`make import EXTENSION=extensions/storage-resize-images.env`: settings of Firebase's Resize Images as ours.

Reads what `firebase ext:export` wrote of the extension `storage-resize-images`, or the folder of an instance
of the function kit of that name, shows parameter by parameter what becomes of it, what has no equal here and
what to do then, and writes `settings.mk`, which `make plan`, `make deploy` and what comes after them read;
what is said on the command line or in the environment goes first. docs/from-resize-images.md tells the rest.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dropcap.domain.naming import ORIGINAL
from dropcap.domain.upload import RESIZED
from dropcap.errors import SettingsError
from dropcap.settings import Settings
from infra.cloud import CloudError
from infra.cloud.config import check
from infra.cloud.settings_file import FILE, line, replace
from infra.resize_images_parameters import Import, known

LARGEST = 1_000_000  # bytes of an exported file, which has some hundred
LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z][\w./-]*)\s*=(.*)")
# Values of a kit, as firebase-tools 15.34.2 (2026-10-28) reads and writes them (lib/functions/env.js, LINE_RE
# and formatUserEnvForWrite): in quotes where a character must be escaped, and bare up to a comment. An export
# of the extension is written without quotes and comments (lib/extensions/manifest.js, writeEnvFiles).
KIT_VALUE = re.compile(r"""\s*(?:'([^']*)'|"((?:\\.|[^"\\])*)"|([^'"#][^#]*|))\s*(?:#.*)?""")
ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "v": "\v"}
# What a kit does where its file does not say: firebase/extensions, kits/storage-resize-images, src/config.ts
# at 09a5645f and README.md at 0a71d866 (2026).
KIT_DEFAULTS = {"IMG_SIZES": "200x200", "DELETE_ORIGINAL_FILE": "false", "IS_ANIMATED": "true"}
PLACE = re.compile(r"\$\{(?:param:)?PROJECT_ID\}")


def read(path: Path, project: str) -> dict[str, str]:
    """Return the parameters of an exported file, or of the folder of a kit's instance, without empty ones.

    `${param:PROJECT_ID}`, which the export puts in the project's place, is it again. Raises CloudError.
    """
    kit = path.is_dir() or path.name.startswith(".env")
    given: dict[str, str] = {}
    for file in _files_of(path, project):
        given |= _kit(file) if kit else _export(file)
    given = {name: value for name, value in given.items() if value}
    if kit:
        given = KIT_DEFAULTS | given
    if not {"IMG_BUCKET", "IMG_SIZES"} <= given.keys():
        raise CloudError(
            f"{path} is no configuration of storage-resize-images: it lacks IMG_BUCKET or IMG_SIZES. "
            "To a kit of the project's default bucket, add IMG_BUCKET=NAME."
        )
    if not project and any(map(PLACE.search, given.values())):
        raise CloudError(f"{path} leaves the project open: make import EXTENSION={path} PROJECT=my-project")
    return {name: PLACE.sub(lambda _: project, value) for name, value in given.items()}


def _files_of(path: Path, project: str) -> list[Path]:
    """Return the files to read, the later before the earlier ones: of a folder, as the Firebase CLI does."""
    if not path.is_dir():
        return [path]
    files = [file for file in (path / ".env", path / f".env.{project}") if file.is_file()]
    if files:
        return files
    if instances := sorted(folder.name for folder in path.iterdir() if any(folder.glob(".env*"))):
        which = ", ".join(instances)
        raise CloudError(f"{path} holds several configurations: name the folder of one instance ({which}).")
    raise CloudError(f"{path} holds neither .env nor .env.{project or 'PROJECT'}: name an instance's folder.")


def _lines(path: Path) -> list[tuple[str, str]]:
    """Return names and values as they are written."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:  # the settings behind would be lost
            raise CloudError(f"{path} is larger than {LARGEST / 1e6:g} MB, which no exported file is.")
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as wrong:
        raise CloudError(
            f"{path} can't be read: name what firebase ext:export wrote, extensions/NAME.env, "
            "or the folder of a kit's instance."
        ) from wrong
    return [(found[1], found[2].strip()) for line in text.splitlines() if (found := LINE.fullmatch(line))]


def _export(path: Path) -> dict[str, str]:
    """Return what `firebase ext:export` wrote, where somebody may have put quotes."""
    given = {}
    for name, value in _lines(path):
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        given[name] = value[1:-1].replace('\\"', '"') if quoted else value
    return given


def _kit(path: Path) -> dict[str, str]:
    """Return what the Firebase CLI reads in the file of a kit's instance."""
    given = {}
    for name, value in _lines(path):
        found = KIT_VALUE.fullmatch(value)
        if not found:
            raise CloudError(f"{path} can't be read: the quotes of {name} do not end in the same line.")
        single, double, bare = found.groups()
        if double is not None:
            given[name] = re.sub(r"\\(.)", lambda escape: ESCAPED.get(escape[1], escape[1]), double)
        else:
            given[name] = single if single is not None else bare.strip()
    return given


def convert(given: Mapping[str, str]) -> Import:
    """Our settings for those of the extension. Raises CloudError where one can't be used."""
    result = Import(given)
    for name in given:
        known(name)(result, name, given[name])
    _leave_outputs_alone(result)
    if "RESIZED_IMAGES_PATH" not in given:
        result.settings["LAYOUT"] = "beside"
        result.rows.append(("RESIZED_IMAGES_PATH not set", "LAYOUT=beside", "names as they were"))
    if "IMAGE_TYPE" not in given:
        result.settings["FORMAT"] = ORIGINAL
        result.rows.append(("IMAGE_TYPE not set", f"FORMAT={ORIGINAL}", ""))
    if "REGION" not in result.settings:
        note = "where the bucket is: make plan REGION=…"
        result.rows.append(("BUCKET_REGION not set", "REGION not set", note))
    if "CACHE_CONTROL" not in result.settings:
        note = "it took the original's; here browsers keep a copy for an hour"
        result.rows.append(("CACHE_CONTROL_HEADER not set", "as ever", note))
    check(result.settings)
    try:
        Settings.read(result.settings)
    except SettingsError as wrong:
        raise CloudError(f"The extension's settings can't be ours: {wrong}") from wrong
    return result


def _leave_outputs_alone(result: Import) -> None:
    """What the extension wrote into the bucket is no upload: it would be resized, described, and deleted."""
    sizes = [size.strip() for size in result.settings["SIZES"].split(",")]
    outputs = [pattern for size in sizes for pattern in (f"*_{size}", f"*_{size}.*")]
    if failed := result.given.get("FAILED_IMAGES_PATH", "").strip("/"):
        if set(failed) & {",", "?"}:
            raise CloudError(
                f"FAILED_IMAGES_PATH={failed} can't be imported: patterns here can't match a literal comma "
                "or question mark."
            )
        outputs += [f"{failed}/*", f"*/{failed}/*"]
    before = result.settings.get("EXCLUDE", "")
    result.settings["EXCLUDE"] = ",".join(([before] if before else []) + outputs)
    note = (
        "what it wrote into the bucket stays there, and is no upload; of sizes from before by its metadata, "
        f"{RESIZED}=true: add their names to EXCLUDE where something has taken that away"
    )
    result.rows.append(("(its resized pictures)", f"EXCLUDE+={','.join(outputs)}", note))


def makefile(settings: Mapping[str, str], source: Path) -> str:
    """The settings for make, which gives them to its commands where nobody has said otherwise."""
    lines = [f"# From {source.name}, by make import. The command line and the environment go before it."]
    lines += [line(name, value) for name, value in settings.items()]
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 1 with the reason in one line on standard error."""
    parser = argparse.ArgumentParser(prog="make import", description="Take over Resize Images' settings.")
    parser.add_argument(
        "extension", nargs="?", type=Path, help="what firebase ext:export wrote, or a kit's instance"
    )
    parser.add_argument("--project", default="", help="id of the project, where the file leaves it open")
    parser.add_argument("--force", action="store_true", help=f"overwrite {FILE}")
    arguments = parser.parse_args(words)
    try:
        if not arguments.extension or str(arguments.extension) == ".":
            raise CloudError("Say which file: make import EXTENSION=extensions/storage-resize-images.env")
        if FILE.exists() and not arguments.force:
            raise CloudError(f"{FILE} is there already: FORCE=1 overwrites it.")
        result = convert(read(arguments.extension, arguments.project))
        replace(makefile(result.settings, arguments.extension))
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

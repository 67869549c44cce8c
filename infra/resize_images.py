"""`make import EXTENSION=extensions/storage-resize-images.env`: import settings of Firebase's Resize Images.

Reads the file that `firebase ext:export` wrote for the extension `storage-resize-images`, or the folder of an
instance of the function kit of that name. Prints the equivalent of each parameter, or what to do if there is
none, and writes `settings.mk`. `make plan`, `make deploy` and the other deployment commands read that file;
the command line and the environment override it. See docs/from-resize-images.md.
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

LARGEST = 1_000_000  # bytes; an exported file has a few hundred
LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z][\w./-]*)\s*=(.*)")
# Values of a kit, as firebase-tools 15.34.2 (2026-10-28) reads and writes them (lib/functions/env.js, LINE_RE
# and formatUserEnvForWrite): in quotes where a character must be escaped, and bare up to a comment. An export
# of the extension is written without quotes and comments (lib/extensions/manifest.js, writeEnvFiles).
KIT_VALUE = re.compile(r"""\s*(?:'([^']*)'|"((?:\\.|[^"\\])*)"|([^'"#][^#]*|))\s*(?:#.*)?""")
ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "v": "\v"}
# The kit's defaults: firebase/extensions, kits/storage-resize-images, src/config.ts
# at 09a5645f and README.md at 0a71d866 (2026).
KIT_DEFAULTS = {"IMG_SIZES": "200x200", "DELETE_ORIGINAL_FILE": "false", "IS_ANIMATED": "true"}
PROJECT_PLACEHOLDER = re.compile(r"\$\{(?:param:)?PROJECT_ID\}")


def read(path: Path, project: str) -> dict[str, str]:
    """Return the non-empty parameters of an exported file, or of the folder of a kit's instance.

    Replaces `${param:PROJECT_ID}`, the export's placeholder, with `project`. Raises CloudError.
    """
    kit = path.is_dir() or path.name.startswith(".env")
    parameters: dict[str, str] = {}
    for file in _files_of(path, project):
        parameters |= _kit(file) if kit else _export(file)
    parameters = {name: value for name, value in parameters.items() if value}
    if kit:
        parameters = KIT_DEFAULTS | parameters
    if not {"IMG_BUCKET", "IMG_SIZES"} <= parameters.keys():
        raise CloudError(
            f"{path} is not a configuration of storage-resize-images: it lacks IMG_BUCKET or IMG_SIZES. "
            "For a kit that uses the project's default bucket, add IMG_BUCKET=NAME."
        )
    if not project and any(map(PROJECT_PLACEHOLDER.search, parameters.values())):
        raise CloudError(f"{path} does not name the project: make import EXTENSION={path} PROJECT=my-project")
    return {name: PROJECT_PLACEHOLDER.sub(lambda _: project, value) for name, value in parameters.items()}


def _files_of(path: Path, project: str) -> list[Path]:
    """Return the files to read, in order of increasing priority, as the Firebase CLI does for a folder."""
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
    """Return the names and the raw values of a file."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:  # the rest of the settings would be lost
            raise CloudError(f"{path} is larger than {LARGEST / 1e6:g} MB: it can't be an exported file.")
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as wrong:
        raise CloudError(
            f"{path} can't be read: name the file that firebase ext:export wrote, extensions/NAME.env, "
            "or the folder of a kit's instance."
        ) from wrong
    return [(found[1], found[2].strip()) for line in text.splitlines() if (found := LINE.fullmatch(line))]


def _export(path: Path) -> dict[str, str]:
    """Return the values of a file by `firebase ext:export`, without quotes that were added by hand."""
    parameters = {}
    for name, value in _lines(path):
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        parameters[name] = value[1:-1].replace('\\"', '"') if quoted else value
    return parameters


def _kit(path: Path) -> dict[str, str]:
    """Return the values of a kit's instance, parsed as the Firebase CLI does."""
    parameters = {}
    for name, value in _lines(path):
        found = KIT_VALUE.fullmatch(value)
        if not found:
            raise CloudError(f"{path} can't be read: {name} has an opening quote without a closing one.")
        single, double, bare = found.groups()
        if double is not None:
            parameters[name] = re.sub(r"\\(.)", lambda escape: ESCAPED.get(escape[1], escape[1]), double)
        else:
            parameters[name] = single if single is not None else bare.strip()
    return parameters


def convert(parameters: Mapping[str, str]) -> Import:
    """Return Dropcap's settings for those of the extension. Raises CloudError if a value can't be used."""
    result = Import(parameters)
    for name in parameters:
        known(name)(result, name, parameters[name])
    _leave_outputs_alone(result)
    if "RESIZED_IMAGES_PATH" not in parameters:
        result.settings["LAYOUT"] = "beside"
        result.rows.append(("RESIZED_IMAGES_PATH not set", "LAYOUT=beside", "the same names"))
    if "IMAGE_TYPE" not in parameters:
        result.settings["FORMAT"] = ORIGINAL
        result.rows.append(("IMAGE_TYPE not set", f"FORMAT={ORIGINAL}", ""))
    if "REGION" not in result.settings:
        note = "use the bucket's region: make plan REGION=…"
        result.rows.append(("BUCKET_REGION not set", "REGION not set", note))
    if "CACHE_CONTROL" not in result.settings:
        note = "the extension copies the original's; with Dropcap, browsers cache a copy for an hour"
        result.rows.append(("CACHE_CONTROL_HEADER not set", "default", note))
    check(result.settings)
    try:
        Settings.read(result.settings)
    except SettingsError as wrong:
        raise CloudError(f"The extension's settings can't be imported: {wrong}") from wrong
    return result


def _leave_outputs_alone(result: Import) -> None:
    """Exclude the extension's outputs, which would otherwise be resized, described and deleted as uploads."""
    sizes = [size.strip() for size in result.settings["SIZES"].split(",")]
    outputs = [pattern for size in sizes for pattern in (f"*_{size}", f"*_{size}.*")]
    if failed := result.parameters.get("FAILED_IMAGES_PATH", "").strip("/"):
        if set(failed) & {",", "?"}:
            raise CloudError(
                f"FAILED_IMAGES_PATH={failed} can't be imported: patterns here can't match a literal comma "
                "or question mark."
            )
        outputs += [f"{failed}/*", f"*/{failed}/*"]
    before = result.settings.get("EXCLUDE", "")
    result.settings["EXCLUDE"] = ",".join(([before] if before else []) + outputs)
    note = (
        "the extension's outputs stay in the bucket and are not uploads. Outputs in earlier sizes are "
        f"recognized by their metadata, {RESIZED}=true: if that is missing, add their names to EXCLUDE"
    )
    result.rows.append(("(its resized pictures)", f"EXCLUDE+={','.join(outputs)}", note))


def makefile(settings: Mapping[str, str], source: Path) -> str:
    """Return the settings as a makefile; each applies unless the command line or the environment sets it."""
    lines = [f"# From {source.name}, by make import. The command line and the environment override it."]
    lines += [line(name, value) for name, value in settings.items()]
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status: 0, or 1 after printing the reason in one line on standard error."""
    parser = argparse.ArgumentParser(prog="make import", description="Import the settings of Resize Images.")
    parser.add_argument(
        "extension", nargs="?", type=Path, help="file by firebase ext:export, or folder of a kit's instance"
    )
    parser.add_argument("--project", default="", help="project id, if the file does not name it")
    parser.add_argument("--force", action="store_true", help=f"overwrite {FILE}")
    arguments = parser.parse_args(words)
    try:
        if not arguments.extension or str(arguments.extension) == ".":
            raise CloudError(
                "EXTENSION is not set: make import EXTENSION=extensions/storage-resize-images.env"
            )
        if FILE.exists() and not arguments.force:
            raise CloudError(f"{FILE} already exists: FORCE=1 overwrites it.")
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
    console.print("Dropcap takes the first folder of a name as the user: users/ana/a.jpg belongs to `users`.")
    console.print(f"Written to {FILE}. make plan PROJECT=my-project shows what a deployment would change.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

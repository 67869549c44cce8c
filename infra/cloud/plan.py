"""Compare the declaration with the existing resources; show the changes as a table or a script."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dropcap.errors import SettingsError
from infra.cloud import CloudError
from infra.cloud.config import SECRETS, Config
from infra.cloud.inventory import Cloud
from infra.cloud.operations import gallery
from infra.cloud.resources.access import Grant, unwanted_access
from infra.cloud.resources.base import Change, Resource
from infra.cloud.resources.declaration import resources
from infra.cloud.resources.functions import variables
from infra.cloud.resources.rights import secret, secrets_of
from infra.cloud.resources.secrets import Secret
from infra.cloud.source import Source


def changes(config: Config, cloud: Cloud, source: Source) -> list[Change]:
    """Return the changes in order: access is removed first and granted last.

    Raises CloudError if the functions would have no database, delete objects without confirmation, publish
    held pictures, or let nobody sign in.
    """
    if (
        not config.cloud_sql
        and not config.settings.database_url
        and not cloud.values.get("dropcap-database-url")
    ):
        raise CloudError(
            "Dropcap needs a PostgreSQL: set DATABASE_URL='postgresql://user:password@host/name', "
            "or CLOUD_SQL=new to create one (docs/costs.md has the price)."
        )
    if config.settings.events.startswith("https:") and "EVENTS_SECRET" not in secrets_of(config, cloud):
        raise CloudError(
            "EVENTS is a webhook, but EVENTS_SECRET is not set: docs/events.md shows how to create one."
        )
    if cloud.no_topic:
        topic = config.settings.events
        raise CloudError(f"There is no topic {topic}: gcloud pubsub topics create {topic}")
    _check_instance(config, cloud)
    _check_sources(config, cloud)
    _check_safety(config, cloud)
    gallery.check(config)
    declared = resources(config, cloud, source)
    wanted = [each.difference(cloud) for each in declared]
    public, own = unwanted_access(config, cloud, declared)
    return [*public, *(each for each in wanted if each), *own, *_unwanted(config, cloud, source, declared)]


def _all(config: Config, cloud: Cloud, source: Source) -> list[Resource]:
    """Return the declaration with all optional resources, wanted or not."""
    was = config.deployed
    most = replace(
        config,
        gallery="1",
        alerts="1",
        alert_email=config.alert_email or was.get("ALERT_EMAIL", ""),
        budget=config.budget or was.get("BUDGET", ""),
    )
    return resources(most, cloud, source)


def _unwanted(config: Config, cloud: Cloud, source: Source, declared: Sequence[Resource]) -> list[Change]:
    """Return the removals of unwanted optional resources; their grants are removed before."""
    titles = {each.title for each in declared}
    going = [each for each in _all(config, cloud, source) if each.title not in titles]
    found = [each.removal(cloud) for each in reversed(going) if not isinstance(each, Grant)]
    return [replace(each, why="no longer wanted") for each in found if each]


def _check_instance(config: Config, cloud: Cloud) -> None:
    """Raise CloudError if CLOUD_SQL has the wrong region of an instance."""
    found = (cloud.instance or {}).get("connectionName", config.cloud_sql)
    if config.cloud_sql not in ("", "new", found):
        raise CloudError(f"CLOUD_SQL={config.cloud_sql} is not allowed: the instance is {found}.")


def _check_safety(config: Config, cloud: Cloud) -> None:
    """Raise CloudError if SAFETY is set without the key that it needs."""
    key = "there" if "GEMINI_API_KEY" in secrets_of(config, cloud) else ""
    try:
        replace(config.settings, gemini_api_key=key).check_start()
    except SettingsError as wrong:
        raise CloudError(str(wrong)) from wrong


def _check_sources(config: Config, cloud: Cloud) -> None:
    """Raise CloudError if `sweep` would delete existing objects by default, as they are analyzed, too."""
    uploads = config.buckets["uploads"]
    watched = variables(cloud.services.get("dropcap-on-upload")).get("UPLOADS_BUCKET")
    if config.value_of("SOURCE") or config.settings.source != "delete":
        return
    if uploads == watched or uploads not in cloud.buckets:
        return
    if cloud.gcloud.read("storage", "objects", "list", f"gs://{uploads}/**", "--limit=1"):
        raise CloudError(
            f"gs://{uploads} is not empty, and Dropcap would analyze and then delete its objects: "
            "set SOURCE=keep or SOURCE=archive, or SOURCE=delete if they may be deleted."
        )


def removals(config: Config, cloud: Cloud, source: Source, data: bool) -> list[Change]:
    """Return the removals of `make destroy`, in reverse order; resources with data only with `data`.

    Grants on removed resources need no command: they are removed with the resource.
    """
    going = ("function ", "bucket ", "secret ") if data else ("function ",)
    declared = [
        *(secret(name, config) for name in SECRETS),  # also secrets that the current settings do not use
        *(each for each in _all(config, cloud, source) if not isinstance(each, Secret)),
    ]
    return [
        change
        for each in reversed(declared)
        if (data or not each.data) and not (isinstance(each, Grant) and each.target.startswith(going))
        if (change := each.removal(cloud))
    ]


def show(
    console: Console, planned: Sequence[Change], stays: Mapping[str, str], nothing: str = "Nothing to change."
) -> None:
    """Print the plan: a table at a terminal, otherwise plain text."""
    _table(console, planned)
    if stays:
        kept = shlex.join(f"{name}={value}" for name, value in stays.items())
        console.print(f"Stays as deployed: {kept}", soft_wrap=True, markup=False)
    count = len(planned)
    console.print(f"{count} {'change' if count == 1 else 'changes'}." if planned else nothing)


def _table(console: Console, planned: Sequence[Change]) -> None:
    if not console.is_terminal:
        for each in planned:
            console.print(
                f"{each.what}: {each.now} -> {each.then} ({each.why})", soft_wrap=True, markup=False
            )
    elif planned:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        for name in ("what", "now", "then", "why"):
            table.add_column(name, overflow="fold")
        for each in planned:
            table.add_row(*map(escape, (each.what, each.now, each.then, each.why)))
        console.print(table)


def script(config: Config, planned: Sequence[Change]) -> str:
    """Return the plan as a readable shell script that runs in the project's folder."""
    needed = [
        name for name in SECRETS if any(each.secret == name for change in planned for each in change.commands)
    ]
    lines = ["#!/bin/sh", "set -eu"]
    lines += [f': "${{{name}:?}}"' for name in needed]
    lines += ["FILES=$(mktemp -d)", "trap 'rm -r \"$FILES\"' EXIT"]
    lines += [f"export CLOUDSDK_CORE_PROJECT={shlex.quote(config.project)} CLOUDSDK_CORE_DISABLE_PROMPTS=1"]
    for change in planned:
        lines += ["", f"# {change.what}: {change.then} ({change.why})"]
        lines += [each.shell() for each in change.commands]
    return "\n".join(lines)

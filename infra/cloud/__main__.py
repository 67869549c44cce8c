"""The commands of make for Google Cloud: python -m infra.cloud COMMAND, configured by the environment."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console

from infra.cloud import CloudError, settings_file
from infra.cloud.apply import apply
from infra.cloud.config import INSTANCE_NAME, Config, help_lines, project_of
from infra.cloud.deployed import LOCATION_SETTINGS, begin, complete, services
from infra.cloud.gcloud import known_errors
from infra.cloud.gcloud.command import Gcloud
from infra.cloud.inventory import Cloud
from infra.cloud.operations import after, redescribe, verify
from infra.cloud.plan import changes, removals, script, show
from infra.cloud.resources import rights
from infra.cloud.resources.buckets import retention_warnings
from infra.cloud.source import check_model
from infra.cloud.source import read as read_source
from infra.confirm import NotConfirmed, confirm

Run = Callable[[Console, Config, Cloud], None]
# These must also work if the deployment has a setting that this version does not allow.
TOLERANT = ("destroy", "logs", "open", "rollback")


def _plan(console: Console, config: Config, cloud: Cloud) -> None:
    check_model(config)
    config = complete(config, cloud)
    planned = changes(config, cloud, read_source())
    _warn(config, cloud)
    if config.environment.get("COMMANDS"):
        print(script(config, planned))
    else:
        show(console, planned, config.stays)


def _deploy(console: Console, config: Config, cloud: Cloud) -> None:
    check_model(config)
    _require_confirmation(config, "deploy")
    source, config = read_source(), complete(config, cloud)
    planned = changes(config, cloud, source)
    show(console, planned, config.stays)
    _warn(config, cloud)
    if planned:
        confirm(f"Deploy {source.commit} to {config.project}?", config.environment.get("YES"))
        apply(console, cloud.gcloud, planned)
        _, cloud.services = services(cloud.gcloud, config.region)
    settings_file.write(config)
    after.deployed(console, config, cloud)


def _warn(config: Config, cloud: Cloud) -> None:
    """Warn of buckets whose policies prevent deletions."""
    for line in retention_warnings(config, cloud):
        print(f"Warning: {line}", file=sys.stderr)


def _destroy(console: Console, config: Config, cloud: Cloud) -> None:
    data = bool(config.environment.get("DATA"))
    _require_confirmation(config, "destroy", config.project if data else "1")
    config = complete(config, cloud, tolerant=True)
    _check_orphaned_instance(config, cloud, data)
    planned = removals(config, cloud, read_source(), data)
    show(console, planned, {}, "There is nothing to destroy.")
    if not planned:
        return
    if not data:
        question = "Destroy all this, and keep buckets, database and secrets (DATA=1 deletes them)?"
        confirm(question, config.environment.get("YES"))
    elif config.environment.get("YES") != config.project:
        warning = "This also deletes all data: pictures, quarantine, database, secrets."
        if console.input(f"{warning} Type the project id to continue: ", markup=False) != config.project:
            raise CloudError("Nothing was changed.")
    if cloud.services:
        settings_file.write(config)  # the services, which store the settings, are removed first
    apply(console, cloud.gcloud, planned)
    if data:
        console.print("Destroyed.")
        return
    locations = {name: value for name, value in config.chosen.items() if LOCATION_SETTINGS.fullmatch(name)}
    again = shlex.join(f"{name}={value}" for name, value in {"PROJECT": config.project, **locations}.items())
    kept = f"buckets, database and secrets: make destroy {again} DATA=1 deletes them, too."
    console.print(f"Destroyed, except for {kept}", markup=False, soft_wrap=True)


def _check_orphaned_instance(config: Config, cloud: Cloud, data: bool) -> None:
    """Raise CloudError if an instance may be Dropcap's, but no service shows it any more."""
    if not data or cloud.services or config.environment.get("CLOUD_SQL"):
        return
    if "sqladmin.googleapis.com" not in cloud.apis:
        return
    instances = cloud.gcloud.read("sql", "instances", "list") or ()
    if any(each["name"] == INSTANCE_NAME for each in instances):
        raise CloudError(
            f"There is a Cloud SQL instance {INSTANCE_NAME}, and no function that shows whether it is "
            "Dropcap's: CLOUD_SQL=new destroys it with all its data, CLOUD_SQL=default keeps it."
        )


def _rollback(console: Console, config: Config, cloud: Cloud) -> None:
    _require_confirmation(config, "rollback")
    planned = after.rollback(config, cloud)
    show(console, planned, {})
    question = "Send all traffic there? make deploy sends it back."
    confirm(question, config.environment.get("YES"))
    apply(console, cloud.gcloud, planned)


def _backfill(console: Console, config: Config, cloud: Cloud) -> None:
    from infra.cloud.backfill.command import (
        backfill,  # here, as it loads Google's clients, which no other command needs
    )

    backfill(console, config, cloud)


def _require_confirmation(config: Config, command: str, yes: str = "1") -> None:
    """Raise CloudError if there is no terminal to confirm at, and YES does not confirm."""
    answer = config.environment.get("YES", "")
    if not sys.stdin.isatty() and (not answer or yes == config.project != answer):
        again = f"make {command} PROJECT={config.project}" + (" DATA=1" if yes != "1" else "")
        raise CloudError(
            f"Nothing was changed, as there is no terminal to confirm at: {again} YES={yes} needs none"
        )


COMMANDS: dict[str, tuple[Run, str]] = {
    "plan": (
        _plan,
        "show what make deploy would change; COMMANDS=1: as gcloud commands",
    ),
    "deploy": (_deploy, "create or change what differs from the wanted deployment; YES=1: do not ask"),
    "destroy": (
        _destroy,
        "remove everything except the data; DATA=1: the data, too (YES=my-project: do not ask)",
    ),
    "verify": (verify.verify, "upload a sample picture and wait for its result; WAIT_S=180"),
    "rollback": (_rollback, "send all traffic to the previous version of the code; YES=1: do not ask"),
    "logs": (after.logs, "show the functions' logs; FUNCTION=on-upload SINCE=1h SEVERITY=WARNING LIMIT=200"),
    "backfill": (
        _backfill,
        "process the existing pictures of the bucket; BUCKET=my-uploads PREFIX=ana/ RATE=5 YES=1",
    ),
    "redescribe": (
        redescribe.redescribe,
        "describe pictures of an earlier prompt or model again; OWNER=ana SINCE=2026-11-01 ALL=1 YES=1",
    ),
    "open": (
        after.addresses,
        "print the addresses of gallery, dashboard, functions and buckets, and open them in a browser",
    ),
}


TABLES: dict[str, tuple[Callable[[], str], str]] = {
    "roles": (rights.table, "print which account has which role, and why"),
    "known-errors": (
        known_errors.table,
        "print the known errors of Google and gcloud, their handling, and the sources",
    ),
}


def main(words: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Run a command; return its exit status: 0, or 1 with the reason in one line on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.cloud",
        description="Deploy and operate Dropcap in Google Cloud, configured by the environment or by make.",
        epilog=f"variables:\n{help_lines()}\n  and every setting of the functions, docs/settings.md",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, meaning) in [*COMMANDS.items(), *TABLES.items()]:
        shape, after_it = parser.formatter_class, parser.epilog
        commands.add_parser(name, help=meaning, description=meaning, epilog=after_it, formatter_class=shape)
    command = parser.parse_args(words).command
    if command in TABLES:
        print(TABLES[command][0]())
        return 0
    try:
        run, _ = COMMANDS[command]
        project = project_of(environment)
        settings_file.check(project, environment)
        config, cloud = begin(environment, Gcloud(project, environment), command in TOLERANT)
        run(Console(highlight=False), config, cloud)
    except (CloudError, NotConfirmed) as reason:
        print(f"make {command}: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nmake {command}: stopped. Run the same command again to continue.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

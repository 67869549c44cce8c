"""Translate an error of gcloud into one line with the problem and its remedy.

known_errors.toml lists the messages of Google and gcloud with their meanings.
"""

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from infra.cloud import CloudError

# Role by prefix of a permission, or by the first word of the gcloud command if Google's error names no
# permission. The longest matching prefix is used.
ROLES = {
    "artifactregistry": "roles/artifactregistry.admin",
    "billing": "roles/billing.costsManager",
    "cloudbuild": "roles/cloudbuild.builds.editor",
    "cloudscheduler": "roles/cloudscheduler.admin",
    "cloudsql": "roles/cloudsql.admin",
    "cloudtasks": "roles/cloudtasks.admin",
    "eventarc": "roles/eventarc.admin",
    "iam.serviceAccounts": "roles/iam.serviceAccountAdmin",
    "iam.serviceAccounts.actAs": "roles/iam.serviceAccountUser",
    "logging": "roles/logging.admin",
    "monitoring": "roles/monitoring.admin",
    "pubsub": "roles/pubsub.admin",
    "resourcemanager.projects": "roles/resourcemanager.projectIamAdmin",
    "resourcemanager.projects.get": "roles/browser",
    "run": "roles/run.admin",
    "secretmanager": "roles/secretmanager.admin",
    "serviceusage": "roles/serviceusage.serviceUsageAdmin",
    "storage": "roles/storage.admin",
}
SURFACES = {
    "artifacts": "artifactregistry",
    "iam": "iam.serviceAccounts",
    "projects": "resourcemanager.projects",
    "scheduler": "cloudscheduler",
    "secrets": "secretmanager",
    "services": "serviceusage",
    "sql": "cloudsql",
    "tasks": "cloudtasks",
}
AGAIN = "This is usually temporary: run the same command again."
PERMISSION = re.compile(r"\b(?!www\.|storage\.objectUser)([a-z]+(?:\.[a-zA-Z]+){2})\b(?!\.com|\.)")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownError:
    """One message of Google or gcloud; known_errors.toml describes the fields."""

    name: str
    example: str
    meaning: str
    source: str
    date: date
    regex: str = ""
    on: str = ""
    status: int = 0
    code: str = ""
    reason: str = ""
    remedy: str = ""
    until: str = ""
    minutes: int = 5
    leaves_revision: bool = False
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", re.compile(self.regex or re.escape(self.example)))

    def match_in(self, words: Sequence[str], stderr: str) -> re.Match[str] | None:
        """Return the match of this message in a command's standard error."""
        return self.pattern.search(_error(stderr)) if re.match(self.on, " ".join(words)) else None


def _read() -> tuple[KnownError, ...]:
    tables: Mapping[str, Mapping[str, object]] = tomllib.loads(
        Path(__file__).with_name("known_errors.toml").read_text()
    )
    return tuple(KnownError(name=name, **table) for name, table in tables.items())  # type: ignore[arg-type]


KNOWN_ERRORS = _read()


class TemporaryError(CloudError):
    """A temporary error; `known` has the reason and the maximum time to wait."""

    def __init__(self, line: str, known: KnownError) -> None:
        super().__init__(line)
        self.known = known


def translate(words: Sequence[str], stderr: str, project: str, account: Callable[[], str]) -> CloudError:
    """Return the error for gcloud's standard error; `account` returns the signed-in account."""
    line = _last_line(stderr)
    command = "gcloud " + " ".join(word for word in words[:4] if not word.startswith("-"))
    for known in KNOWN_ERRORS:
        if not (match := known.match_in(words, stderr)):
            continue
        if known.meaning == "wait":
            return TemporaryError(f"`{command}` was refused: {line} {AGAIN}", known)
        if known.meaning == "permission":
            return _denied(words, stderr, project, account())
        found = match[1] if match.re.groups else ""
        name = words[3] if len(words) > 3 else ""
        return CloudError(
            known.remedy.format(command=command, project=project, line=line, found=found, name=name)
        )
    return CloudError(f"`{command}` failed: {line}")


def table() -> str:
    """Return the list as a Markdown table: the message, what Dropcap does, the source with its date."""
    rows = ["| Google or gcloud says | Dropcap | source |", "|---|---|---|"]
    for known in KNOWN_ERRORS:
        if known.meaning == "wait":
            does = f"waits for {known.until}, {known.minutes} minutes at most"
        elif known.meaning == "permission":
            does = "names the role that your account lacks, and the command that grants it"
        else:
            does = f"`` {_varying(known.remedy)} ``"
        rows.append(f"| `` {_varying(known.example)} `` | {does} | {known.source} ({known.date}) |")
    return "\n".join(rows)


def _varying(text: str) -> str:
    return re.sub(r"\{\w+\}", "…", text)


def role_of(permission: str) -> str:
    """Return the role to grant for a permission, or for the API that it begins with.

    Google also writes iam.serviceAccounts.actAs in lower case, so case is ignored.
    """
    wanted = f"{permission}.".lower()
    fitting = [beginning for beginning in ROLES if wanted.startswith(f"{beginning}.".lower())]
    return ROLES[max(fitting, key=len)] if fitting else "roles/owner"


def _denied(words: Sequence[str], stderr: str, project: str, account: str) -> CloudError:
    surface = next(word for word in words if word not in ("alpha", "beta"))
    google = re.sub(r"\(gcloud[\w.-]*\)", "", stderr)  # gcloud's prefix is not a permission
    named = [each for each in PERMISSION.findall(google) if each.partition(".")[0] in {*map(_api, ROLES)}]
    permission = named[0] if named else ""
    role = role_of(permission or SURFACES.get(surface, surface))
    kind = "serviceAccount" if account.endswith(".gserviceaccount.com") else "user"
    member = f"{kind}:{account or 'YOUR-ACCOUNT'}"
    missing = (
        f"the permission {permission}" if permission else f"a permission for `gcloud {' '.join(words[:3])}`"
    )
    grant = (
        f"gcloud projects add-iam-policy-binding {project} --member={member} --role={role} --condition=None"
    )
    if role.startswith("roles/billing"):
        grant = f"gcloud billing accounts add-iam-policy-binding ACCOUNT --member={member} --role={role}"
    return CloudError(
        f"{account or 'Your account'} lacks {missing}, which is part of {role}. To grant it: {grant}"
    )


def _api(beginning: str) -> str:
    return beginning.partition(".")[0]


def _error(stderr: str) -> str:
    """Return gcloud's output from the first ERROR on, in one line; warnings before it are irrelevant."""
    first = re.search(r"^ERROR: ", stderr, re.MULTILINE)
    return " ".join(stderr[first.start() if first else 0 :].split())


def _last_line(stderr: str) -> str:
    """Return the reason in one line: Google's message, or gcloud's output from its last ERROR on."""
    if messages := re.findall(r'"message": "((?:[^"\\]|\\.)+)"', stderr):
        return str(messages[0])[:500]
    _, error, line = stderr.rpartition("ERROR: ")
    if not error:
        line = next((line for line in stderr.splitlines()[::-1] if line.strip()), "it said nothing")
    line = re.sub(r"^\([\w.-]+\) ", "", " ".join(line.split()))
    return re.sub(r" This command is authenticated .*|-? '@type.*", "", line)[:500]

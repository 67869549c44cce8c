"""What gcloud refuses, as one line that says what is wrong and what to do about it."""

import re
from collections.abc import Callable, Sequence

from infra.cloud import CloudError

# The role that holds a permission, by the permission's beginning, and by the first word of gcloud's command
# where Google's answer names no permission. The longest beginning that fits counts.
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
DENIED = re.compile(
    r"PERMISSION_DENIED|permission denied|does not have (permission|\S+ access)|Required '?\S+'? permission"
    r"|Permission '?\S+'? denied|HTTPError 403|status=\[?403|Forbidden",
    re.IGNORECASE,
)
PERMISSION = re.compile(r"\b(?!www\.|storage\.objectUser)([a-z]+(?:\.[a-zA-Z]+){2})\b(?!\.com|\.)")
UNREACHABLE = r"ProxyError|ConnectionError|Max retries exceeded|[Nn]ame resolution|timed out"
# What passes by itself, soon after something was made or enabled, and what is then waited for.
PASSING = (
    (r"Eventarc Service Agent", "Eventarc's own account to get its rights"),
    (r"SERVICE_DISABLED|has not been used in project|it is disabled", "the API to be known everywhere"),
    (r"[Ss]ervice account \S+ does not exist", "the new account to be known everywhere"),
    (r"concurrent policy changes|status=\[?409\]?.*etag", "another change of the same rights to end"),
    (r"Cannot find metric that matches", "the new metrics to be known"),
    (UNREACHABLE, "the network"),
    (r"RATE_LIMIT_EXCEEDED|rateLimitExceeded|Too Many Requests|per minute", "a limit of calls a minute"),
    (r"currently unavailable|HTTPError 503|\bUNAVAILABLE\b", "Google to answer"),
    (
        r"does not have storage\.objects\.get access|artifactregistry\.\w+\.\w+.*denied.*build",
        "the new rights",
    ),
)
BILLING_OFF = r"[Bb]illing (account|must be enabled)|BILLING_DISABLED|PROJECT_BILLING|billing to be enabled"


class Passing(CloudError):
    """A refusal that passes by itself; `waits_for` says what is waited for."""

    def __init__(self, line: str, waits_for: str) -> None:
        super().__init__(line)
        self.waits_for = waits_for


def refusal(words: Sequence[str], said: str, project: str, account: Callable[[], str]) -> CloudError:
    """The error for what gcloud `said` on standard error to `words`; `account` says who is signed in."""
    line = _last_line(said)
    command = "gcloud " + " ".join(word for word in words[:4] if not word.startswith("-"))
    if re.search(
        r"do not currently have an active account|gcloud auth login|UNAUTHENTICATED|invalid authentication",
        said,
    ):
        return CloudError("Nobody is signed in to gcloud, or no longer: gcloud auth login")
    if re.search(r"not currently have this command group installed|alpha|beta", line) and "component" in said:
        return CloudError("gcloud lacks a component that this needs: gcloud components install alpha beta")
    if re.search(r"unrecognized arguments|Invalid choice", said):
        return CloudError(f"This gcloud is too old for `{command}`: gcloud components update ({line})")
    if words[:2] == ["projects", "describe"] and re.search(r"not found|permission|403|404", said):
        return CloudError(
            f"There is no project {project}, or your account can't see it: gcloud projects list shows "
            f"what it sees, gcloud projects create {project} makes it."
        )
    if re.search(BILLING_OFF, said) and not words[0].startswith("billing"):
        return CloudError(
            f"The project {project} has no billing account, which Cloud Run needs: "
            f"gcloud billing projects link {project} --billing-account=ACCOUNT (gcloud billing accounts list)"
        )
    for pattern, waits_for in PASSING:
        if re.search(pattern, said):
            return Passing(f"`{command}` was refused: {line} It passes: run the same again.", waits_for)
    if constraint := re.search(r"constraints/[\w.-]+", said):
        return CloudError(f"A policy of your organization, {constraint[0]}, forbids `{command}`: {line}")
    if re.search(r"RESOURCE_EXHAUSTED|[Qq]uota", said):
        return CloudError(
            f"A quota is used up at `{command}`: {line} "
            f"https://console.cloud.google.com/iam-admin/quotas?project={project} raises it."
        )
    if DENIED.search(said):
        return _denied(words, said, project, account())
    if words[:3] == ["storage", "buckets", "create"] and re.search(
        r"409|already (exists|own)|not available", said
    ):
        return CloudError(
            f"The name of {words[3]} is taken by somebody else: bucket names are the whole world's. "
            "Choose your own by UPLOADS_BUCKET, PICTURES_BUCKET, QUARANTINE_BUCKET or ARCHIVE_BUCKET."
        )
    return CloudError(f"`{command}` failed: {line}")


def role_of(permission: str) -> str:
    """The role to grant for a permission, or for the API that it begins with."""
    fitting = [beginning for beginning in ROLES if f"{permission}.".startswith(f"{beginning}.")]
    return ROLES[max(fitting, key=len)] if fitting else "roles/owner"


def _denied(words: Sequence[str], said: str, project: str, account: str) -> CloudError:
    surface = next(word for word in words if word not in ("alpha", "beta"))
    named = [each for each in PERMISSION.findall(said) if each.partition(".")[0] in {*map(_api, ROLES)}]
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
        f"{account or 'Your account'} lacks {missing}, which {role} has. Who may grant it: {grant}"
    )


def _api(beginning: str) -> str:
    return beginning.partition(".")[0]


def _last_line(said: str) -> str:
    """The reason in one line: Google's own message, else what gcloud said from its last ERROR on."""
    if messages := re.findall(r'"message": "((?:[^"\\]|\\.)+)"', said):
        return str(messages[0])[:500]
    _, error, line = said.rpartition("ERROR: ")
    if not error:
        line = next((line for line in said.splitlines()[::-1] if line.strip()), "it said nothing")
    line = re.sub(r"^\([\w.-]+\) ", "", " ".join(line.split()))
    return re.sub(r" This command is authenticated .*|-? '@type.*", "", line)[:500]

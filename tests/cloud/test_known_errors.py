"""Errors of Google and gcloud are handled as known_errors.toml defines; each message has a dated source."""

import datetime as dt
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from infra.cloud import CloudError
from infra.cloud.config import Config
from infra.cloud.gcloud.command import Command, Gcloud
from infra.cloud.gcloud.known_errors import (
    KNOWN_ERRORS,
    ROLES,
    KnownError,
    TemporaryError,
    role_of,
    translate,
)
from infra.cloud.gcloud.version import Tools
from tests.support.app import NO_GCLOUD
from tests.support.cloud.control_plane import ControlPlane
from tests.support.cloud.deployment import Deployment

MEANINGS = {"wait": "until", "remedy": "remedy", "permission": "status"}  # with the field that says what
VALUES = {
    "component": "beta",
    "constraint": "constraints/gcp.resourceLocations",
}  # of what varies, if it matters
COMMANDS = {
    "projects describe": "projects describe p",
    "storage buckets create": "storage buckets create gs://b",
}


def printed(known: KnownError) -> tuple[list[str], str]:
    """Return the arguments of a command that fails with this message, and gcloud's output."""
    words = COMMANDS.get(known.on, "run services update dropcap-analyze").split()
    values = {name: VALUES.get(name, "x") for name in re.findall(r"{(\w+)}", known.example)}
    return words, f"ERROR: (gcloud.{'.'.join(words[:3])}) {known.code} {known.example.format(**values)}"


@pytest.mark.parametrize("known", KNOWN_ERRORS, ids=lambda known: known.name)
def test_each_message_is_read_as_itself_and_has_a_source_with_its_date(known: KnownError) -> None:
    words, stderr = printed(known)
    first = next(each for each in KNOWN_ERRORS if each.match_in(words, stderr))
    assert first.name == known.name
    assert getattr(known, MEANINGS[known.meaning])
    assert re.search(r"https://|gcloud 528|requests|public repositories", known.source)
    assert dt.date(2019, 1, 1) <= known.date <= dt.datetime.now(dt.UTC).date()
    error = translate(words, stderr, "my-project", lambda: "ana@example.com")
    assert isinstance(error, TemporaryError) == (known.meaning == "wait")
    assert "\n" not in str(error)
    assert "{" not in str(error)


@pytest.mark.parametrize("permission", ["iam.serviceaccounts.actAs", "iam.serviceAccounts.actAs"])
def test_who_may_not_act_as_an_account_is_told_the_role_for_that_and_not_to_become_owner(
    permission: str,
) -> None:
    assert role_of(permission) == "roles/iam.serviceAccountUser"
    stderr = f"ERROR: (gcloud.run.deploy) Permission '{permission}' denied on service account"
    error = str(translate(["run", "deploy"], stderr, "my-project", lambda: "ana@example.com"))
    assert f"lacks the permission {permission}, which is part of roles/iam.serviceAccountUser" in error


def test_what_stands_before_googles_words_is_no_permission() -> None:
    """gcloud prints its command first, as in (gcloud.run.services.update), which is not a permission."""
    stderr = "ERROR: (gcloud.run.services.update) PERMISSION_DENIED: The caller does not have permission"
    error = str(translate(["run", "services", "update"], stderr, "my-project", lambda: "ana@example.com"))
    assert "a permission for `gcloud run services update`" in error
    assert "run.services.update" not in error


@pytest.mark.skipif(NO_GCLOUD, reason="gcloud is not installed")
def test_what_passes_is_tried_again_and_each_reason_is_said_once(plane: ControlPlane) -> None:
    plane.put(f"serviceusage/projects/{plane.project}/services/secretmanager.googleapis.com", {})
    listed, stderr = Command(("secrets", "list")), list[str]()
    plane.fail_with("GET secretmanager", "monitoring-busy")
    plane.fail_with("GET secretmanager", "metric-unknown", times=2, metric="m")
    Gcloud(plane.project, plane.environment).do(listed, stderr.append)
    assert stderr == [
        "another change of the project's monitoring to finish (5 minutes at most)",
        "Cloud Monitoring to know the new metrics (10 minutes at most)",
    ]
    plane.fail_with("GET secretmanager", "monitoring-busy")
    with pytest.raises(CloudError, match=r"Too many concurrent edits.* This is usually temporary"):
        Gcloud(plane.project, plane.environment | {"PATIENCE_S": "0"}).do(listed)


QUOTED = (  # as people have quoted it in public, with where, and what it is
    (
        "run deploy x",
        "Cloud Run error: Container failed to start. Failed to start and then listen on the port",
        "",
        "binderhub-deploy-gke/issues/18",
    ),
    (
        "run deploy x",
        "FAILED_PRECONDITION: failed precondition: due to quota restrictions, cannot run builds",
        "quota",
        "deploy-cloudrun/issues/480",
    ),
    (
        "run deploy x",
        "PERMISSION_DENIED: Permission 'run.services.get' denied on resource 'namespaces/p/services/x'",
        "denied",
        "deploy-cloudrun/issues/427",
    ),
    (
        "run deploy x",
        "PERMISSION_DENIED: Permission denied on 'locations/europe-west3' (or it may not exist)",
        "no-region",
        "barthr/Identicon/issues/2",
    ),
    (
        "run services list",
        "ResponseError: code=403, message=Caller does not have required permission to use project p. "
        "Grant the caller the roles/serviceusage.serviceUsageConsumer role, or a custom role with the "
        "serviceusage.services.use permission, and then retry. It may take a few minutes.",
        "denied",
        "get-gke-credentials/pull/191",
    ),
    (
        "projects describe p",
        "[a@b] does not have permission to access projects instance [p] (or it may not exist): Cloud "
        "Resource Manager API has not been used in project 1039469147354 before or it is disabled. "
        "Enable it by visiting https://console.developers.google.com/ then retry.",
        "api-off",
        "generative-ai/issues/821",
    ),
    (
        "projects describe my-404-app",
        "gcloud crashed (ConnectTimeout): HTTPSConnectionPool(host='cloudresourcemanager.googleapis.com', "
        "port=443): Max retries exceeded with url: /v1/projects/my-404-app (Caused by ConnectTimeoutError())",
        "unreachable",
        "XX-Net/issues/13999, of another address",
    ),
    (
        "run services list",
        "gcloud crashed (SSLError): HTTPSConnectionPool(host='run.googleapis.com', port=443): Max "
        "retries exceeded with url: / (Caused by SSLError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))",
        "certificate",
        "cloud-sdk-docker/issues/321",
    ),
    (
        "sql databases create dropcap",
        "(gcloud.sql.databases.create) HTTPError 409: Operation failed because another operation was "
        "already in progress.",
        "sql-busy",
        "crossplane-contrib/provider-gcp/issues/121",
    ),
    (
        "eventarc triggers create x",
        "(gcloud.eventarc.triggers.create) PERMISSION_DENIED: Validation failed for trigger x: Permission "
        '"storage.buckets.get" denied on "Bucket \\"x\\" could not be validated. Please verify that the '
        'bucket exists and that the Eventarc service account has permission."',
        "eventarc-agent",
        "deploy-cloud-functions/issues/461",
    ),
    (
        "storage objects list gs://b/**",
        "[a@b] does not have permission to access b instance [b] (or it may not exist): a@b does not have "
        "storage.objects.list access to the Google Cloud Storage bucket.",
        "denied",
        "gcloud 528, of storage.objects.get",
    ),
    (
        "storage cp x gs://b",
        "HTTPError 403: a@b does not have storage.objects.get access",
        "denied",
        "the same",
    ),
    ("sql instances list", "HTTPError 502: Bad Gateway", "unavailable", "google-cloud-cpp/pull/1913"),
    (
        "run deploy x",
        "RATE_LIMIT_EXCEEDED: Quota exceeded for quota metric 'Builds' and limit 'Builds per day' of service",
        "quota",
        "the form of known_errors.toml's rate, a day long",
    ),
)


@pytest.mark.parametrize(("command", "stderr", "name", "where"), QUOTED, ids=[each[3] for each in QUOTED])
def test_what_people_were_told_is_read_as_what_it_was(
    command: str, stderr: str, name: str, where: str
) -> None:
    """After an unrelated warning, and wrapped to the width of a terminal."""
    warning = (
        'WARNING: You might receive a "quota exceeded" or "API not enabled" error. Run gcloud auth login\n'
    )
    printed = f"{warning}ERROR: {stderr}".replace(" been used ", " been\n  used ")
    found = [each.name for each in KNOWN_ERRORS if each.match_in(command.split(), printed)]
    assert (found or [""])[0] == name


def config(**variables: str) -> Config:
    return Config.read(
        {"PROJECT": "my-project", "DATABASE_URL": "postgresql://ana@db.example.com/x"} | variables
    )


ALPHA, BETA = {"alpha": "2025.06.20"}, {"beta": "2025.06.20"}


@pytest.mark.parametrize(
    ("version", "components", "variables", "stderr"),
    [
        ("510.0.0", ALPHA | BETA, {}, "gcloud 510.0.0 is too old: it must be 511.0.0 or newer"),
        ("528.0.0", BETA, {}, "gcloud 528.0.0 needs its component alpha for alerts, which is not installed"),
        ("594.0.1", {}, {"ALERT_EMAIL": "ana@example.com"}, "ALERT_EMAIL needs gcloud's component beta"),
        ("557.0.0", {}, {"AUTH": "iap"}, "needs its component beta for Identity-Aware Proxy"),
    ],
)
def test_a_gcloud_that_can_not_do_it_all_is_refused_with_the_remedy(
    version: str, components: Mapping[str, str], variables: Mapping[str, str], stderr: str
) -> None:
    tools = Tools.read({"Google Cloud SDK": version, "core": "2025.06.20"} | dict(components))
    with pytest.raises(CloudError, match=re.escape(stderr)) as refused:
        tools.check(config(**variables))
    assert "gcloud components" in str(refused.value)


@pytest.mark.parametrize(
    ("version", "components", "variables"),
    [
        ("594.0.1", {"core": "2026.11.20"}, {}),  # as Google installs it: neither alpha nor beta
        ("528.0.0", {"core": "2025.06.20"} | ALPHA, {}),
        ("558.0.0", {"core": "2026.02.20"}, {"AUTH": "iap"}),
        ("528.0.0", {"core": "2025.06.20"} | ALPHA | BETA, {"AUTH": "iap"}),
        ("594.0.1", {}, {"ALERT_EMAIL": "ana@example.com"}),  # of a distribution, which tells no components
        *((version, {}, {}) for version in ("511", "511.0.0-beta1", "594.0.0rc1", "HEAD")),
    ],
)
def test_a_gcloud_that_can_is_taken(
    version: str, components: Mapping[str, str], variables: Mapping[str, str]
) -> None:
    Tools.read({"Google Cloud SDK": version} | dict(components)).check(config(**variables))


def test_identity_aware_proxy_needs_no_beta_where_gcloud_has_it_so() -> None:
    assert (Tools((558, 0, 0)).iap, Tools((557, 0, 0)).iap) == ("", "beta")


def test_alerts_are_made_without_alpha_where_gcloud_has_them_so() -> None:
    assert Tools((549, 0, 0)).policies == "monitoring policies"
    assert Tools((528, 0, 0)).policies == "alpha monitoring policies"


@pytest.mark.skipif(NO_GCLOUD, reason="gcloud is not installed")
def test_of_this_machines_gcloud_version_and_components_are_read() -> None:
    answer = subprocess.run(["gcloud", "version", "--format=json"], check=True, capture_output=True).stdout  # noqa: S607
    tools = Tools.read(json.loads(answer))
    assert len(tools.version) == 3
    assert tools.version > (0, 0, 0)


@pytest.mark.skipif(NO_GCLOUD, reason="gcloud is not installed")
def test_a_gcloud_without_beta_stops_a_deployment_before_anything_is_made(
    plane: ControlPlane, tmp_path: Path
) -> None:
    other = tmp_path / "bin" / "gcloud"
    other.parent.mkdir()
    real = shutil.which("gcloud", path=plane.environment["PATH"])
    version = json.dumps({"Google Cloud SDK": "594.0.1", "core": "2026.11.20"})
    other.write_text(f'#!/bin/sh\n[ "$1" = version ] && echo \'{version}\' && exit\nexec {real} "$@"\n')
    other.chmod(0o755)
    plane.environment["PATH"] = f"{other.parent}:{plane.environment['PATH']}"
    ran = Deployment(tmp_path, plane).make("deploy", ALERT_EMAIL="ana@example.com")
    assert (ran.status, ran.writes) == (1, [])
    assert ran.error == (
        "make deploy: ALERT_EMAIL needs gcloud's component beta, which is not installed: "
        "gcloud components install beta, or omit ALERT_EMAIL.\n"
    )


@pytest.mark.parametrize(
    ("words", "stderr", "answer"),
    [
        (
            "run services list",
            "ERROR: You do not currently have an active account selected.",
            "gcloud auth login",
        ),
        (
            "run deploy x",
            "ERROR: (gcloud.run.deploy) unrecognized arguments: --x",
            "gcloud components update",
        ),
        ("run deploy x", "ERROR: BILLING_DISABLED", "gcloud billing projects link my-project"),
        ("run deploy x", "ERROR: Quota exceeded for CPU", "iam-admin/quotas?project=my-project"),
        (
            "run deploy x",
            "ERROR: violates constraints/iam.allowedPolicyMemberDomains",
            "A policy of your organization",
        ),
        (
            "storage buckets create gs://x",
            "ERROR: HTTPError 409: The name is not available",
            "UPLOADS_BUCKET",
        ),
        (
            "pubsub topics list",
            "ERROR: PERMISSION_DENIED: The caller does not have permission",
            "roles/pubsub.admin",
        ),
        ("x y", "Traceback\nERROR: (gcloud.x) It went wrong.\n  in two lines", "It went wrong. in two lines"),
    ],
)
def test_what_gcloud_refuses_is_one_line_with_its_remedy(words: str, stderr: str, answer: str) -> None:
    error = translate(words.split(), stderr, "my-project", lambda: "ana@example.com")
    assert answer in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(("beginning", "role"), ROLES.items())
def test_a_missing_permission_names_account_role_and_command(beginning: str, role: str) -> None:
    permission = ".".join([*beginning.split("."), "things", "create"][:3])
    stderr = f"ERROR: Permission '{permission}' denied on resource"
    account = "deployer@my-project.iam.gserviceaccount.com"
    error = str(translate(["run", "deploy"], stderr, "my-project", lambda: account))
    assert role in error
    assert f"--member=serviceAccount:{account}" in error
    assert error.startswith(account)

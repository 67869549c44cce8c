"""The real gcloud against the stand-in for Google Cloud's control plane: it reads back what it sets."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.cloud.control_plane import DROPPED, FAILED, ControlPlane
from tests.support.cloud.control_plane_store import BILLING, NUMBER, TO_ENABLE

AT, IN = "--location=europe-west1", "--region=europe-west1"
DOMAIN = "demo-project.iam.gserviceaccount.com"
ANA = f"--member=serviceAccount:ana@{DOMAIN}"
AGENT = f"--member=serviceAccount:service-{NUMBER}@gs-project-accounts.iam.gserviceaccount.com"
SQL = f"--member=serviceAccount:p{NUMBER}-sql@gcp-sa-cloud-sql.iam.gserviceaccount.com"
GRANT = "projects add-iam-policy-binding demo-project --condition=None"
GONE = re.compile(rf"deleted:serviceAccount:bob@{DOMAIN}\?uid=\d+")
EVENTS = re.compile(r"projects/demo-project/subscriptions/eventarc-europe-west1-t-sub-\d+")
BUDGET = f"--billing-account={BILLING} --display-name=Dropcap --filter-projects=projects/demo-project"
FILES: dict[str, Any] = {
    "lifecycle.json": {"rule": [{"action": {"type": "Delete"}, "condition": {"age": 7}}]},
    "metric.json": {"name": "dropcap/errors", "filter": "severity>=ERROR"},
    "metric2.json": {"name": "dropcap/errors", "filter": "severity>=WARNING"},
    "board.json": {"displayName": "Dropcap", "gridLayout": {"widgets": [{"text": {"content": "a"}}]}},
    "board2.json": {"displayName": "Dropcap", "gridLayout": {"widgets": [{"text": {"content": "b"}}]}},
    "keep.json": [{"name": "k", "action": {"type": "KEEP"}, "mostRecentVersions": {"keepCount": 3}}],
    "schema.sql": "SELECT 1",
}
for number, name in enumerate(("alert.json", "alert2.json")):
    threshold = {
        "filter": 'metric.type="logging.googleapis.com/user/dropcap/errors" AND resource.type="global"',
        "comparison": "COMPARISON_GT",
        "thresholdValue": number,
        "duration": "0s",
    }
    FILES[name] = {
        "displayName": "Errors",
        "combiner": "OR",
        "conditions": [{"conditionThreshold": threshold}],
    }

Row = tuple[str, dict[str, Any] | str]
# Commands in order, each with what it answers: values at paths in its JSON, or a part of its error message.
# A name in braces is the path of the newest resource in that collection.
STORIES: dict[str, list[Row]] = {
    "services and projects": [
        ("projects describe demo-project", {"projectNumber": NUMBER, "lifecycleState": "ACTIVE"}),
        ("services enable vision.googleapis.com translate.googleapis.com", {}),
        ("services list --enabled", {"-1.config.name": "translate.googleapis.com", "-1.state": "ENABLED"}),
    ],
    "accounts": [
        ("iam service-accounts create bob --display-name=Bob", {}),
        ("iam service-accounts list", {"1.email": f"bob@{DOMAIN}", "1.displayName": "Bob"}),
        (f"iam service-accounts add-iam-policy-binding bob@{DOMAIN} {ANA} --role=roles/a.b", {}),
        (f"iam service-accounts get-iam-policy bob@{DOMAIN}", {"bindings.0.role": "roles/a.b"}),
        (f"{GRANT} --member=serviceAccount:bob@{DOMAIN} --role=roles/a.b", {"bindings.1.role": "roles/a.b"}),
        (f"{GRANT} {ANA} --role=roles/a.c", {"bindings.2.role": "roles/a.c"}),
        (f"projects remove-iam-policy-binding demo-project {ANA} --role=roles/a.c", {}),
        (f"iam service-accounts delete bob@{DOMAIN}", {}),
        (f"iam service-accounts describe bob@{DOMAIN}", "NOT_FOUND"),
        (f"{GRANT} --member=serviceAccount:bob@{DOMAIN} --role=roles/a.d", "does not exist"),
        # Its grant is left behind, and is not one of a new account with the same address.
        ("projects get-iam-policy demo-project", {"bindings.1.members.0": GONE}),
    ],
    "buckets": [
        ("storage buckets describe gs://b", "404"),
        (f"storage buckets create gs://b {AT} --uniform-bucket-level-access --public-access-prevention", {}),
        ("storage buckets create gs://b", "ALREADY_EXISTS"),
        (
            "storage buckets describe gs://b",
            {
                "location": "EUROPE-WEST1",
                "uniform_bucket_level_access": True,
                "public_access_prevention": "enforced",
                "soft_delete_policy.retentionDurationSeconds": "604800",
            },
        ),
        (
            "storage buckets update gs://b --lifecycle-file=lifecycle.json --soft-delete-duration=14d"
            " --update-labels=app=dropcap",
            {},
        ),
        (
            "storage buckets list",
            {
                "0.lifecycle_config.rule.0.condition.age": 7,
                "0.labels.app": "dropcap",
                "0.soft_delete_policy.retentionDurationSeconds": "1209600",
                "0.uniform_bucket_level_access": True,
            },
        ),
        (f"storage buckets add-iam-policy-binding gs://b {ANA} --role=roles/storage.objectUser", {}),
        ("storage buckets get-iam-policy gs://b", {"bindings.-1.role": "roles/storage.objectUser"}),
        (f"storage buckets remove-iam-policy-binding gs://b {ANA} --role=roles/storage.objectUser", {}),
        ("storage buckets get-iam-policy gs://b", {"bindings.-1.role": "roles/storage.legacyBucketReader"}),
        ("storage cp schema.sql gs://b/in/schema.sql", {}),
        ("storage objects list gs://b/in/*", {"0.name": "in/schema.sql", "0.size": 8}),
        ("storage buckets delete gs://b", "not empty"),
        ("storage cp gs://b/in/schema.sql back.sql", {}),
        ("storage rm gs://b/in/schema.sql", {}),
        ("storage buckets delete gs://b", {}),
    ],
    "secrets": [
        ("secrets create s --replication-policy=automatic --labels=app=dropcap", {}),
        ("secrets versions access latest --secret=s", "NOT_FOUND"),
        ("secrets versions add s --data-file=schema.sql", {"clientSpecifiedPayloadChecksum": True}),
        (
            "secrets versions add s --data-file=metric.json",
            {"name": f"projects/{NUMBER}/secrets/s/versions/2"},
        ),
        ("secrets versions access 1 --secret=s", {"payload.data": "U0VMRUNUIDE="}),
        (
            "secrets versions list s",
            {"0.name": f"projects/{NUMBER}/secrets/s/versions/2", "1.state": "ENABLED"},
        ),
        ("secrets versions disable 2 --secret=s", {"state": "DISABLED"}),
        ("secrets versions access latest --secret=s", "DISABLED state"),
        (f"secrets add-iam-policy-binding s {ANA} --role=roles/secretmanager.secretAccessor", {}),
        ("secrets get-iam-policy s", {"bindings.0.members.0": ANA.removeprefix("--member=")}),
        ("secrets list", {"0.name": f"projects/{NUMBER}/secrets/s", "0.labels.app": "dropcap"}),
        ("secrets delete s", {}),
        ("secrets describe s", "NOT_FOUND"),
    ],
    "triggers and subscriptions": [
        (f"storage buckets create gs://b {AT}", {}),
        (f"{GRANT} {AGENT} --role=roles/pubsub.publisher", {}),
        (f"{GRANT} {ANA} --role=roles/eventarc.eventReceiver", {}),
        (
            f"eventarc triggers create t {AT} --destination-run-service=s"
            " --event-filters=type=google.cloud.storage.object.v1.finalized --event-filters=bucket=b"
            f" --service-account=ana@{DOMAIN}",
            {"destination.cloudRun.service": "s"},
        ),
        (
            f"eventarc triggers describe t {AT}",
            {"serviceAccount": f"ana@{DOMAIN}", "transport.pubsub.subscription": EVENTS},
        ),
        ("pubsub subscriptions describe {subscriptions}", {"messageRetentionDuration": "86400s"}),
        (
            "pubsub subscriptions update {subscriptions} --ack-deadline=600 --message-retention-duration=7d"
            " --min-retry-delay=30s --max-retry-delay=600s",
            {},
        ),
        (
            "pubsub subscriptions describe {subscriptions}",
            {
                "ackDeadlineSeconds": 600,
                "messageRetentionDuration": "604800s",
                "retryPolicy.minimumBackoff": "30s",
                "expirationPolicy": {},
            },
        ),
        (f"eventarc triggers update t {AT} --destination-run-service=other", {}),
        (f"eventarc triggers list {AT}", {"0.destination.cloudRun.service": "other"}),
        (f"eventarc triggers delete t {AT}", {}),
        (f"eventarc triggers list {AT}", {"": []}),
    ],
    "jobs and queues": [
        (
            f"scheduler jobs create http j {AT} '--schedule=*/10 * * * *' --uri=https://a.run.app"
            f" --oidc-service-account-email=ana@{DOMAIN}",
            {},
        ),
        (
            f"scheduler jobs describe j {AT}",
            {"httpTarget.uri": "https://a.run.app/", "state": "ENABLED", "schedule": "*/10 * * * *"},
        ),
        (f"scheduler jobs update http j {AT} --attempt-deadline=540s", {}),
        (f"scheduler jobs list {AT}", {"0.attemptDeadline": "540s", "0.schedule": "*/10 * * * *"}),
        (f"scheduler jobs delete j {AT}", {}),
        (f"scheduler jobs describe j {AT}", "NOT_FOUND"),
        (f"tasks queues create q {AT} --max-concurrent-dispatches=3", {}),
        (f"tasks queues update q {AT} --max-attempts=5", {}),
        (
            f"tasks queues describe q {AT}",
            {"rateLimits.maxConcurrentDispatches": 3, "retryConfig.maxAttempts": 5, "state": "RUNNING"},
        ),
        (f"tasks queues delete q {AT}", {}),
        (f"tasks queues list {AT}", {"": []}),
    ],
    "metrics, alerts and dashboards": [
        ("alpha monitoring policies create --policy-from-file=alert.json", "Cannot find metric"),
        ("logging metrics create dropcap/errors --config-from-file=metric.json", {}),
        ("logging metrics update dropcap/errors --config-from-file=metric2.json", {}),
        (
            "logging metrics describe dropcap/errors",
            {"name": "dropcap/errors", "filter": "severity>=WARNING"},
        ),
        ("alpha monitoring policies create --policy-from-file=alert.json", {"enabled": True}),
        ("alpha monitoring policies update {alertPolicies} --policy-from-file=alert2.json", {}),
        ("alpha monitoring policies list", {"0.conditions.0.conditionThreshold.thresholdValue": 1}),
        ("alpha monitoring policies delete {alertPolicies}", {}),
        ("monitoring dashboards create --config-from-file=board.json", {}),
        ("monitoring dashboards update {dashboards} --config-from-file=board2.json", {}),
        ("monitoring dashboards list", {"0.gridLayout.widgets.0.text.content": "b"}),
        ("monitoring dashboards delete {dashboards}", {}),
        (
            "beta monitoring channels create --display-name=a --type=email --channel-labels=email_address=a",
            {},
        ),
        ("beta monitoring channels list", {"0.labels.email_address": "a", "0.enabled": True}),
        ("beta monitoring channels delete {notificationChannels}", {}),
        ("logging metrics delete dropcap/errors", {}),
        ("logging metrics list", {"": []}),
        ("logging read severity=ERROR --limit=1", {"": []}),
    ],
    "budgets": [
        ("billing projects describe demo-project", {"billingAccountName": f"billingAccounts/{BILLING}"}),
        (f"billing budgets create {BUDGET} --budget-amount=10EUR --threshold-rule=percent=0.5", {}),
        ("billing budgets update {budgets} --budget-amount=20EUR", {}),
        (
            f"billing budgets list --billing-account={BILLING}",
            {
                "0.amount.specifiedAmount.units": "20",
                "0.budgetFilter.projects.0": f"projects/{NUMBER}",
                "0.thresholdRules.0.thresholdPercent": 0.5,
            },
        ),
        ("billing budgets delete {budgets}", {}),
    ],
    "repositories": [
        (f"artifacts repositories create r {AT} --repository-format=docker", {}),
        (f"artifacts repositories set-cleanup-policies r {AT} --policy=keep.json", {}),
        (
            f"artifacts repositories describe r {AT}",
            {"cleanupPolicies.k.action": "KEEP", "cleanupPolicies.k.mostRecentVersions.keepCount": 3},
        ),
        (f"artifacts repositories list {AT}", {"0.format": "DOCKER"}),
        (f"artifacts repositories delete r {AT}", {}),
    ],
    "databases": [
        (
            f"sql instances create i {IN} --database-version=POSTGRES_16 --tier=db-f1-micro",
            {},
        ),
        ("sql instances patch i --tier=db-g1-small", {}),
        (
            "sql instances describe i",
            {
                "settings.tier": "db-g1-small",
                "connectionName": "demo-project:europe-west1:i",
                "state": "RUNNABLE",
            },
        ),
        ("sql databases create d --instance=i", {}),
        ("sql databases list --instance=i", {"0.name": "postgres", "1.name": "d"}),
        (f"sql users create ana@{DOMAIN[:-20]} --instance=i --type=cloud_iam_service_account", {}),
        ("sql users list --instance=i", {"1.type": "CLOUD_IAM_SERVICE_ACCOUNT"}),
        (f"storage buckets create gs://b {AT}", {}),
        ("storage cp schema.sql gs://b/schema.sql", {}),
        ("sql import sql i gs://b/schema.sql --database=d", "does not have the required permissions"),
        (f"storage buckets add-iam-policy-binding gs://b {SQL} --role=roles/storage.objectViewer", {}),
        ("sql import sql i gs://b/schema.sql --database=d", {}),
        (f"sql users delete ana@{DOMAIN[:-20]} --instance=i", {}),
        ("sql databases delete d --instance=i", {}),
        ("sql instances delete i", {}),
        ("sql instances describe i", "NOT_FOUND"),
    ],
    "services of Cloud Run": [
        (f"run services describe s {IN}", "Cannot find service"),
        (f"run deploy s {IN} --image=a --revision-suffix=a --service-account=ana@{DOMAIN} --memory=1Gi", {}),
        (f"run services update s {IN} --cpu=2 --revision-suffix=b --update-labels=app=dropcap", {}),
        (
            f"run services describe s {IN}",
            {
                "spec.template.spec.containers.0.resources.limits": {"cpu": "2", "memory": "1Gi"},
                "spec.template.spec.serviceAccountName": f"ana@{DOMAIN}",
                "spec.template.spec.containerConcurrency": 80,
                "status.latestReadyRevisionName": "s-b",
                "status.traffic.0.revisionName": "s-b",
                "status.conditions.0.status": "True",
                "metadata.labels.app": "dropcap",
            },
        ),
        (f"run revisions list --service=s {IN}", {"0.metadata.name": "s-b", "1.metadata.name": "s-a"}),
        (f"run services update-traffic s {IN} --to-revisions=s-nope=100", "is not ready"),
        (f"run services update-traffic s {IN} --to-revisions=s-a=100", {}),
        (f"run services list {IN}", {"0.status.traffic.0.revisionName": "s-a"}),
        (f"run services update-traffic s {IN} --to-latest", {}),
        (f"run services add-iam-policy-binding s {IN} {ANA} --role=roles/run.invoker", {}),
        (f"run services get-iam-policy s {IN}", {"bindings.0.role": "roles/run.invoker"}),
        (f"run services remove-iam-policy-binding s {IN} {ANA} --role=roles/run.invoker", {}),
        (f"run services get-iam-policy s {IN}", {"bindings": None}),
        (f"run services delete s {IN}", {}),
        (f"run revisions list --service=s {IN}", {"": []}),
    ],
}


class Gcloud:
    """The real gcloud in a folder with `FILES`, in a project that has every API and the account `ana`."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane, self.folder = plane, folder
        for name, content in FILES.items():
            (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
        for api in (*TO_ENABLE, "sql-component"):
            plane.put(
                f"serviceusage/projects/{plane.project}/services/{api}.googleapis.com", {"state": "ENABLED"}
            )
        plane.put(f"iam/projects/{plane.project}/serviceAccounts/ana@{plane.domain}", {})

    def __call__(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run this command and return its result."""
        return subprocess.run(
            ["gcloud", *shlex.split(command), "--format=json", "--quiet"],  # noqa: S607
            env=os.environ | self.plane.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def run(self, command: str) -> Any:
        """Run this command, which must succeed, and return its JSON output or None."""
        done = self(command)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return json.loads(done.stdout) if done.stdout.strip() else None

    def refused(self, command: str) -> str:
        """Run this command, which must fail, and return its error message."""
        done = self(command)
        assert done.returncode == 1, f"{command}\n{done.stdout}{done.stderr}"
        return done.stderr


@pytest.fixture
def gcloud(plane: ControlPlane, tmp_path: Path) -> Gcloud:
    return Gcloud(plane, tmp_path)


def at(answer: Any, path: str) -> Any:
    """Return the value at a path such as `0.metadata.name`; None if its last part is missing."""
    for part in filter(None, path.split(".")):
        answer = answer[int(part)] if isinstance(answer, list) else answer.get(part)
    return answer


@pytest.mark.parametrize("story", STORIES)
def test_what_gcloud_sets_it_reads_again_until_it_deletes_it(gcloud: Gcloud, story: str) -> None:
    for command, expected in STORIES[story]:
        newest = {key.split("/")[-2]: key.partition("/")[2] for key in gcloud.plane.resources if "/" in key}
        if isinstance(expected, str):
            assert expected in gcloud.refused(command.format(**newest)), command
            continue
        answer = gcloud.run(command.format(**newest))
        for path, value in expected.items():
            found = at(answer, path)
            assert value.fullmatch(found) if isinstance(value, re.Pattern) else found == value, (
                command,
                path,
            )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Provide a folder with a function, and with files that must not be deployed."""
    folder = tmp_path / "functions"
    for name in (".gcloudignore", "main.py", "dropcap/upload.py", "dropcap/__pycache__/upload.pyc"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("__pycache__/\n.gcloudignore\n")
    return folder


def deploy(source: Path, suffix: str) -> str:
    """Return the command that builds a service `s` from a folder, with all flags of a deployment."""
    return (
        f"run deploy s {IN} --source={source} --function=on_upload --revision-suffix={suffix}"
        f" --labels=app=dropcap --base-image=python313 --service-account=ana@{DOMAIN} --memory=512Mi --cpu=1"
        f" --build-service-account=projects/demo-project/serviceAccounts/ana@{DOMAIN} --min-instances=1"
        " --concurrency=1 --timeout=540 --max-instances=5 --execution-environment=gen2 --cpu-boost"
        " --ingress=internal --no-allow-unauthenticated '--set-env-vars=^;^A=a,b;B=c' --set-secrets=KEY=key:1"
        " --set-cloudsql-instances=demo-project:europe-west1:i"
    )


def make_secret(gcloud: Gcloud) -> None:
    gcloud.run("secrets create key")
    gcloud.run("secrets versions add key --data-file=schema.sql")
    gcloud.run(f"secrets add-iam-policy-binding key {ANA} --role=roles/secretmanager.secretAccessor")


def test_a_function_is_built_from_what_its_folder_holds_and_described_as_it_was_set(
    gcloud: Gcloud, source: Path
) -> None:
    make_secret(gcloud)
    gcloud.run(deploy(source, "a"))
    gcloud.run(deploy(source, "b"))
    uploaded = ["dropcap/", "dropcap/upload.py", "main.py"]
    assert gcloud.plane.sources == [uploaded, uploaded]

    [build, _] = [request.body for request in gcloud.plane.writes if request.path.endswith("builds:submit")]
    assert build["buildpackBuild"]["functionTarget"] == "on_upload"
    assert build["serviceAccount"].endswith(f"ana@{DOMAIN}")

    service = gcloud.run(f"run services describe s {IN}")
    template = service["spec"]["template"]
    [container] = template["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "512Mi"}
    assert {entry["name"]: entry.get("value") for entry in container["env"]} == {
        "A": "a,b",
        "B": "c",
        "KEY": None,
    }
    assert (template["spec"]["containerConcurrency"], template["spec"]["timeoutSeconds"]) == (1, 540)
    assert template["metadata"]["annotations"]["run.googleapis.com/cloudsql-instances"].endswith(":i")
    assert template["metadata"]["annotations"]["autoscaling.knative.dev/minScale"] == "1"
    assert service["metadata"]["annotations"]["run.googleapis.com/ingress"] == "internal"
    assert service["status"]["traffic"] == [{"latestRevision": True, "percent": 100, "revisionName": "s-b"}]


def test_a_build_that_fails_leaves_the_service_as_it_was(gcloud: Gcloud, source: Path) -> None:
    make_secret(gcloud)
    gcloud.run(deploy(source, "a"))
    before = gcloud.run(f"run services describe s {IN}")
    gcloud.plane.refuse("builds:submit", FAILED, message="Build failed; check build logs for details")
    assert "Build failed" in gcloud.refused(deploy(source, "b"))
    assert gcloud.run(f"run services describe s {IN}") == before


def test_a_revision_that_cannot_start_gets_no_traffic(gcloud: Gcloud) -> None:
    update = f"run services update s {IN} --set-secrets=KEY=key:1"
    gcloud.run(f"run deploy s {IN} --image=a --revision-suffix=a --service-account=ana@{DOMAIN}")
    assert "secrets/key/versions/1 was not found" in gcloud.refused(f"{update} --revision-suffix=b")
    gcloud.run("secrets create key")
    gcloud.run("secrets versions add key --data-file=schema.sql")
    assert "Permission denied on secret" in gcloud.refused(f"{update} --revision-suffix=c")
    gcloud.plane.refuse("PUT .*/services/s", FAILED, message="The container failed to start")
    assert "failed to start" in gcloud.refused(
        f"run services update s {IN} --clear-secrets --revision-suffix=d"
    )
    status = gcloud.run(f"run services describe s {IN}")["status"]
    assert (status["latestCreatedRevisionName"], status["latestReadyRevisionName"]) == ("s-d", "s-a")
    assert [part["revisionName"] for part in status["traffic"]] == ["s-a"]


def test_what_google_refuses_is_refused(gcloud: Gcloud) -> None:
    nobody = f"no@{DOMAIN}"
    assert "does not exist" in gcloud.refused(f"{GRANT} --member=serviceAccount:{nobody} --role=roles/a.b")
    assert "NOT_FOUND" in gcloud.refused("secrets get-iam-policy nope")
    assert "actAs" in gcloud.refused(f"run deploy s {IN} --image=a --service-account={nobody}")
    trigger = (
        f"eventarc triggers create t {AT} --destination-run-service=s --service-account=ana@{DOMAIN}"
        " --event-filters=type=google.cloud.storage.object.v1.finalized --event-filters=bucket=b"
    )
    assert "b/b' was not found" in gcloud.refused(trigger)
    gcloud.run("storage buckets create gs://b")
    assert "roles/pubsub.publisher" in gcloud.refused(trigger)
    gcloud.run(f"{GRANT} {AGENT} --role=roles/pubsub.publisher")
    assert "eventarc.events.receiveEvent" in gcloud.refused(trigger)
    gcloud.run("services disable run.googleapis.com")
    assert "run.googleapis.com has not been used in project demo-project" in gcloud.refused(
        f"run services list {IN}"
    )


def test_a_policy_that_was_changed_in_between_is_not_overwritten(gcloud: Gcloud, tmp_path: Path) -> None:
    policy = gcloud.run("projects get-iam-policy demo-project")
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    gcloud.run(f"{GRANT} {ANA} --role=roles/a.b")
    assert "concurrent policy changes" in gcloud.refused("projects set-iam-policy demo-project policy.json")


def test_a_refusal_names_the_permission_as_google_does(gcloud: Gcloud) -> None:
    gcloud.plane.refuse("POST secretmanager", 403, "secretmanager.secrets.create")
    assert "Permission 'secretmanager.secrets.create' denied" in gcloud.refused("secrets create s")
    gcloud.run("secrets create s")  # it was for one request


@pytest.mark.parametrize("status", [DROPPED, 500, 503])
def test_gcloud_asks_again_after_a_passing_fault_and_gives_up_on_one_that_stays(
    gcloud: Gcloud, status: int
) -> None:
    gcloud.plane.refuse("GET secretmanager", status, "NOT_NOW")
    assert gcloud.run("secrets list") == []
    gcloud.plane.refuse("GET secretmanager", status, "NOT_NOW", times=20)
    gcloud.refused("secrets list")


def test_gcloud_does_not_ask_again_when_it_asks_too_often(gcloud: Gcloud) -> None:
    gcloud.plane.refuse("GET secretmanager", 429, "RATE_LIMIT_EXCEEDED", "Quota exceeded")
    assert "RESOURCE_EXHAUSTED: Quota exceeded" in gcloud.refused("secrets list")


def test_what_changes_something_is_told_from_what_only_looks(gcloud: Gcloud) -> None:
    gcloud.run("storage buckets create gs://b")
    gcloud.run("secrets list")
    gcloud.run("projects get-iam-policy demo-project")
    gcloud.run(f"{GRANT} {ANA} --role=roles/a.b")
    policy = "POST cloudresourcemanager.googleapis.com/v1/projects/demo-project"
    assert [request.line.partition("?")[0] for request in gcloud.plane.writes] == [
        "POST storage.googleapis.com/storage/v1/b",
        f"{policy}:setIamPolicy",
    ]
    assert f"{policy}:getIamPolicy?alt=json" in [request.line for request in gcloud.plane.requests]
    [created, changed] = gcloud.plane.writes
    assert created.body["name"] == "b"
    assert changed.body["policy"]["bindings"][1]["role"] == "roles/a.b"


@pytest.mark.parametrize("project", ["a-project", "example.com:my-project"])
def test_a_project_may_have_any_id(project: str, plane: ControlPlane, tmp_path: Path) -> None:
    with ControlPlane(tmp_path / "other", project) as other:
        other.environment["PATH"] = plane.environment["PATH"]
        gcloud = Gcloud(other, tmp_path)
        assert gcloud.run(f"projects describe {project}")["projectId"] == project
        gcloud.run(f"run deploy s {IN} --image=a --service-account=ana@{other.domain}")
        assert list(gcloud.plane.resources)[-1] == f"run/projects/{project}/locations/europe-west1/services/s"

"""A deployment that fails at any step continues from there, and its error has a remedy."""

import json
import re
from pathlib import Path

import pytest

from infra.cloud.config import Config
from infra.cloud.gcloud.command import Gcloud
from infra.cloud.inventory import Cloud
from infra.cloud.resources.declaration import resources
from infra.cloud.source import Source
from tests.support.app import NO_GCLOUD
from tests.support.cloud.control_plane import FAILED, ControlPlane
from tests.support.cloud.deployment import ALERTS, Deployment

pytestmark = pytest.mark.skipif(NO_GCLOUD, reason="gcloud is not installed")
PROJECT = "demo-project"
NAMES = ("on-upload", "analyze", "sweep", "get-progress-stats")
SOURCE = Source("0123456789abcdef", "abc1234", 1)

# Where it is stopped, in the order in which it comes there: what is refused, and how often.
STEPS = {
    "before the first change": ("batchEnable", 400, 1),
    "at one of several side by side": ("POST iam.*/serviceAccounts", 400, 1),
    "at a secret": (r"POST secretmanager.*/secrets\?", 400, 1),
    "between a secret and its version": (":addVersion", 400, 1),
    "between a repository and its policy": ("PATCH artifactregistry", 400, 1),
    "at the first of many rights": ("PUT storage.*/iam", 400, 1),
    "at the build": ("builds:submit", FAILED, 1),
    "with the first service there and no revision ready": (r"POST \S+-run\S+/services\?", FAILED, 1),
    "with the other services there and none ready": (r"POST \S+-run\S+/services\?", FAILED, 3),
    "at the right to call a service": ("services/.*:setIamPolicy", 400, 1),
    "at the trigger": ("POST eventarc", 400, 1),
    "between a trigger and its subscription": ("PATCH pubsub", 400, 1),
    "at what stands alone": ("POST cloudscheduler", 400, 1),
    "before the address that alerts go to": ("POST monitoring.*/notificationChannels", 400, 1),
    "between that and its alerts": ("POST monitoring.*/alertPolicies", 400, 1),
    "at the last change": ("POST billingbudgets", 400, 1),
}
ONE_EACH = dict.fromkeys(("serviceAccounts", "secrets", "triggers", "jobs"), 1)  # with the refused one
ONE_EACH |= dict.fromkeys(("notificationChannels", "alertPolicies"), 1)
ONE_EACH |= dict.fromkeys(("repositories", "queues", "metrics"), 0)


def test_it_goes_on_from_wherever_it_was_stopped_and_does_nothing_twice(
    plane: ControlPlane, tmp_path: Path
) -> None:
    deployment = Deployment(tmp_path, plane)
    odd = {"ALERT_EMAIL": "ana@example.com", "BUDGET": "20", "SOURCE": "archive"}
    odd |= {
        "CACHE_CONTROL": "public, max-age=60; a='b' \"c\" ^;^ $HOME ü=ß",
        "UPLOADS_BUCKET": "my.odd_bucket-1",
    }
    for where, (step, status, times) in STEPS.items():
        plane.refuse(step, status, message="No.", times=times)
        ran = deployment.make("deploy", **odd)
        assert ran.status == 1, where
        assert len(ran.error.splitlines()) == 1, where
        assert "again to continue" in ran.error
        assert "Not done: " in ran.out
    deployment.deployed(**odd)
    assert deployment.deployed().lines == []  # what was said stays
    assert not [key for key in plane.resources if "gallery" in key]  # of which nobody said a word
    sent = [request.line for request in plane.writes]
    for made, refused in ONE_EACH.items():
        there = [key for key in plane.resources if key.rpartition("/")[0].endswith(f"/{made}")]
        done = [line for line in sent if re.match(rf"POST \S+/{made}(\?|$)", line)]
        assert len(done) == len(there) + refused > refused, made
        called = {plane.resources[key].get("displayName", key) for key in there}  # an id may be Google's
        assert len(called) == len(there), made
    assert len([line for line in sent if ":addVersion" in line]) == 2 + 1
    for name in NAMES:
        assert deployment.service(name)["status"]["latestReadyRevisionName"].endswith("-2")
        variables = deployment.variables(name)
        assert variables["CACHE_CONTROL"] == odd["CACHE_CONTROL"]
        assert variables["ARCHIVE_BUCKET"] == f"{plane.project}-archive"


def test_a_deployment_waits_for_what_google_does_not_know_yet(there: Deployment) -> None:
    """A new grant on a secret, new metrics, concurrent changes of policies."""
    plane, policies = there.plane, "POST monitoring.*/alertPolicies"
    alerts = [key for key in plane.resources if "/alertPolicies/" in key]
    for key in alerts[:2]:
        del plane.resources[key]
    there.container("analyze")["resources"]["limits"]["memory"] = "1Gi"
    account = f"dropcap-analyze@{plane.project}.iam.gserviceaccount.com"
    late = {"version": "projects/1/secrets/dropcap-gemini-api-key/versions/1", "account": account}
    plane.fail_with("PUT .*/services/dropcap-analyze", "secret-not-readable-yet", times=2, **late)
    plane.fail_with(policies, "metric-unknown", metric="logging.googleapis.com/user/dropcap/errors")
    plane.fail_with(policies, "monitoring-busy")
    ran = there.deployed(**ALERTS, PATIENCE_S="60")
    waited = re.findall(r"^  (\S+ \S+) waits for .*", ran.out, flags=re.MULTILINE)
    alert = next(line for line in ran.out.splitlines() if " waits for Cloud Monitoring to know" in line)
    assert alert.endswith("the new metrics (10 minutes at most)")
    assert waited[0] == "function dropcap-analyze"
    assert len(waited) == 3  # each reason is said once
    assert not [line for line in ran.lines if "builds:submit" in line]
    name = there.service("analyze")["status"]["latestReadyRevisionName"]
    assert re.fullmatch(r"dropcap-analyze-\S+-r2", name)  # the names of those that failed are taken
    assert there.deployed(**ALERTS).lines == []


def test_alerts_are_made_one_at_a_time_and_long_after_their_metrics() -> None:
    declared = resources(Config.read({"PROJECT": "my-project"}), Cloud(Gcloud("my-project", {})), SOURCE)
    kinds = [each.kind for each in declared]
    assert max(at for at, kind in enumerate(kinds) if kind == "metric") < kinds.index("function")
    assert {each.parallel_group for each in declared if each.kind == "alert"} == {""}


def test_a_missing_permission_names_the_role_to_grant_and_the_command(
    plane: ControlPlane, tmp_path: Path
) -> None:
    deployment = Deployment(tmp_path, plane)
    plane.refuse("POST iam.*/serviceAccounts", 403, "iam.serviceAccounts.create")
    ran = deployment.make("deploy", CLOUDSDK_CORE_ACCOUNT="ana@example.com")
    assert ran.status == 1
    [line] = ran.error.splitlines()
    assert "iam.serviceAccounts.create" in line
    assert (
        f"gcloud projects add-iam-policy-binding {plane.project} --member=user:ana@example.com "
        "--role=roles/iam.serviceAccountAdmin" in line
    )


def test_a_project_that_is_not_there_or_not_yours_is_named(plane: ControlPlane, tmp_path: Path) -> None:
    ran = Deployment(tmp_path, plane).make("plan", PROJECT="somebody-elses")
    assert ran.status == 1
    [line] = ran.error.splitlines()
    assert "gcloud projects create somebody-elses" in line


def test_a_plan_sends_nothing_and_its_commands_do_what_a_deployment_does(there: Deployment) -> None:
    resources = there.plane.resources
    for key in [key for key in resources if key.startswith(("eventarc/", "pubsub/", "cloudscheduler/"))]:
        del resources[key]
    changed = {**ALERTS, "GEMINI_API_KEY": "secret2b"}
    script = there.make("plan", **changed, COMMANDS="1")
    assert script.status == 0, script.error
    assert script.lines == []
    assert script.out.startswith("#!/bin/sh\n")
    there.run_script(script.out, **changed)
    assert there.make("plan", **changed).out.splitlines()[-1] == "Nothing to change."
    [reference] = [each for each in there.container("sweep")["env"] if each["name"] == "GEMINI_API_KEY"]
    assert reference["valueFrom"]["secretKeyRef"]["key"] == "2"


def test_a_topic_that_is_not_there_is_named_with_the_command_that_makes_it(there: Deployment) -> None:
    topic = f"projects/{there.plane.project}/topics/done"
    ran = there.make("plan", **ALERTS, EVENTS=topic)
    assert (ran.status, ran.lines) == (1, [])
    assert ran.error == f"make plan: There is no topic {topic}: gcloud pubsub topics create {topic}\n"


def test_another_region_than_the_deployed_one_is_refused_before_anything_is_made(there: Deployment) -> None:
    for command in ("plan", "deploy", "destroy", "logs"):
        ran = there.make(command, REGION="us-central1")
        assert (ran.status, ran.lines, ran.out) == (1, [], "")
        one, two = f"PROJECT={PROJECT} REGION=europe-west1", f"PROJECT={PROJECT} REGION=us-central1"
        assert ran.error == (
            f"make {command}: Dropcap is deployed in europe-west1, and REGION=us-central1 would add a second "
            f"deployment: omit REGION to change the existing one. To move it: make destroy {one} "
            f"(buckets, database and secrets stay where they are), then make deploy {two}.\n"
        )


def test_of_two_dropcaps_in_one_project_one_has_to_be_named_and_either_can_be(there: Deployment) -> None:
    location = f"run/projects/{there.plane.project}/locations"
    copy = json.loads(json.dumps(there.service("sweep")).replace("europe-west1", "us-central1"))
    there.plane.resources[f"{location}/us-central1/services/dropcap-sweep"] = copy
    ran = there.make("plan")
    assert (ran.status, ran.out) == (1, "")
    assert (
        "Dropcap is deployed in europe-west1 and us-central1: choose one with REGION=europe-west1."
        in ran.error
    )
    assert "function dropcap-analyze: none -> " in there.make("plan", REGION="us-central1").out
    for key in [key for key in there.plane.resources if key.startswith(f"{location}/europe-west1/services/")]:
        del there.plane.resources[key]
    ran = there.make("plan", REGION="default")  # which is not where it is
    assert (ran.status, ran.out) == (1, "")
    assert "deployed in us-central1, and REGION=europe-west1 would add a second deployment" in ran.error


def test_a_list_that_lacks_regions_is_not_taken_for_all_there_is(there: Deployment) -> None:
    there.plane.silent_regions = ["europe-west1"]
    ran = there.make("plan")
    assert (ran.status, ran.out) == (1, "")
    assert "The following Cloud Run regions did not respond: europe-west1." in ran.error
    assert there.make("plan", REGION="europe-west1").out.endswith("Nothing to change.\n")


def test_nobody_is_asked_where_nobody_is(plane: ControlPlane, tmp_path: Path) -> None:
    ran = Deployment(tmp_path, plane).make("deploy", YES="")
    assert ran.status == 1
    assert ran.lines == []
    assert "YES=1" in ran.error

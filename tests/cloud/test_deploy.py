"""`make deploy` creates a working Dropcap in an empty project, and later changes only what differs.

The tests check the requests of the real gcloud, and the resources in Google's stand-in.
"""

import io
import json
import re
import shlex
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dropcap.settings import Settings
from infra.cloud import config, monitoring, source
from infra.cloud.config import NO_SECRET, NOT_KEPT, SECRETS, SETTINGS
from infra.cloud.deployed import begin
from infra.cloud.gcloud.command import Gcloud
from infra.cloud.inventory import Cloud
from infra.cloud.operations import after
from infra.cloud.resources.functions import BUILD_VARIABLES
from infra.cloud.resources.watched import Budget, Channel
from tests.support.app import NO_GCLOUD
from tests.support.cloud.control_plane import ControlPlane
from tests.support.cloud.control_plane_store import NUMBER, TO_ENABLE
from tests.support.cloud.deployment import ALERTS, KEY, PASSWORD, Deployment

pytestmark = pytest.mark.skipif(NO_GCLOUD, reason="gcloud is not installed")
PROJECT = "demo-project"
NAMES = ("on-upload", "analyze", "sweep", "get-progress-stats", "gallery")
SMALL = NAMES[3:]  # which open no picture
UPLOADS, PICTURES, QUARANTINE = (f"{PROJECT}-{kind}" for kind in ("uploads", "pictures", "quarantine"))


def test_a_second_deployment_sends_no_change_also_without_the_secrets_at_hand(there: Deployment) -> None:
    again = there.deployed(**ALERTS, DATABASE_URL="", GEMINI_API_KEY="")
    assert again.lines == []
    assert "Nothing to change." in again.out


def test_the_functions_are_private_small_and_handle_several_requests_at_once(there: Deployment) -> None:
    """Each request has a thread. A posted picture of up to MAX_MB is in memory before its turn."""
    at_once_by_name = {"gallery": 8, "on-upload": 8, "analyze": 3}
    for name in NAMES:
        template = there.service(name)["spec"]["template"]
        spec, notes = template["spec"], template["metadata"]["annotations"]
        at_once = int(there.variables(name).get("THREADS", "1"))
        assert spec["containerConcurrency"] == at_once == at_once_by_name.get(name, 1)
        assert spec["serviceAccountName"] == f"dropcap-{name}@{PROJECT}.iam.gserviceaccount.com"
        assert notes["run.googleapis.com/startup-cpu-boost"].lower() == "true"
        assert int(notes["autoscaling.knative.dev/maxScale"]) == (1 if name == "sweep" else 5)
        small = name in SMALL
        assert notes["run.googleapis.com/execution-environment"] == ("gen1" if small else "gen2")
        limits = there.container(name)["resources"]["limits"]
        assert (limits["cpu"], limits["memory"]) == ("1", "256Mi" if small else "512Mi")
        invokers = {who for who, role in there.rights(_service(name)) if role == "run.invoker"}
        calls = {"on-upload": {"dropcap-trigger"}, "sweep": {"dropcap-scheduler"}}
        assert invokers == calls.get(name, set())
        ingress = there.service(name)["metadata"]["annotations"]["run.googleapis.com/ingress"]
        assert ingress == ("internal" if name in calls else "all")
        if not small:
            settings = Settings()
            assert settings.lease_s < spec["timeoutSeconds"] < 600
            assert settings.timeout_s < spec["timeoutSeconds"]


def _service(name: str) -> str:
    return f"run/projects/{PROJECT}/locations/europe-west1/services/dropcap-{name}"


def test_each_account_has_what_its_function_needs_and_no_more(there: Deployment) -> None:
    takers = {(f"dropcap-{name}", "storage.objectUser") for name in NAMES[:3]}
    page = {PICTURES: ("dropcap-gallery", "storage.objectUser")}  # elsewhere it can't read
    for bucket in (UPLOADS, PICTURES, QUARANTINE):
        ours = {each for each in there.rights(f"storage/b/{bucket}") if each[0].startswith("dropcap")}
        assert ours == takers | {page.get(bucket, ("dropcap-gallery", "storage.legacyBucketWriter"))}
    secrets = f"secretmanager/projects/{PROJECT}/secrets"
    read = "secretmanager.secretAccessor"
    assert there.rights(f"{secrets}/dropcap-database-url") == {(f"dropcap-{name}", read) for name in NAMES}
    assert there.rights(f"{secrets}/dropcap-gemini-api-key") == {
        (f"dropcap-{name}", read) for name in NAMES[:3]
    }
    assert there.rights(f"cloudresourcemanager/projects/{PROJECT}") == {
        ("owner", "owner"),
        ("dropcap-build", "run.builder"),
        ("dropcap-trigger", "eventarc.eventReceiver"),
        (f"service-{NUMBER}", "pubsub.publisher"),
    }


def test_the_buckets_are_private_and_nothing_is_deleted_from_uploads_by_its_age(there: Deployment) -> None:
    deletes = {}
    for name in (UPLOADS, PICTURES, QUARANTINE):
        bucket = there.plane.resources[f"storage/b/{name}"]
        access = bucket["iamConfiguration"]
        assert access["uniformBucketLevelAccess"]["enabled"]
        assert access["publicAccessPrevention"] == "enforced"
        assert bucket["softDeletePolicy"]["retentionDurationSeconds"] == str(7 * 86_400)
        rules = {rule["action"]["type"]: rule["condition"] for rule in bucket["lifecycle"]["rule"]}
        assert rules["AbortIncompleteMultipartUpload"] == {"age": 1}
        deletes[name] = rules.get("Delete")
    assert deletes == {UPLOADS: None, PICTURES: None, QUARANTINE: {"age": 90}}
    [rule] = there.plane.resources[f"storage/b/run-sources-{PROJECT}-europe-west1"]["lifecycle"]["rule"]
    assert rule["action"]["type"] == "Delete"
    assert rule["condition"] == {"age": 30, "matchesPrefix": ["services/dropcap-"]}  # others share the bucket


def test_an_event_is_not_sent_again_while_its_picture_is_in_work(there: Deployment) -> None:
    [trigger] = [each for key, each in there.plane.resources.items() if "/triggers/" in key]
    filters = {each["attribute"]: each["value"] for each in trigger["eventFilters"]}
    assert filters == {"type": "google.cloud.storage.object.v1.finalized", "bucket": UPLOADS}
    assert trigger["serviceAccount"].endswith(f"dropcap-trigger@{PROJECT}.iam.gserviceaccount.com")
    name = trigger["transport"]["pubsub"]["subscription"]
    subscription = there.plane.resources[f"pubsub/{name}"]
    timeout = there.service("on-upload")["spec"]["template"]["spec"]["timeoutSeconds"]
    assert subscription["ackDeadlineSeconds"] == 600 > timeout
    assert subscription["retryPolicy"] == {"minimumBackoff": "10s", "maximumBackoff": "60s"}
    assert subscription["messageRetentionDuration"] == "604800s"


def test_a_schedule_calls_the_sweep_as_an_account_that_may(there: Deployment) -> None:
    [job] = [each for key, each in there.plane.resources.items() if key.startswith("cloudscheduler/")]
    url = there.service("sweep")["status"]["url"]
    assert job["schedule"] == "*/10 * * * *"
    target = job["httpTarget"]
    assert (target["httpMethod"], target["uri"].rstrip("/")) == ("POST", url)
    assert target["oidcToken"]["serviceAccountEmail"].startswith("dropcap-scheduler@")
    assert target["oidcToken"]["audience"].rstrip("/") == url


def test_who_operates_it_is_told(there: Deployment) -> None:
    resources = there.plane.resources
    [channel] = [each for key, each in resources.items() if "/notificationChannels/" in key]
    assert channel["labels"] == {"email_address": "ana@example.com"}
    alerts = [each for key, each in resources.items() if "/alertPolicies/" in key]
    assert len(alerts) == len(monitoring.alerts(monitoring.Values("", "")))
    for alert in alerts:
        assert alert["notificationChannels"] == [channel["name"]]
    [budget] = [each for key, each in resources.items() if "/budgets/" in key]
    assert budget["amount"]["specifiedAmount"]["units"] == "20"
    assert budget["notificationsRule"]["monitoringNotificationChannels"] == [channel["name"]]
    assert [key for key in resources if key.endswith("/dashboards/dropcap")]


def test_the_functions_get_variables_that_their_settings_take_and_secrets_by_version(
    there: Deployment,
) -> None:
    for name in NAMES:
        settings = Settings.read(there.variables(name))
        assert (settings.uploads_bucket, settings.pictures_bucket) == (UPLOADS, PICTURES)
        secrets = {
            each["name"]: tuple(each["valueFrom"]["secretKeyRef"][part] for part in ("name", "key"))
            for each in there.container(name)["env"]
            if "valueFrom" in each
        }
        database = {"DATABASE_URL": ("dropcap-database-url", "1")}
        gemini = {} if name in SMALL else {"GEMINI_API_KEY": ("dropcap-gemini-api-key", "1")}
        assert secrets == database | gemini


def test_secrets_are_sent_once_and_to_secret_manager_alone(there: Deployment) -> None:
    saved = there.plane.resources["recorded"]
    assert PASSWORD not in "".join(saved["shown"].values())
    bodies = "".join(saved["bodies"])
    assert PASSWORD not in bodies  # they are base64 where they are sent
    assert KEY not in bodies
    kept = [json.loads(there.plane.payloads[key]) for key in there.plane.payloads if "/versions/" in key]
    assert len(kept) == 2


def test_what_is_uploaded_is_the_folder_of_the_functions_once_for_all_of_them(there: Deployment) -> None:
    [data] = [data for key, data in there.plane.payloads.items() if key.endswith(".zip")]
    names = {name for name in zipfile.ZipFile(io.BytesIO(data)).namelist() if name[-1] != "/"}
    assert names == set(source.files(there.root))
    assert {"main.py", "requirements.txt", "dropcap/pipeline.py"} <= names
    assert not [name for name in names if re.search(r"pycache|test|\.git|requirements\.in", name)]


def test_one_image_is_all_functions_and_each_says_which_it_is(there: Deployment) -> None:
    """The image contains the first function's name only as a default, and no operating system."""
    [built] = there.plane.images
    for name in NAMES:
        assert there.container(name)["image"] == built
        notes = there.service(name)["spec"]["template"]["metadata"]["annotations"]
        assert json.loads(notes["run.googleapis.com/base-images"]) == {"": there.plane.images[built]}
        target = there.variables(name).get("FUNCTION_TARGET", "on_upload")
        assert target == name.replace("-", "_")
        assert f"\ndef {target}(request" in (there.functions / "main.py").read_text()


def test_where_somebody_deleted_the_image_what_is_said_has_it_built_anew_for_all(there: Deployment) -> None:
    there.plane.images.clear()
    ran = there.make("deploy", MAX_PER_HOUR="7")
    match = re.search(r"\(Image '\S+' not found\.\): (gcloud .*), then make deploy", ran.error)
    assert match
    there.run_script(f"{match[1]} --region=europe-west1 --quiet")
    ran = there.deployed(MAX_PER_HOUR="7")
    assert len([line for line in ran.lines if "builds:submit" in line]) == 1
    assert {there.container(name)["image"] for name in NAMES} == {*there.plane.images}


def test_one_changed_setting_is_one_request_a_function_and_no_build(there: Deployment) -> None:
    before = {name: there.service(name)["spec"]["template"]["metadata"]["name"] for name in NAMES}
    ran = there.deployed(**ALERTS, MAX_PER_HOUR="7")
    assert len(ran.lines) == len(NAMES)
    assert all(
        re.match(r"(PUT|POST) \S*run.googleapis.com/\S+/services/dropcap-", line) for line in ran.lines
    )
    for name in NAMES:
        assert there.variables(name)["MAX_PER_HOUR"] == "7"
        after = there.service(name)["spec"]["template"]["metadata"]["name"]
        assert after != before[name]
        assert after.rpartition("-")[0].startswith(f"dropcap-{name}-")
    again = there.deployed(MAX_PER_HOUR="default")  # the name that it had is taken, and another is found
    assert len(again.lines) == len(NAMES)
    assert "MAX_PER_HOUR" not in there.variables("analyze")


def test_changed_code_is_built_and_named_for_its_commit_and_a_rollback_leads_back(there: Deployment) -> None:
    first = {name: there.service(name)["status"]["latestReadyRevisionName"] for name in NAMES}
    refused = there.make("rollback")
    assert refused.status == 1
    assert "no revision with other code" in refused.error
    (there.functions / "dropcap" / "new.py").write_text("")
    assert there.read_source().commit.endswith("-dirty")  # what is not committed says so
    commit = there.commit("second")
    there.deployed(**ALERTS)
    builds = [request.body for request in there.plane.writes if request.path.endswith("builds:submit")]
    assert [each["buildpackBuild"]["environmentVariables"] for each in builds] == [BUILD_VARIABLES]
    assert len({there.container(name)["image"] for name in NAMES}) == 1 < len(there.plane.images)
    for name in NAMES:
        metadata = there.service(name)["spec"]["template"]["metadata"]
        assert re.fullmatch(rf"dropcap-{name}-{commit}-[0-9a-f]{{8}}", metadata["name"])
        assert metadata["labels"]["dropcap-commit"] == commit
    back = there.make("rollback")
    assert back.status == 0, back.error
    assert len(back.lines) == len(NAMES)
    for name in NAMES:
        [part] = [each for each in there.service(name)["spec"]["traffic"] if each.get("percent")]
        assert part["revisionName"] == first[name]
        assert first[name] in back.out
    assert len(there.deployed(**ALERTS).lines) == len(NAMES)  # and a deployment leads forward again
    for name in NAMES:
        assert there.service(name)["spec"]["traffic"] == [{"percent": 100, "latestRevision": True}]
    prefix = f"run/projects/{PROJECT}/locations/europe-west1/revisions"
    del there.plane.resources[f"{prefix}/{first['gallery']}"]  # as if it were new with the last deployment
    planned = after.rollback(*begin(there.environment(), Gcloud(PROJECT, there.environment())))
    assert [each.then for each in planned] == [*(first[name] for name in NAMES[:-1]), "stays"]


def unchecked(there: Deployment) -> set[str]:
    """Return the functions whose callers Google does not check."""
    return {
        key.rpartition("/dropcap-")[2]
        for key, each in there.plane.resources.items()
        if "/services/dropcap-" in key and "/revisions/" not in key
        if str(each["metadata"]["annotations"].get("run.googleapis.com/invoker-iam-disabled")) == "True"
    }


def test_doors_open_last_and_shut_first_and_what_is_not_declared_goes(there: Deployment) -> None:
    """Grants of an earlier version to allUsers are removed at the end; grants by others stay."""
    client = "1-a.apps.googleusercontent.com"
    before = {"role": "roles/run.invoker", "members": ["allUsers", "user:bob@example.com"]}
    there.plane.policy(_service("analyze"))["bindings"] = [before]
    opened = there.deployed(**ALERTS, AUTH="token", AUTH_AUDIENCE=client)
    assert unchecked(there) == {"analyze", *SMALL}
    last = [line.rpartition("/")[2] for line in opened.lines[-4:]]
    assert last == [
        *(f"dropcap-{name}?alt=json" for name in ("analyze", *SMALL)),
        "dropcap-analyze:setIamPolicy?alt=json",
    ]
    assert there.rights(_service("analyze")) == {("bob", "run.invoker")}
    assert (
        "callers of dropcap-analyze: checked by Google -> checked by the function (AUTH=token" in opened.out
    )
    assert not [each for each in there.plane.policies.values() if "allUsers" in json.dumps(each)]
    url = there.service("gallery")["status"]["url"]
    assert f"gallery: {url}/gallery/\n" in opened.out
    assert re.search(rf"oauthclient/{client}\?project={PROJECT}, .*add {url}/gallery/sign-in\n", opened.out)
    member = f"serviceAccount:dropcap-analyze@{PROJECT}.iam.gserviceaccount.com"
    too_much = {"role": "roles/storage.admin", "members": [member]}
    there.plane.policies[f"storage/b/{UPLOADS}"]["bindings"].append(too_much)
    shut = there.deployed(AUTH="default", GALLERY="0")
    assert ("dropcap-analyze", "storage.admin") not in there.rights(f"storage/b/{UPLOADS}")
    assert [line.rpartition("/")[2] for line in shut.lines[:3]] == [
        f"dropcap-{name}?alt=json" for name in sorted(("analyze", *SMALL))
    ]
    assert unchecked(there) == set()
    left = [key for key in there.plane.resources if "gallery" in key and "/run-sources-" not in key]
    assert left == []
    assert "dropcap-gallery" not in json.dumps(there.plane.policies)
    assert there.deployed().lines == []  # and it stays away where nothing is said of it


def test_identity_aware_proxy_is_on_before_its_account_may_call_and_off_before_anything_else(
    there: Deployment,
) -> None:
    """The people whom the proxy lets in are not a setting, and a deployment keeps their access."""
    gallery, agent = _service("gallery"), f"service-{NUMBER}"
    address = f"/projects/{NUMBER}/locations/europe-west1/services/dropcap-gallery"
    on = there.deployed(AUTH="iap", AUTH_AUDIENCE="1-a.apps.googleusercontent.com")
    notes = there.service("gallery")["metadata"]["annotations"]
    assert notes["run.googleapis.com/iap-enabled"] == "true"
    assert there.rights(gallery) == {(agent, "run.invoker")}
    assert (unchecked(there), there.rights(_service("analyze"))) == (set(), set())
    for name in ("gallery", "analyze"):
        settings = there.variables(name)
        assert (settings["AUTH"], settings["AUTH_AUDIENCE"]) == ("iap", address)
    enabled = f"serviceusage/projects/{PROJECT}/services/iap.googleapis.com"
    assert enabled in there.plane.resources
    assert "people at dropcap-gallery: signed in by nobody -> signed in by Identity-Aware Proxy" in on.out
    [command] = re.findall(r"lets in only the members that you add: gcloud (.*)\n", on.out)
    assert "--role=roles/iap.httpsResourceAccessor" in command
    again = there.deployed()
    assert again.lines == []
    [stays] = re.findall("^Stays as deployed: (.*)$", again.out, re.MULTILINE)
    assert "AUTH=iap" in stays
    assert "AUDIENCE" not in stays
    off = there.deployed(AUTH="default", ALERTS="0", BUDGET="default")  # which needs the address, too
    watched = [key for key in there.plane.resources if key.startswith("monitoring/")]
    assert sorted(key.split("/")[3] for key in watched) == ["dashboards", "notificationChannels"]
    assert "sent to ana@example.com" in there.make("plan", ALERTS="1").out  # the address is remembered
    first = [line.rpartition("/")[2] for line in off.lines[:2]]
    assert first == ["dropcap-gallery?alt=json", "dropcap-gallery:setIamPolicy?alt=json"]
    assert "run.googleapis.com/iap-enabled" not in there.service("gallery")["metadata"]["annotations"]
    assert there.rights(gallery) == set()
    assert "AUTH_AUDIENCE" not in there.variables("gallery")


ELSEWHERE = {  # in tests of their own, as they make much
    *("REGION", "SOURCE", "CLOUD_SQL", "CLOUD_SQL_TIER", "ALERTS"),
    *(f"{kind}_BUCKET" for kind in ("UPLOADS", "PICTURES", "QUARANTINE", "ARCHIVE")),
}
ON = {**ALERTS, "GALLERY": "1"}  # of the deployment that is there
SET = {  # each setting otherwise than by default
    "PICTURES_URL": "https://cdn.example.com/p",
    "INCLUDE": "a b/*,$x#*",
    "EXCLUDE": "=x,*'q\"*",
    "SIZES": "800,200x100",
    "FORMAT": "avif,original",
    "ANIMATED": "1",
    "LAYOUT": "thumbs/",
    "QUALITY": "70",
    "CACHE_CONTROL": "public, #1 $HOME $(x) 'a' \"b\" ü; c^~^=",
    "AUTH": "token",
    "AUTH_AUDIENCE": "1-a.apps.googleusercontent.com",
    "AUTH_CERTS_URL": "https://example.com/certs",
    "HOSTS": "a.example.com,b.example.com",
    "SIGN_IN_URL": "https://example.com/in",
    "MAX_PER_HOUR": "0",
    "MAX_MB": "16",
    "MAX_MEGAPIXELS": "50",
    "MAX_SIDE": "40000",
    "MEMORY_LIMIT_MB": "1024",
    "MEMORY_WARNING_MB": "500",
    "DATABASE_SCHEMA": "other",
    "DATABASE_CONNECTIONS": "3",
    "DATABASE_TIMEOUT_S": "5.5",
    "STORAGE_TIMEOUT_S": "30",
    "LEASE_S": "200",
    "TIMEOUT_S": "400",
    "MAX_DEATHS": "2",
    "SWEEP_S": "100",
    "TIME_ZONE": "Europe/Berlin",
    "LANGUAGE": "pt-BR",
    "EMBED_WORDS": "off",
    "SAFETY": "low",
    "SAFETY_UNKNOWN": "publish",
    "EVENTS": "https://example.com/hook?a=b",
    "EVENTS_TIMEOUT_S": "2",
    "EVENTS_DAYS": "3",
    "RETENTION_DAYS": "100",
    "RECEIPTS": "1",
    "GEMINI_MODEL": "gemini-x",
    "GEMINI_SDK": "google-generativeai",
    "GEMINI_ENDPOINT": "https://example.com/gemini",
    "GEMINI_TIMEOUT_S": "10",
    "GEMINI_ATTEMPTS": "2",
    "GEMINI_BATCH": "0",
    "GEMINI_MEDIA_RESOLUTION": "low",
    "GEMINI_INPUT_PRICE": "1",
    "GEMINI_OUTPUT_PRICE": "2.5",
    "DAILY_CALLS": "1000",
    "DAILY_MONEY": "1.5",
    "OPERATORS": "123,456",
    "MODEL_FOLDER": "model x",
    "BLIP": "optional",
    "CAPTION_PROMPT": "a photograph of",
    "CAPTION_BEAMS": "2",
    "CAPTION_THREADS": "2",
    "MAX_INSTANCES": "7",
    "QUARANTINE_DAYS": "30",
    "SOFT_DELETE_DAYS": "0",
    "BACKFILL_PER_SECOND": "0.5",
}


def test_what_was_set_stays_on_a_fresh_clone_until_it_is_returned_to_its_default(
    there: Deployment, tmp_path: Path
) -> None:
    assert SET.keys() | ON.keys() | ELSEWHERE == (SETTINGS | config.NAMES) - {*SECRETS, *NOT_KEPT}
    there.deployed(**SET, EVENTS_SECRET=NO_SECRET)
    (tmp_path / "clone").mkdir()
    clone = Deployment(tmp_path / "clone", there.plane)
    again = clone.deployed()
    assert again.lines == []
    [stays] = re.findall("^Stays as deployed: (.*)$", again.out, re.MULTILINE)
    assert dict(each.split("=", 1) for each in shlex.split(stays)) == SET | ON
    written = (clone.root / "settings.mk").read_text()
    for secret in (KEY, PASSWORD, "DATABASE_URL", "GEMINI_API_KEY", "whsec_"):
        assert secret not in written
    back = clone.make("plan", **dict.fromkeys(SET | ON, "default"))
    assert back.status == 0, back.error
    assert "Stays as deployed" not in back.out
    for line in (
        "callers of dropcap-analyze: checked by the function -> checked by Google",
        "function dropcap-gallery: exists -> none",
        "alert address ana@example.com: exists -> none",
        f"budget Dropcap {PROJECT}: exists -> none",
        f"bucket {UPLOADS}: deleted objects kept 0 days -> deleted objects kept 7 days",
        "queue dropcap-backfill: a second 0.5, at once 48 -> a second 2.0, at once 32",
    ):
        assert line in back.out
    assert re.search(r"bucket demo-project-quarantine: .*after 30 days.* -> .*after 90 days", back.out)
    assert re.search(
        r"function dropcap-on-upload: .*at most instances 7.* -> .*at most instances 5.*", back.out
    )


def test_a_bucket_that_is_not_empty_is_taken_over_only_where_it_is_said_what_becomes_of_it(
    plane: ControlPlane, tmp_path: Path
) -> None:
    deployment = Deployment(tmp_path, plane)
    bucket = f"gs://{plane.project}-uploads"
    (tmp_path / "old.jpg").write_bytes(b"a picture from before")
    deployment.run_script(
        f"gcloud services enable storage.googleapis.com\n"
        f"gcloud storage buckets create {bucket} --location=europe-west1\n"
        f"gcloud storage cp {tmp_path}/old.jpg {bucket}/ana/old.jpg\n"
    )
    refused = deployment.make("deploy")
    assert (refused.status, refused.writes) == (1, [])
    assert f"{bucket} is not empty" in refused.error
    assert "SOURCE=keep" in refused.error
    assert deployment.make("plan", SOURCE="keep").status == 0


def test_what_changes_of_a_budget_reaches_it(plane: ControlPlane) -> None:
    """Its amount, its thresholds and its recipient."""
    for api in TO_ENABLE:
        plane.put(f"serviceusage/projects/{PROJECT}/services/{api}.googleapis.com", {"state": "ENABLED"})
    gcloud = Gcloud(PROJECT, plane.environment | {"PATIENCE_S": "0"})

    def found() -> Cloud:
        def of(kind: str) -> list[Any]:
            return [each for key, each in plane.resources.items() if f"/{kind}/" in key]

        return Cloud(gcloud, budgets=of("budgets"), channels=of("notificationChannels"))

    before = Budget(name="Dropcap", why="", amount="20", address="")
    address = Channel(name="ana@example.com", why="")
    for command in (*before.make(found()), *address.make(found())):
        gcloud.do(command)
    assert before.difference(found()) is None
    found().budgets[0]["thresholdRules"].pop()  # as a version before set it
    wanted = replace(before, amount="30", address=address.name)
    change = wanted.difference(found())
    assert change
    assert change.then.startswith("a month 30, says so at percent=0.5, ")
    for command in change.commands:
        gcloud.do(command)
    assert wanted.difference(found()) is None

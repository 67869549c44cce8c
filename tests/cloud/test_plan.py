"""The parts of a plan: settings that are checked before any command runs, roles, names, and texts."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import pytest

from infra import ROOT
from infra.cloud import CloudError, source
from infra.cloud.__main__ import COMMANDS, TABLES, main
from infra.cloud.config import SETTINGS, Config
from infra.cloud.deployed import of_services, of_the_rest
from infra.cloud.gcloud.command import Gcloud
from infra.cloud.inventory import Cloud
from infra.cloud.operations import after
from infra.cloud.plan import changes, script
from infra.cloud.resources import rights
from infra.cloud.resources.base import covers
from infra.cloud.resources.buckets import ABORT, Bucket, BuildSources, delete_after
from infra.cloud.source import Source

USUAL = {
    "PROJECT": "my-project",
    "DATABASE_URL": "postgresql://ana:secret1@db.example.com/x",
    "DEMO_MODEL": "1",
}
SOURCE = Source("0123456789abcdef", "abc1234", 1)


def planned(**variables: str) -> str:
    """Return the plan of a first deployment, as a script."""
    config = Config.read(USUAL | variables)
    cloud = Cloud(Gcloud(config.project, {}), number="12", created="2026-01-01")
    return script(config, changes(config, cloud, SOURCE))


def test_buckets_that_keep_their_objects_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def warned(**variables: str) -> list[str]:
        assert main(["plan"], USUAL | variables) == 0
        return [line for line in capfd.readouterr().err.splitlines() if line.startswith("Warning: ")]

    cloud = Cloud(Gcloud("my-project", {}), number="12", created="2026-01-01")
    monkeypatch.setattr(
        "infra.cloud.__main__.begin", lambda environment, *_: (Config.read(environment), cloud)
    )
    monkeypatch.setattr("infra.cloud.__main__.complete", lambda config, *_, **__: config)
    monkeypatch.setattr("infra.cloud.__main__.read_source", lambda: SOURCE)
    assert warned(SOURCE="delete") == []
    cloud.buckets["my-project-uploads"] = {"retentionPolicy": {"retentionPeriod": "2592000"}}
    cloud.buckets["my-project-pictures"] = {"defaultEventBasedHold": True}
    uploads, pictures = warned(SOURCE="delete", COMMANDS="1")
    assert "gs://my-project-uploads has a retention policy of 30 days" in uploads
    assert "SOURCE=keep" in uploads
    assert "gs://my-project-pictures has a hold on each new object" in pictures
    assert warned(SOURCE="keep") == [pictures]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PROJECT": ""}, "make deploy PROJECT=my-project"),
        ({"PROJECT": "Mine!"}, "PROJECT='Mine!'"),
        ({"PROJECT": "example.com:my-project"}, "can't build"),
        ({"REGION": "Belgium"}, "REGION='Belgium' is not allowed: it must be a region"),
        ({"MAX_INSTANCES": "0"}, "from 1 to 1000"),
        ({"SOFT_DELETE_DAYS": "3"}, "0, or a number from 7 to 90"),
        ({"QUALITY": "101"}, "QUALITY='101' is not allowed"),
        ({"UPLOADS_BUCKET": "My Bucket"}, "a bucket name"),
        ({"PICTURES_BUCKET": "my-project-uploads"}, "must differ from UPLOADS_BUCKET"),
        ({"AUTH": "token"}, "AUTH_AUDIENCE"),
        ({"LEASE_S": "540"}, "540 s after which the platform ends a function"),
        ({"TIMEOUT_S": "600"}, "540 s after which the platform ends a function"),
        ({"MEMORY_LIMIT_MB": "8192"}, "from 512 to 4096 MiB"),
        ({"DATABASE_URL": "postgresql://ana@localhost/x"}, "the functions can't reach"),
        ({"DATABASE_URL": "postgresql://ana@db.example.com/x?sslmode=disable"}, "sslmode"),
        ({"GEMINI_ENDPOINT": "http://127.0.0.1:8082"}, "the functions can't reach"),
        ({"EVENTS": "http://localhost/hook"}, "the functions can't reach"),
        ({"CLOUD_SQL": "new"}, "DATABASE_URL and CLOUD_SQL are both set"),
        ({"CLOUD_SQL": "my-instance", "DATABASE_URL": ""}, "project:region:name, or new"),
        ({"ALERT_EMAIL": "ana"}, "an address"),
        ({"WAIT_S": "soon"}, "WAIT_S='soon' is not allowed: it must be a whole number of seconds"),
        ({"GALLERY": "yes"}, "GALLERY='yes' is not allowed: it must be 0 or 1"),
        ({"DEMO_MODEL": "yes"}, "DEMO_MODEL='yes' is not allowed: it must be 0 or 1"),
    ],
)
def test_a_wrong_setting_is_one_line_before_anything_is_sent(
    variables: Mapping[str, str], message: str
) -> None:
    with pytest.raises(CloudError, match=re.escape(message)) as refused:
        Config.read({**USUAL, **variables})
    assert "\n" not in str(refused.value)
    assert "secret1" not in str(refused.value)


def test_without_a_database_it_says_how_to_have_one() -> None:
    with pytest.raises(CloudError, match="CLOUD_SQL=new"):
        planned(DATABASE_URL="")


def test_a_gallery_where_nobody_could_sign_in_is_refused_with_the_way_to_mend_it() -> None:
    firebase = {"GALLERY": "1", "AUTH": "token", "AUTH_AUDIENCE": "my-firebase"}
    with pytest.raises(
        CloudError, match="SIGN_IN_URL='' is not allowed with GALLERY=1 and a Firebase project"
    ):
        planned(**firebase)
    assert "dropcap-gallery" in planned(**firebase, SIGN_IN_URL="https://my-firebase.web.app/sign-in")
    assert "dropcap-gallery" in planned(**firebase | {"AUTH_AUDIENCE": "1-a.apps.googleusercontent.com"})


def test_identity_aware_proxy_is_for_the_gallery_and_its_audience_is_no_setting() -> None:
    with pytest.raises(CloudError, match="AUTH=iap is for the gallery, which GALLERY=0 turns off"):
        planned(AUTH="iap")
    deployed = {"AUTH": "token", "AUTH_AUDIENCE": "1-a.apps.googleusercontent.com", "GALLERY": "1"}
    config = Config.read(USUAL | {"AUTH": "iap"}, deployed)
    cloud = Cloud(Gcloud(config.project, {}), number="12")
    commands = script(config, changes(config, cloud, SOURCE))
    assert "1-a.apps" not in commands
    assert '"AUTH_AUDIENCE": "/projects/12/locations/europe-west1/services/dropcap-gallery"' in commands
    assert config.chosen == {"AUTH": "iap", "GALLERY": "1"}


def test_without_alerts_there_is_no_address_but_for_a_budget() -> None:
    without = {"ALERTS": "0", "ALERT_EMAIL": "ana@example.com"}
    commands = planned(**without)
    assert "monitoring policies" not in commands
    assert "monitoring channels" not in commands
    assert "dashboards create" in commands
    assert "channels create" in planned(**without, BUDGET="20")


def test_of_the_gallery_there_is_nothing_where_it_is_not_asked_for() -> None:
    assert "gallery" not in planned(AUTH="token", AUTH_AUDIENCE="my-firebase", SOURCE="archive")


def test_what_is_set_of_the_functions_goes_to_them_and_nothing_else() -> None:
    config = Config.read(USUAL | {"SIZES": "100", "HOME": "/root", "GEMINI_API_KEY": "secret2"})
    assert config.variables == {
        "SIZES": "100",
        "UPLOADS_BUCKET": "my-project-uploads",
        "PICTURES_BUCKET": "my-project-pictures",
        "QUARANTINE_BUCKET": "my-project-quarantine",
    }


def test_gcloud_is_not_given_a_secret_in_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arguments of make, which may contain a secret, are not passed on either."""
    gcloud = tmp_path / "gcloud"
    gcloud.write_text("#!/bin/sh\nenv")
    gcloud.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    environment = {
        "PATH": os.environ["PATH"],
        "GEMINI_API_KEY": "secret1",
        "MAKEFLAGS": " -- DATABASE_URL=secret2",
    }
    shown = Gcloud("my-project", environment).text("version")
    assert "CLOUDSDK_CORE_PROJECT=my-project" in shown
    assert "secret" not in shown


def test_no_command_has_a_secret_in_it() -> None:
    commands = planned(GEMINI_API_KEY="secret2")
    assert (
        'printf %s "$DATABASE_URL" | gcloud secrets versions add dropcap-database-url --data-file=-'
        in commands
    )
    assert "secret1" not in commands
    assert "secret2" not in commands


def test_who_tells_of_events_may_publish_to_that_topic_alone() -> None:
    topic = "projects/my-project/topics/done"
    commands = planned(EVENTS=topic, GALLERY="1")
    granted = re.findall(rf"pubsub topics add-iam-policy-binding {topic} .*", commands)
    names = {re.findall(r"dropcap-([a-z-]+)@", line)[0] for line in granted}
    assert names == {"on-upload", "analyze", "sweep"}
    assert all(line.endswith("--role=roles/pubsub.publisher") for line in granted)
    assert commands.count(f'"EVENTS": "{topic}"') == 3


def test_a_topic_that_is_not_there_is_named_with_the_command_that_makes_it() -> None:
    topic = "projects/my-project/topics/done"
    config = Config.read(USUAL | {"EVENTS": topic})
    with pytest.raises(CloudError, match=f"no topic {topic}: gcloud pubsub topics create {topic}"):
        changes(config, Cloud(Gcloud(config.project, {}), no_topic=True), SOURCE)


def test_a_webhook_is_deployed_with_a_secret_that_is_in_no_command_or_not_at_all() -> None:
    with pytest.raises(CloudError, match="EVENTS_SECRET is not set"):
        planned(EVENTS="https://example.com/hook")
    secret = f"whsec_{'c2Vj' * 8}"
    commands = planned(EVENTS="https://example.com/hook", EVENTS_SECRET=secret, GALLERY="1")
    assert secret not in commands
    assert commands.count("EVENTS_SECRET=dropcap-events-secret:1") == 3
    assert len(re.findall("secrets add-iam-policy-binding dropcap-events-secret", commands)) == 3
    assert commands.count('"EVENTS": "https://example.com/hook"') == 3


def test_a_verdict_on_safety_is_asked_for_by_the_functions_that_have_the_key_and_only_with_one() -> None:
    with pytest.raises(CloudError, match="not allowed without GEMINI_API_KEY"):
        planned(SAFETY="low")
    parts = planned(SAFETY="low", GEMINI_API_KEY="x", GALLERY="1").split("# function dropcap-")[1:]
    moderated = {part.partition(":")[0]: '"SAFETY": "low"' in part for part in parts}
    assert len(moderated) == 5
    assert {name for name, moderates in moderated.items() if moderates} == {
        "on-upload",
        "analyze",
        "sweep",
    }


def running(name: str = "on-upload", **variables: str) -> dict[str, dict[str, object]]:
    """Return a deployed function with these variables, by its name."""
    environment = [{"name": each, "value": value} for each, value in variables.items()]
    template = {"metadata": {"annotations": {}}, "spec": {"containers": [{"env": environment}]}}
    metadata = {"name": f"dropcap-{name}", "labels": {}}
    return {f"dropcap-{name}": {"metadata": metadata, "spec": {"template": template}}}


def test_alerts_that_were_taken_down_stay_so_and_those_that_an_interruption_left_out_come() -> None:
    config = Config.read(USUAL | {"ALERTS": "0", "GEMINI_API_KEY": "x"})
    cloud = Cloud(Gcloud(config.project, {}), number="12", services=running())
    assert "ALERTS" not in of_the_rest(config, cloud)
    cloud.dashboards["dropcap"] = {}  # which comes after them
    assert of_the_rest(config, cloud)["ALERTS"] == "0"
    cloud.alerts = {"": {"name": "somebody else's"}}
    assert of_the_rest(config, cloud)["ALERTS"] == "0"
    cloud.alerts["errors"] = {"name": "projects/my-project/alertPolicies/1"}
    assert "ALERTS" not in of_the_rest(config, cloud)
    commands = script(config, changes(config, cloud, SOURCE))
    assert re.findall("policies (?:delete|create) .*", commands) == [
        "policies delete projects/my-project/alertPolicies/1"
    ]


REASONED = (
    {"SOURCE": "keep"},
    {"INCLUDE": "camera/*"},
    {"EXCLUDE": "[private]/*,*/draft?.jpg"},
    {"SAFETY": "low"},
    {"DAILY_MONEY": "5", "DAILY_CALLS": "200"},
    {"AUTH": "token", "AUTH_AUDIENCE": "my-firebase"},
    {"SIZES": "800,200", "UPLOADS_BUCKET": "photos"},
)


@pytest.mark.parametrize("deployed", REASONED, ids=map(" ".join, REASONED))
@pytest.mark.parametrize("name", ["on-upload", "sweep"])
def test_a_setting_that_nobody_says_stays_as_deployed_until_it_is_returned_to_its_default(
    name: str, deployed: dict[str, str]
) -> None:
    services = running(name, **deployed, GEMINI_API_KEY="dropcap-gemini-api-key:1", THREADS="8")
    found = of_services("my-project", "europe-west1", services)

    def read(**chosen: str) -> Config:
        config = Config.read(USUAL | {"GEMINI_API_KEY": "x"} | chosen, found)
        assert changes(config, Cloud(Gcloud(config.project, {}), number="12", services=services), SOURCE)
        return config

    usual = Config.read(USUAL | {"GEMINI_API_KEY": "x"})
    for nothing in ("", " \t"):
        config = read(**dict.fromkeys(deployed, nothing))
        assert config.variables == {**usual.variables, **deployed}
        assert config.stays == deployed
    back = read(**dict.fromkeys(deployed, "default"))
    assert (back.variables, back.settings, back.stays) == (usual.variables, usual.settings, {})
    assert read(QUALITY="81").chosen == deployed | {"QUALITY": "81"}  # and is kept from then on


def test_a_database_that_is_said_takes_the_place_of_cloud_sql_and_one_that_is_not_leaves_it() -> None:
    deployed = {"CLOUD_SQL": "new", "MAX_INSTANCES": "9"}
    assert Config.read(USUAL, deployed).cloud_sql == ""
    kept = Config.read({"PROJECT": "my-project"}, deployed)
    assert (kept.cloud_sql, kept.max_instances) == ("new", "9")


def test_a_variable_of_nothing_but_white_space_is_one_that_is_not_set() -> None:
    names = [item.name.upper() for item in fields(Config) if item.metadata] + sorted(SETTINGS)
    usual = Config.read(USUAL)
    for name in set(names) - USUAL.keys():
        for blank in ("", " ", "\t\n"):
            assert replace(Config.read(USUAL | {name: blank}), environment={}) == replace(
                usual, environment={}
            ), name


class Full(Gcloud):
    """A gcloud for which every bucket has an object."""

    def read(self, *words: str) -> list[dict[str, str]]:
        assert words[:3] == ("storage", "objects", "list")
        return [{"name": "ana/old.jpg"}]


@pytest.mark.parametrize("watched", ["my-project-uploads", "another-bucket"])
@pytest.mark.parametrize("nothing", [{}, {"SOURCE": ""}, {"SOURCE": "  "}], ids=["unset", "empty", "blank"])
def test_another_bucket_is_watched_only_where_it_is_said_what_becomes_of_what_lies_there(
    watched: str, nothing: dict[str, str]
) -> None:
    config = Config.read(USUAL | nothing)
    services = running(UPLOADS_BUCKET=watched)
    uploads = config.buckets["uploads"]
    cloud = Cloud(Full(config.project, {}), number="12", services=services, buckets={uploads: {}})
    if watched == uploads:
        assert changes(config, cloud, SOURCE)
        return
    with pytest.raises(CloudError, match=f"gs://{uploads} is not empty"):
        changes(config, cloud, SOURCE)


def test_rules_that_an_app_gave_its_bucket_stay_beside_ours() -> None:
    theirs = {"action": {"type": "Delete"}, "condition": {"age": 30}}
    cold = {"action": {"type": "SetStorageClass", "storageClass": "NEARLINE"}, "condition": {"age": 30}}
    found = {"lifecycle": {"rule": [cold, theirs]}}
    cloud = Cloud(Gcloud("my-project", {}), buckets={"photos": found})
    for ours, kept in (((ABORT,), [ABORT, cold, theirs]), ((delete_after(90),), [delete_after(90), cold])):
        bucket = Bucket(name="photos", why="", region="", soft_delete_days=7, rules=ours)
        change = bucket.difference(cloud)
        assert change
        assert change.commands[0].file
        assert json.loads(change.commands[0].file[1]) == {"rule": kept}
        after = Cloud(cloud.gcloud, buckets={"photos": {"lifecycle": {"rule": kept[::-1]}}})
        assert bucket.wanted(after)["lifecycle"] == (bucket.found(after) or {})["lifecycle"]


def test_an_instance_of_another_project_is_used_and_not_made() -> None:
    commands = planned(DATABASE_URL="", CLOUD_SQL="other-project:us-east1:shared")
    assert "sql instances create" not in commands
    assert "sql databases create dropcap --instance=shared --project=other-project" in commands
    assert "projects add-iam-policy-binding other-project" in commands
    assert "--set-cloudsql-instances=other-project:us-east1:shared" in commands


def test_an_instance_is_reached_by_its_own_region_wherever_the_functions_are() -> None:
    """An instance stays in its region when Dropcap moves."""

    def planned(**variables: str) -> str:
        config = Config.read(USUAL | {"DATABASE_URL": "", "REGION": "us-east1"} | variables)
        there = {"connectionName": "my-project:europe-west1:dropcap"}
        return script(config, changes(config, Cloud(Gcloud("my-project", {}), instance=there), SOURCE))

    commands = planned(CLOUD_SQL="new")
    assert "--set-cloudsql-instances=my-project:europe-west1:dropcap" in commands
    assert "?host=/cloudsql/my-project:europe-west1:dropcap&" in commands
    assert "us-east1:dropcap" not in commands
    assert "europe-west1:dropcap" in planned(CLOUD_SQL="my-project:europe-west1:dropcap")
    with pytest.raises(CloudError, match="the instance is my-project:europe-west1:dropcap"):
        planned(CLOUD_SQL="my-project:us-east1:dropcap")


def test_only_an_old_project_needs_the_right_that_pub_sub_once_lacked() -> None:
    config = Config.read(USUAL)
    for created, needed in (("2021-04-08", True), ("2021-04-09", False)):
        cloud = Cloud(Gcloud(config.project, {}), number="12", created=created)
        names = [grant.name for grant in rights.grants(config, cloud)]
        assert ("roles/iam.serviceAccountTokenCreator" in names) == needed


def test_the_printed_rights_are_those_that_are_granted() -> None:
    table = rights.table()
    commands = planned(
        GEMINI_API_KEY="x", SOURCE="archive", GALLERY="1", EVENTS="projects/p12345/topics/done"
    )
    granted = set(re.findall(r"--role=(roles/[\w.]+)", commands))
    assert granted <= set(re.findall(r"`(roles/[\w.]+)`", table))
    assert "get-progress-stats" not in "".join(re.findall(r".*objectUser.*|.*gemini.*", table))
    assert "gallery" not in "".join(re.findall(r".*gemini.*|.*objectUser. \| bucket [^p].*", table))


def test_the_same_wanted_state_has_the_same_name_and_a_taken_one_gets_a_number() -> None:
    config = Config.read(USUAL)

    def names(config: Config, taken: tuple[str, ...] = (), code: Source = SOURCE) -> set[str]:
        cloud = Cloud(Gcloud(config.project, {}), number="12")
        cloud.revisions = [{"metadata": {"name": f"dropcap-sweep-{name}"}} for name in taken]
        return set(re.findall(r"--revision-suffix=(\S+)", script(config, changes(config, cloud, code))))

    first = names(config)
    assert first == names(config)
    assert all(re.fullmatch(r"abc1234-[0-9a-f]{8}", name) for name in first)
    assert not first & names(Config.read(USUAL | {"QUALITY": "81"}))
    assert not first & names(config, code=replace(SOURCE, digest="fedcba9876543210"))
    assert {f"{name}-2" for name in first} & names(config, taken=tuple(first))


def test_the_longest_name_of_a_revision_is_one_that_cloud_run_takes() -> None:
    longest = "dropcap-get-progress-stats-" + "abc1234-dirty-01234567-99-env-r99"
    assert len(longest) <= 63


def test_of_the_bucket_that_builds_share_only_our_sources_are_deleted() -> None:
    declared = BuildSources(name="run-sources", why="", functions=("dropcap-sweep",), days=30)
    cloud = Cloud(Gcloud("my-project", {}))
    theirs = {"action": {"type": "Delete"}, "condition": {"age": 9, "matchesPrefix": ["services/other-"]}}
    cloud.buckets["run-sources"] = {"lifecycle": {"rule": [theirs]}}
    [command] = declared.make(cloud)
    assert command.file
    rules = json.loads(command.file[1])["rule"]
    assert theirs in rules
    assert [rule["condition"] for rule in rules if rule != theirs] == [
        {"age": 30, "matchesPrefix": ["services/dropcap-"]}
    ]
    cloud.buckets["run-sources"]["lifecycle"]["rule"] = rules
    assert declared.difference(cloud) is None


def test_a_log_line_is_one_that_people_read() -> None:
    entry = {
        "timestamp": "2026-11-24T16:00:01.123456Z",
        "severity": "WARNING",
        "resource": {"labels": {"service_name": "dropcap-on-upload"}},
        "jsonPayload": {"message": "rejected", "code": "not_a_picture", "facts": {"any": 1}},
    }
    assert after.line(entry) == "2026-11-24 16:00:01 WARNING  on-upload          rejected code=not_a_picture"


def test_what_the_server_adds_is_no_difference() -> None:
    assert covers({"a": [{"b": "1", "etag": "x"}], "c": 0}, {"a": [{"b": 1}], "d": False})
    assert not covers({"a": [1, 2]}, {"a": [1]})
    assert not covers({"a": {"b": 1}}, {"a": {"b": 2}})


def test_with_the_model_the_source_is_as_small_as_it_may_be() -> None:
    """The first generation has a limit of 100 MB compressed; none is published for the second."""
    assert "model/decoder.onnx" in source.files()
    assert source.read().bytes < 100e6


@pytest.mark.parametrize("command", [*COMMANDS, *TABLES])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_no_command_begins_with_loading_what_only_some_need() -> None:
    """Importing requests took a third of the start."""
    loads = "import sys, infra.cloud.__main__; sys.exit('requests' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loads], cwd=ROOT, check=False).returncode == 0


NO_CLOUD = {
    "DEMO_MODEL": "",
    "PATH": "/nowhere",
    "YES": "1",
}  # what asks the cloud fails, as gcloud is missing


@pytest.mark.parametrize("command", ["plan", "deploy"])
def test_the_demonstration_model_is_refused_before_anything_is_planned(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "infra.cloud.__main__.begin", lambda environment, gcloud, _: (Config.read(environment), Cloud(gcloud))
    )
    remedy = "run `make model`, or deploy it with DEMO_MODEL=1."
    message = f"functions/model is the demonstration captioner, which knows 60 drawn objects: {remedy}"
    for chosen in ("", "0"):
        assert main([command], USUAL | NO_CLOUD | {"DEMO_MODEL": chosen}) == 1
        assert capsys.readouterr().err == f"make {command}: {message}\n"
    monkeypatch.undo()
    assert main([command], USUAL | NO_CLOUD | {"DEMO_MODEL": "1"}) == 1
    assert "gcloud is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"plan", "deploy"}))
def test_what_runs_already_is_no_less_operated_with_the_demonstration_model(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command], USUAL | NO_CLOUD) == 1
    assert "gcloud is not installed" in capsys.readouterr().err


def test_the_model_that_is_deployed_is_the_one_that_is_looked_at(tmp_path: Path) -> None:
    card = json.loads((ROOT / "functions" / "model" / "model.json").read_text())

    def check(**variables: str) -> None:
        source.check_model(Config.read(USUAL | {"DEMO_MODEL": ""} | variables), tmp_path)

    def put(folder: str, demo: bool) -> None:
        (tmp_path / "functions" / folder).mkdir(parents=True)
        (tmp_path / "functions" / folder / "weights").write_bytes(b"right")
        files = {"weights": {"bytes": 5, "sha256": hashlib.sha256(b"right").hexdigest()}}
        changed = card | {"demo": demo, "files": files, "confidence": {"threshold": 0}}
        (tmp_path / "functions" / folder / "model.json").write_text(json.dumps(changed))

    with pytest.raises(CloudError, match=r"functions/model/model\.json is missing: .*`make model`\.$"):
        check()
    check(BLIP="optional")  # Gemini alone
    put("model", demo=False)
    put("small", demo=True)
    check()
    with pytest.raises(CloudError, match="functions/small is the demonstration captioner"):
        check(MODEL_FOLDER="/workspace/small")
    with pytest.raises(CloudError, match="functions/small is the demonstration captioner"):
        check(MODEL_FOLDER="small")
    check(MODEL_FOLDER="/mnt/models/blip")  # of a volume, which is not deployed
    (tmp_path / "functions" / "model" / "weights").write_bytes(b"wrong")
    with pytest.raises(CloudError, match=r"model/weights is not the file that model\.json describes"):
        check()


def test_where_gcloud_is_not_installed_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan"], USUAL | {"PATH": "/nowhere"}) == 1
    assert "cloud.google.com/sdk/docs/install" in capsys.readouterr().err

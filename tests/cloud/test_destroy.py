"""Commands after a deployment: verify, logs, open, and destroy, which keeps the data."""

import re
import threading
import uuid
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest

from dropcap import inference
from dropcap.captioning.blip import Card
from dropcap.database import connection
from dropcap.domain.analysis import Source
from dropcap.domain.upload import Upload
from dropcap.settings import MODEL_FOLDER, Settings
from infra.cloud import CloudError
from infra.cloud.config import Config
from infra.cloud.gcloud.command import Gcloud
from infra.cloud.inventory import Cloud, read_project
from infra.cloud.operations import gallery, verify
from infra.cloud.resources import sql
from infra.local.postgres import Postgres
from tests.support.app import NO_GCLOUD
from tests.support.cloud.control_plane import ControlPlane
from tests.support.cloud.deployment import ALERTS, Deployment

pytestmark = pytest.mark.skipif(NO_GCLOUD, reason="gcloud is not installed")
GONE = (
    "/services/dropcap",
    "/triggers/",
    "/jobs/",
    "/serviceAccounts/dropcap",
    "/metrics/",
    "/alertPolicies/",
)
DATA = ("storage/b/demo-project-uploads", "/secrets/dropcap-")


def _keys(there: Deployment, parts: tuple[str, ...]) -> list[str]:
    services = "serviceusage"
    return [
        key
        for key in there.plane.resources
        if not key.startswith(services) and any(part in key for part in parts) and "/o/" not in key
    ]


def test_destroy_takes_down_all_but_the_data_and_that_only_where_the_project_is_named(
    there: Deployment,
) -> None:
    ran = there.make("destroy")
    assert ran.status == 0, ran.error
    assert ran.out.endswith("make destroy PROJECT=demo-project DATA=1 deletes them, too.\n")
    assert "GALLERY ?= 1" in (there.root / "settings.mk").read_text()  # the services are gone
    assert _keys(there, (*GONE, "/budgets/")) == []
    assert len(_keys(there, DATA)) >= 2
    for key in (f"cloudresourcemanager/projects/{there.plane.project}", DATA[0]):
        assert not [who for who, _ in there.rights(key) if who.startswith("dropcap")]
    refused = there.make("destroy", **ALERTS, DATA="1", YES="1")
    assert refused.status == 1
    assert refused.lines == []
    assert f"YES={there.plane.project}" in refused.error
    plane, instance = there.plane, f"sqladmin/projects/{there.plane.project}/instances/dropcap"
    admin = f"projects/{plane.project}/services/sqladmin.googleapis.com"
    on = {"name": admin, "config": {"name": "sqladmin.googleapis.com"}, "state": "ENABLED"}
    plane.resources[f"serviceusage/{admin}"] = on
    plane.resources[instance] = {"name": "dropcap"}
    everything = {**ALERTS, "DATA": "1", "YES": plane.project}
    refused = there.make("destroy", **everything)
    assert (refused.status, refused.lines) == (1, [])
    assert "CLOUD_SQL=new destroys it with all its data, CLOUD_SQL=default keeps it." in refused.error
    # A webhook's secret from before goes as well, and a topic that is gone stands in no way.
    key = f"secretmanager/projects/{there.plane.project}/secrets/dropcap-events-secret"
    there.plane.resources[key] = {"name": key.removeprefix("secretmanager/")}
    topic = f"projects/{there.plane.project}/topics/gone"
    ran = there.make("destroy", **everything, EVENTS=topic, CLOUD_SQL="default")
    assert ran.status == 0, ran.error
    assert _keys(there, GONE + DATA) == []


def test_what_is_no_longer_allowed_stops_no_destroy_which_also_takes_the_rights_of_people(
    there: Deployment,
) -> None:
    plane, region = there.plane, "europe-west1"
    api = f"projects/{plane.project}/services/iap.googleapis.com"
    on = {"name": api, "config": {"name": "iap.googleapis.com"}, "state": "ENABLED"}
    plane.resources[f"serviceusage/{api}"] = on
    there.service("gallery")["metadata"]["annotations"]["run.googleapis.com/iap-enabled"] = "true"
    for name in ("on-upload", "analyze", "sweep", "gallery"):
        there.container(name)["env"] += [
            {"name": "AUTH", "value": "iap"},
            {"name": "QUALITY", "value": "900"},
        ]
    config, gcloud = Config.read(there.environment()), Gcloud(plane.project, there.environment())
    cloud = Cloud(gcloud, services={gallery.GALLERY: there.service("gallery")})
    cloud.tools = read_project(gcloud).tools
    arguments = gallery.instructions(config, cloud)[1].partition("gcloud ")[2].split()
    gcloud.text(*arguments)
    people = plane.policies[
        f"iap/projects/{plane.project}/iap_web/cloud_run-{region}/services/dropcap-gallery"
    ]
    assert people["bindings"][0]["members"] == ["user:ana@example.com"]
    warning = "QUALITY='900' is not allowed"
    refused = there.make("plan")
    assert (refused.status, refused.lines) == (1, [])
    assert warning in refused.error
    for command in ("logs", "destroy"):
        ran = there.make(command)
        assert ran.status == 0, ran.error
        assert f"Warning: {warning}" in ran.error
    assert "people at dropcap-gallery: let in: user:ana@example.com -> none" in ran.out
    [people] = [policy for key, policy in plane.policies.items() if key.startswith("iap/")]
    assert people["bindings"] == []
    assert _keys(there, GONE) == []


class Function(threading.Thread):
    """Process uploads in the stand-in as the deployed function does."""

    def __init__(self, plane: ControlPlane, target: str) -> None:
        super().__init__(daemon=True)
        self.plane, self.target = plane, target
        self.stop = threading.Event()

    def run(self) -> None:
        uploads = f"storage/b/{self.plane.project}-uploads/o/"
        while not self.stop.wait(0.05):
            for key in [key for key in self.plane.resources if key.startswith(uploads)]:
                source = self.plane.resources[key]
                address = f"gs://{source['bucket']}/{source['name']}#{source['generation']}"
                identity = uuid.uuid5(uuid.NAMESPACE_URL, address)
                bucket = f"{self.plane.project}-{self.target}"
                sizes = [f"{size}.webp" for size in Settings().sizes]
                for name in sizes if self.target == "pictures" else [source["name"]]:
                    copy = source | {"name": f"{identity}/{name}", "bucket": bucket}
                    if self.target == "quarantine":
                        copy["metadata"] = {
                            "dropcap-reason": "not_a_picture",
                            "dropcap-problem": "It is none.",
                            "dropcap-remedy": "Send one.",
                        }
                    self.plane.resources[f"storage/b/{bucket}/o/{copy['name'].replace('/', '%2F')}"] = copy
                del self.plane.resources[key]


def logged(**sources: Source) -> Any:
    """Return the log entries of an analysis with these model outputs."""
    return [{"jsonPayload": {"message": "analyzed", "sources": inference.log_fields(sources)}}]


DEMO = Source(True, "dropcap-scenes", "5f2c", demo=True, notice=Card.read(MODEL_FOLDER).notice)


def test_verify_drops_a_picture_and_says_what_came_of_it(there: Deployment) -> None:
    function = Function(there.plane, "pictures")
    function.start()
    there.plane.resources["entries"] = logged(blip=DEMO, gemini=Source(True, "gemini-x", "x-001"))
    ran = there.make("verify", WAIT_S="60")
    function.stop.set()
    assert ran.status == 0, ran.error
    assert "BLIP answered: dropcap-scenes, revision 5f2c\ndemonstration captioner: knows 60 drawn" in ran.out
    assert "\nGemini answered: gemini-x, version x-001\n" in ran.out
    [published] = re.findall(r"-pictures/([0-9a-f-]{36})/800\.webp", ran.out)
    [asked] = [each.body["filter"] for each in there.plane.requests if each.path.endswith("entries:list")]
    assert f'{verify.ANALYZED} AND jsonPayload.upload="{published}"' in asked
    assert "It works: 3 pictures published after" in ran.out
    assert "/800.webp" in ran.out
    assert "/gallery/ refuses anonymous requests (HTTP 403)." in ran.out


def test_verify_says_which_models_did_not_answer_and_why(
    there: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "LOG_S", 0)
    for name, value in there.environment().items():
        monkeypatch.setenv(name, value)
    config = Config.read(there.environment())

    def answers(entries: Any) -> list[str]:
        there.plane.resources["entries"] = entries
        return verify.answers(config, Gcloud(config.project), Upload("uploads", "a.jpg", 1, 1))

    failed = Source(False, problem="model.json is missing.")
    silent = Source(False, "gemini-x", problem="GEMINI_API_KEY is not set")
    sure, unsure = (Source(True, "blip-base", "82a3", low_confidence=low) for low in (False, True))
    assert answers(logged(blip=sure, gemini=silent)) == [
        "BLIP answered: blip-base, revision 82a3",
        "Gemini did not answer: GEMINI_API_KEY is not set",
    ]
    assert answers(logged(blip=unsure, gemini=silent))[0] == (
        "BLIP answered: blip-base, revision 82a3, with low confidence"
    )
    assert answers(logged(blip=failed, gemini=silent))[0] == "BLIP did not answer: model.json is missing."
    assert answers([{"jsonPayload": {"message": "analyzed"}}]) == [  # after a rollback, for one
        "The deployed version does not log which models answered."
    ]
    [late] = answers([])
    assert late == f"The log does not show yet which models answered: make logs PROJECT={config.project}"


def test_verify_knows_whom_the_gallery_should_let_in(
    there: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, there.environment()[name])
    config, service = Config.read(there.environment()), there.service("gallery")
    cloud = Cloud(Gcloud(config.project), services={gallery.GALLERY: service})
    key = f"run/projects/{config.project}/locations/europe-west1/services/dropcap-gallery"
    policy = there.plane.policies.setdefault(key, {"bindings": []})
    policy["bindings"] = [{"role": "roles/run.invoker", "members": ["allUsers"]}]
    with pytest.raises(CloudError, match=r"HTTP 401, but should with 403\. See: make logs"):
        gallery.verify(config, cloud, 0)
    there.container("gallery")["env"].append({"name": "AUTH", "value": "token"})
    assert "asks visitors to sign in (HTTP 401)" in gallery.verify(config, cloud, 0)
    there.container("gallery")["env"][-1]["value"] = "iap"
    with pytest.raises(CloudError, match=r"HTTP 401, but should with 302 or 401 of Identity-Aware Proxy\. "):
        gallery.verify(config, cloud, 0)
    service["metadata"]["annotations"]["run.googleapis.com/iap-enabled"] = "true"
    assert "asks visitors to sign in (HTTP 302)" in gallery.verify(config, cloud, 0)
    there.container("gallery")["env"].pop()
    with pytest.raises(CloudError, match=r"HTTP 302, but should with 403\. "):
        gallery.verify(config, cloud, 0)


def test_verify_says_why_a_sample_was_quarantined(there: Deployment) -> None:
    function = Function(there.plane, "quarantine")
    function.start()
    ran = there.make("verify", WAIT_S="60")
    function.stop.set()
    assert ran.status == 1
    assert "not_a_picture" in ran.error
    assert "make logs" in ran.error


def test_verify_says_where_to_look_when_nothing_comes(there: Deployment) -> None:
    ran = there.make("verify", WAIT_S="1")
    assert ran.status == 1
    assert "There was no result after 1 s. See: make logs" in ran.error


def test_open_prints_where_to_look(there: Deployment) -> None:
    ran = there.make("open")
    assert ran.status == 0, ran.error
    assert ran.out.startswith("gallery: https://dropcap-gallery-")
    assert "gcloud run services proxy dropcap-gallery --region=europe-west1" in ran.out.splitlines()[0]
    assert "/monitoring/dashboards/builder/dropcap?project=demo-project" in ran.out
    assert "/run/detail/europe-west1/dropcap-on-upload/" in ran.out
    assert "/storage/browser/demo-project-uploads" in ran.out


def test_logs_refuse_a_function_that_there_is_not(there: Deployment) -> None:
    assert "Nothing was logged" in there.make("logs").out
    ran = there.make("logs", FUNCTION="no")
    assert ran.status == 1
    assert "on-upload or analyze" in ran.error


def test_cloud_sql_is_made_without_any_password(plane: ControlPlane, there: Deployment) -> None:
    cloud = {"CLOUD_SQL": "new", "DATABASE_URL": ""}
    plane.fail_with("POST sqladmin.*/import", "import-not-readable-yet")  # the grant is seconds old
    ran = there.deployed(**ALERTS, **cloud, PATIENCE_S="60")
    assert "waits for Cloud SQL's permission to read the file to propagate (7 minutes at most)" in ran.out
    [instance] = [each for key, each in plane.resources.items() if key.endswith("/instances/dropcap")]
    flags = {each["name"]: each["value"] for each in instance["settings"]["databaseFlags"]}
    assert flags["cloudsql.iam_authentication"] == "on"
    assert int(flags["max_connections"]) > 2 * (3 * 5 + 1 + 5 * 4)  # two revisions; the gallery with four
    assert instance["settings"]["tier"] == "db-f1-micro"
    assert instance["settings"]["backupConfiguration"]["enabled"]
    url = there.variables("on-upload")["DATABASE_URL"]
    socket = "demo-project:europe-west1:dropcap"
    assert url == (
        f"postgresql://dropcap-on-upload%40demo-project.iam@/dropcap?host=/cloudsql/{socket}&iam=true&role=dropcap"
    )
    notes = there.service("on-upload")["spec"]["template"]["metadata"]["annotations"]
    assert notes["run.googleapis.com/cloudsql-instances"] == socket
    rights = there.rights("cloudresourcemanager/projects/demo-project")
    for name in ("dropcap-sweep", "dropcap-gallery"):
        assert {(name, "cloudsql.client"), (name, "cloudsql.instanceUser")} <= rights
    assert not there.rights("secretmanager/projects/demo-project/secrets/dropcap-database-url")
    assert there.deployed(DATABASE_URL="").lines == []


def test_the_rights_in_the_database_make_every_table_everyones(
    postgres: Postgres, empty_database: str
) -> None:
    users = [f"dropcap-{name}@p-{uuid.uuid4().hex[:8]}.iam" for name in ("on-upload", "sweep")]
    here = f"DATABASE {urlsplit(empty_database).path[1:]}"
    with closing(connection.connect(empty_database)) as admin:
        for user in users:
            admin.run(f'CREATE ROLE "{user}" LOGIN')
        for _ in range(2):  # it can be run again
            for statement in sql.grants(users).replace(f"DATABASE {sql.DATABASE}", here).split(";\n"):
                if statement.strip():
                    admin.run(statement)
        admin.run(f'SET ROLE "{users[0]}"')
        admin.run(f"SET ROLE {sql.ROLE}")
        admin.run("CREATE SCHEMA dropcap CREATE TABLE made (by text)")
        admin.run("RESET ROLE")
        admin.run(f'SET ROLE "{users[1]}"')
        admin.run("INSERT INTO dropcap.made VALUES ('the other')")
        admin.run("RESET ROLE")
        for user in (*users, sql.ROLE):
            admin.run(f'DROP OWNED BY "{user}"; DROP ROLE "{user}"')

"""The log-based metrics match the real log lines: a renamed message or field fails here."""

import json
import re
from collections import defaultdict
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from dropcap.describing.gemini import DEFERRED
from dropcap.domain import analysis
from infra.cloud.monitoring import Values, alerts, metrics
from tests.support.app import App, Start, expire_leases, rows, small_png
from tests.support.instances import CRASHED, instance
from tests.support.messages import log_events

PROJECT = "my-project"
VALUES = Values(PROJECT, "europe-west1")
METRICS = metrics(VALUES)
SEVERITIES = ("DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL")
FUNCTION = {"type": "cloud_run_revision", "labels": {"service_name": "dropcap-on-upload"}}
STAGES = {*analysis.STAGES, "delete the source"}

# An event id, and the comparisons that find the same lines of revisions from before event ids.
OLDER = re.compile(r'\((jsonPayload\.event="\w+") OR .+\)')

Entry = dict[str, Any]
Point = tuple[dict[str, str], float]
"""What a metric takes from one entry: labels, and the value, which is 1 where it counts."""


def entry(line: str, log: str = "stdout", resource: Entry = FUNCTION) -> Entry:
    """Return the LogEntry that Cloud Logging makes of a line; a message alone becomes textPayload.

    https://cloud.google.com/logging/docs/structured-logging
    """
    made: Entry = {"logName": f"projects/{PROJECT}/logs/run.googleapis.com%2F{log}", "resource": resource}
    payload = json.loads(line) if line.startswith("{") else {"message": line}
    made["severity"] = payload.pop("severity", "DEFAULT")
    payload.pop("logging.googleapis.com/trace", None)
    if set(payload) == {"message"}:
        return made | {"textPayload": payload["message"]}
    return made | {"jsonPayload": payload}


def field(found: Entry, path: str) -> Any:
    """Return the value of a field by its path, `jsonPayload."@type"` included; None if it is missing."""
    value: Any = found
    for name in re.findall(r'"[^"]+"|[^."]+', path):
        value = value.get(name.strip('"')) if isinstance(value, dict) else None
    return value


def matches(found: Entry, query: str) -> bool:
    """Return whether an entry matches a filter: comparisons, parentheses, and OR, which binds before AND."""
    if len(parts := split(query, " AND ")) > 1:
        return all(matches(found, part) for part in parts)
    if len(parts := split(query, " OR ")) > 1:
        return any(matches(found, part) for part in parts)
    return matches(found, query[1:-1]) if query.startswith("(") else compares(found, query)


def split(query: str, word: str) -> list[str]:
    """Return the parts of a filter between the words that are outside of parentheses and quotes."""
    parts, depth = [""], 0
    for piece in re.findall(rf'"(?:[^"\\]|\\.)*"|{word}|.', query):
        depth += (piece == "(") - (piece == ")")
        if piece == word and not depth:
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def compares(found: Entry, comparison: str) -> bool:
    """Return whether an entry matches one comparison of the Logging query language."""
    parsed = re.fullmatch(r"([\w.\"@]+?)(=~|!=|>=|=|:)(.+)", comparison)
    assert parsed, comparison
    path, operator, word = parsed.groups()
    value, wanted = field(found, path), json.loads(word) if word.startswith('"') else word
    if operator == ">=":
        assert path == "severity"
        return SEVERITIES.index(value) >= SEVERITIES.index(wanted)
    if operator == ":":
        assert wanted == "*"
        return value is not None
    if operator == "=~":
        return value is not None and bool(re.search(wanted, str(value)))
    return bool(value != wanted) if operator == "!=" else bool(value == wanted)


def extracted(found: Entry, extractor: str) -> Any:
    """Return what EXTRACT or REGEXP_EXTRACT extracts from an entry; only one group is allowed."""
    parsed = re.fullmatch(r'(?:REGEXP_)?EXTRACT\(([\w."@]+)(?:, ("[^"]*"))?\)', extractor)
    assert parsed, extractor
    value = field(found, parsed[1])
    if not parsed[2]:
        return value
    pattern = re.compile(json.loads(parsed[2]))
    assert pattern.groups == 1
    hit = pattern.search(str(value))
    return hit[1] if hit else None


def counted(*entries: Entry, older: bool = False) -> dict[str, list[Point]]:
    """Return what each metric takes from these entries, without those that take nothing.

    Only with `older` do filters keep the parts for revisions from before event ids.
    """
    points: dict[str, list[Point]] = defaultdict(list)
    for found in entries:
        for name, metric in METRICS.items():
            if matches(found, metric["filter"] if older else OLDER.sub(r"\1", metric["filter"])):
                labels = {
                    key: extracted(found, how) for key, how in metric.get("labelExtractors", {}).items()
                }
                value = extracted(found, metric["valueExtractor"]) if "valueExtractor" in metric else 1
                points[name.removeprefix("dropcap/")].append((labels, float(value)))
    return dict(points)


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return what the metrics extract from the log lines since the last call."""
    return lambda: counted(*map(entry, capsys.readouterr().out.splitlines()))


def test_an_upload_that_is_analyzed_gives_memory_and_time_of_each_stage(start: Start, written: Any) -> None:
    app = start()
    written()
    assert app.deliver(app.upload("ana/a.png", small_png())) == HTTPStatus.OK
    found = written()
    costs = {"picture_usd": 0.01, "picture_tokens": 1000, "picture_gb_seconds": 2000}
    assert set(found) == {"analyzed", "memory_mb", "stage_seconds", *costs}
    for name, most in costs.items():
        [[labels, value]] = found[name]
        assert labels == {}
        assert 0 < value < most
    assert found["analyzed"] == [({}, 1)]
    for name, most in (("memory_mb", 32_768), ("stage_seconds", 60)):
        assert {labels["stage"] for labels, _ in found[name]} == STAGES
        assert all(0 <= value < most for _, value in found[name])


def test_where_there_is_a_cap_what_is_spent_that_day_is_told(start: Start, written: Any) -> None:
    app = start(DAILY_CALLS="9")
    written()
    app.deliver(app.upload("ana/a.png", small_png()))
    assert [0 < value < 0.01 for _, value in written()["spent_today"]] == [True]


def test_a_quarantined_upload_counts_by_its_reason(start: Start, written: Any) -> None:
    app = start()
    assert app.deliver(app.upload("ana/a.png", b"no picture")) == HTTPStatus.OK
    found = written()
    assert found["quarantined"] == [({"code": "not_a_picture"}, 1)]
    assert not {"analyzed", "errors", "memory_warnings"} & set(found)


def test_a_stage_above_the_warning_counts_by_its_name(start: Start, written: Any) -> None:
    app = start(MEMORY_WARNING_MB="64")
    assert app.deliver(app.upload("ana/a.png", small_png())) == HTTPStatus.OK
    assert {labels["stage"] for labels, _ in written()["memory_warnings"]} == STAGES


def test_a_death_counts_by_its_stage_whether_or_not_it_is_the_last(start: Start, written: Any) -> None:
    app = start(MAX_DEATHS="2")
    upload = app.upload("ana/a.png", b"no picture")
    for _ in range(2):
        lease = app.services.leases.acquire(upload)
        assert app.services.leases.heartbeat(upload, lease.token, "open", 512)
        expire_leases()
    assert app.deliver(upload) == HTTPStatus.OK
    found = written()
    assert found["deaths"] == [({"stage": "open"}, 1)]
    assert found["quarantined"] == [({"code": "took_the_instance_down"}, 1)]


def test_a_worker_that_is_killed_counts_by_gunicorns_words(start: Start, tmp_path: Path) -> None:
    app = start()
    with instance(tmp_path) as function:
        assert function.deliver(app.upload("ana/a.png", small_png() + b"kill")) == CRASHED
        assert app.objects(app.uploads)  # and the server is there again
        assert function.deliver(app.upload("ana/b.png", small_png())) == HTTPStatus.OK
        lines = function.log.read_text().splitlines()
    found = counted(*(entry(line, "stdout" if line.startswith("{") else "stderr") for line in lines))
    assert found["killed"] == [({"cause": "SIGKILL"}, 1)]


def test_a_picture_without_gemini_counts_once_by_its_cause(start: Start, written: Any) -> None:
    app = start(GEMINI_ENDPOINT="http://127.0.0.1:9", GEMINI_ATTEMPTS="2")
    assert app.deliver(app.upload("ana/a.png", small_png())) == HTTPStatus.OK
    found = written()
    assert found["gemini_unavailable"] == [({"problem": "Gemini could not be reached"}, 1)]
    assert found["analyzed"]


def test_without_a_key_gemini_is_not_missed(start: Start, written: Any) -> None:
    app = start(GEMINI_API_KEY="")
    assert app.deliver(app.upload("ana/a.png", small_png())) == HTTPStatus.OK
    assert "gemini_unavailable" not in written()


def starts(app: App, **settings: str) -> None:
    with pytest.raises(SystemExit):
        app.restarted(**settings)


def test_a_refused_setup_counts_at_the_start_and_at_a_request(start: Start, written: Any) -> None:
    app = start()
    starts(app, MAX_MB="many")
    assert written() == {"setup_refused": [({"error": "SettingsError"}, 1)]}
    # A request checks the schema again after an error that a changed schema causes.
    rows("ALTER TABLE uploads ALTER COLUMN size TYPE text")
    rows("ALTER TABLE achievements DROP COLUMN achievement_name")
    assert app.progress.get("/?user=ana").status_code == HTTPStatus.SERVICE_UNAVAILABLE
    found = written()
    assert found["setup_refused"] == found["errors"] == [({"error": "SchemaError"}, 1)]
    starts(app, MAX_MB="32")
    assert written() == {"setup_refused": [({"error": "SchemaError"}, 1)]}


def test_a_sweep_counts_with_what_it_found_and_says_whether_it_came_to_its_end(
    start: Start, written: Any
) -> None:
    app = start()
    app.reconcile()
    found = written()
    assert (found["swept"], found["sweep_found"]) == ([({"severity": "INFO"}, 1)], [({}, 0)])
    app = app.restarted(SWEEP_S="0")
    app.services.leases.acquire(app.upload("ana/a.png", small_png()))
    expire_leases()
    app.reconcile()
    found = written()
    assert (found["swept"], found["sweep_found"]) == ([({"severity": "WARNING"}, 1)], [({}, 1)])


def test_an_upload_that_fails_in_the_sweep_is_an_error_with_its_type(
    start: Start, written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start()
    app.upload("ana/a.png", small_png())
    monkeypatch.setattr("dropcap.storage.buckets.Buckets.read", lambda *_: 1 / 0)
    app.reconcile()
    assert written()["errors"] == [({"error": "ZeroDivisionError"}, 1)]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ({"message": "analyzed", "upload": "a", "usd": 0.1}, "analyzed picture_usd"),
        ({"severity": "WARNING", "message": "It died.", "deaths": 1, "stage": "open"}, "deaths"),
        ({"message": "not described by Gemini", "problem": "none"}, "gemini_unavailable"),
        ({"severity": "WARNING", "message": "a", "stage": "open", "rss_mb": 9}, "memory_mb memory_warnings"),
        ({"message": "It is none.", "upload": "a", "code": "not_a_picture"}, "quarantined"),
        ({"severity": "CRITICAL", "message": "no", "error": "SchemaError"}, "setup_refused"),
        ({"message": "swept", "found": 0}, "swept sweep_found"),
    ],
)
def test_a_line_of_a_revision_from_before_event_ids_still_counts(line: Entry, names: str) -> None:
    assert set(counted(entry(json.dumps(line)), older=True)) == set(names.split())


def test_a_picture_that_may_wait_for_its_description_is_no_failure_of_gemini() -> None:
    line = {"event": "gemini_unavailable", "message": "not described by Gemini", "problem": DEFERRED}
    assert counted(entry(json.dumps(line))) == {}
    assert set(counted(entry(json.dumps(line | {"problem": "none"})))) == {"gemini_unavailable"}


def test_metrics_and_alerts_select_lines_by_event_ids_that_the_functions_write() -> None:
    filters = [OLDER.sub(r"\1", metric["filter"]) for metric in METRICS.values()]
    commands = [policy["documentation"]["content"] for policy in alerts(VALUES).values()]
    text = "\n".join([*filters, *commands])
    assert not re.findall(r"jsonPayload\.message[=:]", text)
    assert set(re.findall(r'jsonPayload\.event="(\w+)"', text)) <= set(log_events())


# The platform's own lines, as people quote them from their logs: no page of Google's lists them.
@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "Memory limit of 512 MiB exceeded with 543 MiB used. Consider increasing the memory limit, see",
            "Memory limit",
        ),
        ("Container terminated on signal 9.", "signal 9"),
        ("Container terminated on signal 11.", "signal 11"),
        ("Container called exit(1).", "exit(1"),
    ],
)
def test_an_instance_that_the_platform_ended_counts_by_its_cause(text: str, cause: str) -> None:
    assert counted(entry(text, "varlog%2Fsystem")) == {"killed": [({"cause": cause}, 1)]}


@pytest.mark.parametrize(
    "text",
    ["Container called exit(0).", "Container terminated on signal 15.", "Worker (pid:7) was sent SIGTERM!"],
)
def test_one_that_ends_as_it_should_does_not_count(text: str) -> None:
    assert counted(entry(text, "varlog%2Fsystem"), entry(text, "stderr")) == {}


def test_a_cold_start_counts_by_its_reason() -> None:  # cloud.google.com/run/docs/logging
    text = "Starting new instance. Reason: AUTOSCALING - Instance started due to configured scaling factors"
    assert counted(entry(text, "varlog%2Fsystem")) == {"cold_starts": [({"reason": "AUTOSCALING"}, 1)]}


def test_a_call_of_the_sweep_counts_where_it_failed() -> None:
    finished = "type.googleapis.com/google.cloud.scheduler.logging.AttemptFinished"
    job = {"type": "cloud_scheduler_job", "labels": {"job_id": "dropcap-sweep"}}
    failed = {"severity": "ERROR", "@type": finished, "status": "PERMISSION_DENIED"}
    assert counted(entry(json.dumps(failed), "executions", job)) == {
        "schedule_failed": [({"status": "PERMISSION_DENIED"}, 1)]
    }
    for other in ({"severity": "INFO", "status": "OK"}, {"@type": finished.replace("Finished", "Started")}):
        assert counted(entry(json.dumps(failed | other), "executions", job)) == {}


def test_what_other_services_write_does_not_count() -> None:
    other = {"type": "cloud_run_revision", "labels": {"service_name": "shop"}}
    line = json.dumps({"severity": "ERROR", "message": "analyzed", "upload": "1", "code": "a", "stage": "b"})
    assert counted(entry(line), older=True).keys() == {"analyzed", "quarantined", "errors"}
    assert counted(entry(line, resource=other), older=True) == {}

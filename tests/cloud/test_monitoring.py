"""Metrics, alerts and dashboard are consistent, and Google's APIs accept them."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from infra.cloud.monitoring import Values, alerts, dashboard, metrics

VALUES = Values("my-project", "europe-west1")
METRICS, ALERTS, DASHBOARD = metrics(VALUES), alerts(VALUES), dashboard(VALUES)
OURS = "logging.googleapis.com/user/"


class Kind(NamedTuple):
    """A metric's kind, value type and labels."""

    kind: str
    values: str
    labels: frozenset[str] = frozenset()


# The platform's metrics: cloud.google.com/monitoring/api/metrics_gcp_p_z (run, pubsub) and _c (cloudtasks).
KINDS = {
    "run.googleapis.com/request_count": Kind(
        "DELTA", "INT64", frozenset({"response_code", "response_code_class"})
    ),
    "run.googleapis.com/request_latencies": Kind("DELTA", "DISTRIBUTION"),
    "run.googleapis.com/container/billable_instance_time": Kind("DELTA", "DOUBLE"),
    "run.googleapis.com/container/instance_count": Kind("GAUGE", "INT64", frozenset({"state"})),
    "run.googleapis.com/container/memory/utilizations": Kind("DELTA", "DISTRIBUTION"),
    "run.googleapis.com/container/startup_latencies": Kind("DELTA", "DISTRIBUTION"),
    "pubsub.googleapis.com/subscription/oldest_unacked_message_age": Kind("GAUGE", "INT64"),
    "pubsub.googleapis.com/subscription/num_undelivered_messages": Kind("GAUGE", "INT64"),
    "cloudtasks.googleapis.com/queue/depth": Kind("GAUGE", "INT64"),
} | {
    OURS + name: Kind(
        metric["metricDescriptor"]["metricKind"],
        metric["metricDescriptor"]["valueType"],
        frozenset(label["key"] for label in metric["metricDescriptor"].get("labels", ())),
    )
    for name, metric in METRICS.items()
}
# cloud.google.com/monitoring/api/resources
RESOURCES = {
    "cloud_run_revision": {"service_name", "revision_name", "configuration_name", "location"},
    "cloud_scheduler_job": {"job_id", "location"},
    "cloud_tasks_queue": {"queue_id", "location", "target_type"},
    "pubsub_subscription": {"subscription_id"},
}
# Which aligner takes what, and what it makes of it: monitoring v3, Aggregation.Aligner.
NUMBERS = {("GAUGE", "INT64"), ("GAUGE", "DOUBLE"), ("DELTA", "INT64"), ("DELTA", "DOUBLE")}
DISTRIBUTIONS = {("DELTA", "DISTRIBUTION"), ("GAUGE", "DISTRIBUTION")}
ALIGNERS = {
    "ALIGN_SUM": NUMBERS | DISTRIBUTIONS,
    "ALIGN_MAX": NUMBERS,
    "ALIGN_RATE": {pair for pair in NUMBERS if pair[0] == "DELTA"},
    "ALIGN_DELTA": {pair for pair in NUMBERS | DISTRIBUTIONS if pair[0] == "DELTA"},
    "ALIGN_PERCENTILE_99": DISTRIBUTIONS,
}


class Query(NamedTuple):
    """A time series of an alert or the dashboard; `drawn` are the thresholds of its chart."""

    where: str
    filter: str
    aggregation: dict[str, Any]
    legend: str = ""
    drawn: tuple[float, ...] = ()

    @property
    def metric(self) -> str:
        return found(r'metric\.type="([^"]+)"', self.filter)

    @property
    def resource(self) -> str:
        return found(r'resource\.type="([^"]+)"', self.filter)


def found(pattern: str, text: str) -> str:
    """Return the group of the only match."""
    [hit] = re.findall(pattern, text)
    return str(hit)


def conditions() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, policy in ALERTS.items():
        for condition in policy["conditions"]:
            yield name, condition.get("conditionThreshold") or condition["conditionAbsent"]


def charts() -> Iterator[Query]:
    for tile in DASHBOARD["mosaicLayout"]["tiles"]:
        chart = tile["widget"].get("xyChart", {"dataSets": []})
        drawn = tuple(line["value"] for line in chart.get("thresholds", ()))
        for data in chart["dataSets"]:
            query = data["timeSeriesQuery"]["timeSeriesFilter"]
            legend = data.get("legendTemplate", "")
            yield Query(tile["widget"]["title"], query["filter"], query["aggregation"], legend, drawn)


QUERIES = [Query(name, each["filter"], each["aggregations"][0]) for name, each in conditions()] + list(
    charts()
)


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.where)
def test_what_is_asked_for_exists_and_is_aggregated_to_numbers(query: Query) -> None:
    kind, values, labels = KINDS[query.metric]
    known = {f"metric.labels.{label}" for label in labels}
    known |= {f"resource.labels.{label}" for label in RESOURCES[query.resource]}
    grouped = query.aggregation.get("groupByFields", [])
    assert set(re.findall(r"(?:metric|resource)\.labels\.\w+", query.filter)) <= known
    assert set(grouped) <= known
    assert set(re.findall(r"\$\{([\w.]+)\}", query.legend)) <= set(grouped)
    assert (kind, values) in ALIGNERS[query.aggregation["perSeriesAligner"]]
    reducer = query.aggregation["crossSeriesReducer"]
    if values == "DISTRIBUTION" and "PERCENTILE" not in query.aggregation["perSeriesAligner"]:
        assert reducer == "REDUCE_MEAN" or reducer.startswith("REDUCE_PERCENTILE_")
    else:
        assert reducer in ("REDUCE_SUM", "REDUCE_MAX")


def test_every_metric_of_ours_is_looked_at() -> None:
    assert {query.metric.removeprefix(OURS) for query in QUERIES if query.metric.startswith(OURS)} == set(
        METRICS
    )


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_has_an_extractor_for_each_label_and_for_the_value_of_a_distribution(name: str) -> None:
    metric = METRICS[name]
    assert set(metric.get("labelExtractors", ())) == KINDS[OURS + name].labels
    distribution = KINDS[OURS + name].values == "DISTRIBUTION"
    assert distribution == ("valueExtractor" in metric) == ("bucketOptions" in metric)
    assert metric["description"].endswith(".")
    assert "\\\\" not in json.dumps(metric["filter"]), (
        "Google's page leaves open what a backslash in a regex is"
    )


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_it_means_and_which_command_comes_first(name: str) -> None:
    policy = ALERTS[name]
    text = policy["documentation"]["content"]
    assert policy["documentation"]["mimeType"] == "text/markdown"
    assert text.index("**What it means.**") < text.index("**What to do first.**") < text.index("```\ngcloud ")
    assert len(text.encode()) <= 8_192  # AlertPolicy.Documentation
    assert policy["userLabels"] == {"dropcap": name}
    assert re.fullmatch(
        r"\d+s", policy["alertStrategy"]["autoClose"]
    )  # without it, an incident stays for a week
    assert len({each["displayName"] for each in policy["conditions"]}) == len(policy["conditions"])


def test_no_two_alerts_have_one_name() -> None:
    assert len({policy["displayName"] for policy in ALERTS.values()}) == len(ALERTS)


def test_a_revision_that_is_gone_is_no_missing_sweep() -> None:
    [absent] = [each for _, each in conditions() if "comparison" not in each]
    assert absent["aggregations"][0]["crossSeriesReducer"] == "REDUCE_SUM"
    assert "groupByFields" not in absent["aggregations"][0]


def test_every_threshold_of_an_alert_is_drawn_on_a_chart_of_the_same() -> None:
    for name, condition in conditions():
        if threshold := condition.get("thresholdValue"):
            query = Query(name, condition["filter"], condition["aggregations"][0])
            drawn = [chart.drawn for chart in charts() if chart.metric == query.metric]
            assert any(threshold in lines for lines in drawn) or query.metric.endswith("schedule_failed"), (
                name
            )


def test_the_memory_chart_shows_the_warning_and_the_limit_of_512_mib() -> None:
    [chart] = [chart for chart in charts() if chart.metric == f"{OURS}dropcap/memory_mb"]
    assert list(chart.drawn) == [400, pytest.approx(512 * 1.048576, abs=0.01)]


def test_tiles_do_not_overlap_and_stay_within_48_columns() -> None:
    taken: set[tuple[int, int]] = set()
    for tile in DASHBOARD["mosaicLayout"]["tiles"]:
        left, top = tile.get("xPos", 0), tile.get("yPos", 0)
        columns = range(left, left + tile["width"])
        assert columns.stop <= DASHBOARD["mosaicLayout"]["columns"] == 48
        cells = {(x, y) for x in columns for y in range(top, top + tile["height"])}
        assert not cells & taken, tile["widget"]["title"]
        taken |= cells


def test_nothing_is_written_out_that_google_leaves_out_of_its_answers() -> None:
    def leaves(value: Any) -> Iterator[Any]:
        if isinstance(value, (dict, list)) and value:
            for each in value.values() if isinstance(value, dict) else value:
                yield from leaves(each)
        else:
            yield value

    # A value that is its type's default (a threshold of 0, a label of type STRING) does not come back, and
    # would look like a difference at every deployment.
    left_out = {"0", "0.0", "False", "STRING", "LINE", "Y1", "", "[]", "{}", "None"}
    assert not left_out & {str(leaf) for leaf in leaves([METRICS, ALERTS, DASHBOARD])}


def test_project_and_region_are_filled_in_and_googles_own_variables_are_left() -> None:
    other = Values("example.com:p-1", "us-east1")
    filled = json.dumps([metrics(other), alerts(other), dashboard(other)])
    assert "my-project" not in filled
    assert "europe-west1" not in filled
    assert not re.search(r"\$\{[A-Z]|\$\$", filled)
    assert "${metric.labels.stage}" in filled
    assert dashboard(other)["name"] == "projects/example.com:p-1/dashboards/dropcap"


def gcloud(warm: str, folder: Path, *words: str) -> str:
    """Run gcloud, with its configuration in this folder, and return its output."""
    environment = os.environ | {"CLOUDSDK_CONFIG": str(folder)}
    return subprocess.check_output([f"{warm}/gcloud", *words], env=environment, text=True)


# gcloud's own messages of the three APIs list every field; its commands send unknown ones on as they are.
UNKNOWN = """
import importlib, json, sys
root, files = sys.argv[1], json.load(sys.stdin)
sys.path[:0] = [root + "/lib", root + "/lib/third_party"]
from apitools.base.py import encoding
for name, (api, version, message, body) in files.items():
    module = "googlecloudsdk.generated_clients.apis.%s.%s.%s_%s_messages" % (api, version, api, version)
    parsed = encoding.PyValueToMessage(getattr(importlib.import_module(module), message), body)
    for edges, fields in encoding.UnrecognizedFieldIter(parsed):
        print(name, *(edge.field for edge in edges), *fields)
"""


def test_gcloud_knows_every_field_and_every_word_of_a_choice(warm_gcloud: str, tmp_path: Path) -> None:
    files = {name: ("logging", "v2", "LogMetric", body) for name, body in METRICS.items()}
    files |= {name: ("monitoring", "v3", "AlertPolicy", body) for name, body in ALERTS.items()}
    files["dashboard"] = ("monitoring", "v1", "Dashboard", DASHBOARD)
    files["wrong field"] = ("logging", "v2", "LogMetric", {"metricDescriptor": {"kind": "DELTA"}})
    files["wrong word"] = ("monitoring", "v3", "AlertPolicy", {"combiner": "EITHER"})
    fields = "--format=value(installation.sdk_root,basic.python_location)"
    root, python = gcloud(warm_gcloud, tmp_path, "info", fields).strip().split("\t")
    checked = subprocess.run(
        [python, "-c", UNKNOWN, root], input=json.dumps(files), capture_output=True, text=True, check=True
    )
    assert checked.stdout.splitlines() == ["wrong field metricDescriptor kind", "wrong word combiner"]


def test_every_command_that_an_alert_names_is_one_that_gcloud_knows(warm_gcloud: str, tmp_path: Path) -> None:
    texts = "\n".join(policy["documentation"]["content"] for policy in ALERTS.values())
    commands = sorted(
        set(re.findall(r"^gcloud .*$", texts, re.M)) | set(re.findall(r"`(gcloud [^`\n]*)`", texts))
    )
    commands.append("gcloud logging read --no-such-flag")
    (tmp_path / "commands").write_text("```\n" + "\n".join(commands) + "\n```\n")
    file = str(tmp_path / "commands")
    verdicts = json.loads(
        gcloud(warm_gcloud, tmp_path, "meta", "lint-gcloud-commands", "--commands-text-file", file)
    )
    assert len(verdicts) == len(commands) > len(ALERTS)
    wrong = [verdict["command_string"] for verdict in verdicts if not verdict["success"]]
    assert wrong == commands[-1:], verdicts

"""Build log-based metrics, alert policies and a dashboard from TOML templates.

    metrics.toml    the LogMetrics dropcap/NAME, from the log lines that the functions write
    alerts.toml     the AlertPolicies; each documents its meaning and the first steps
    dashboard.toml  the Dashboard `dropcap`

`${PROJECT}`, `${REGION}` and the filters in `_read` are filled in; a `$` of Google's own is written `$$`. The
results have the formats of Google's REST references (logging v2 projects.metrics, monitoring v3
projects.alertPolicies, monitoring v1 projects.dashboards).

- Metrics come first: Cloud Monitoring refuses an alert on a metric that it does not know yet, for up to 10
  minutes after the metric's creation ("Cannot find metric(s) that match type").
- A value that is its field's default (a threshold of 0, for example) is left out: Google's answers omit it.
- The alert on an absence needs a first point; Cloud Scheduler's failures reveal that reconcile never ran.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

FOLDER = Path(__file__).parent
FUNCTIONS = 'resource.labels.service_name=starts_with("dropcap-")'
LINES = (
    'resource.type="cloud_run_revision" AND resource.labels.service_name=~"^dropcap-" AND '
    'logName="projects/{}/logs/run.googleapis.com%2Fstdout"'
)
COLUMNS, HEIGHT = 48, 12  # of the dashboard, and of each of its tiles

# Values of `--threshold-rule` for `gcloud billing budgets create`. At 50 % there is no hurry, at 90 % there
# is time to act. Only the forecast warns days before: costs are reported hours late, and a budget stops
# nothing by itself.
BUDGET_THRESHOLDS = ("percent=0.5", "percent=0.9", "percent=1.0", "percent=1.0,basis=forecasted-spend")


@dataclass(frozen=True, slots=True)
class Values:
    """The template values."""

    project: str
    region: str


def metrics(values: Values) -> dict[str, dict[str, Any]]:
    """Return each LogMetric by its name, as in `gcloud logging metrics create NAME --config-from-file`."""
    return {f"dropcap/{name}": _metric(each) for name, each in _read("metrics", values).items()}


def _metric(each: Mapping[str, Any]) -> dict[str, Any]:
    labels: Mapping[str, tuple[str, str]] = each.get("labels", {})
    descriptor = {
        "displayName": each["title"],
        "metricKind": "DELTA",
        "valueType": "DISTRIBUTION" if "value" in each else "INT64",
        "unit": each.get("unit", "1"),
        "labels": [{"key": key, "description": description} for key, (description, _) in labels.items()],
    }
    return _without_none(
        description=each["description"],
        filter=each["filter"],
        metricDescriptor=_without_none(**descriptor),
        labelExtractors={key: extractor for key, (_, extractor) in labels.items()},
        valueExtractor=each.get("value"),
        bucketOptions=each.get("buckets"),
    )


def alerts(values: Values) -> dict[str, dict[str, Any]]:
    """Return each AlertPolicy by its short name, which `userLabels.dropcap` stores to identify it."""
    return {
        name: {
            "displayName": each["title"],
            "userLabels": {"dropcap": name},
            "severity": each["severity"],
            "combiner": "OR",
            "conditions": [_condition(condition) for condition in each["conditions"]],
            "alertStrategy": {"autoClose": "3600s"},
            "documentation": {"mimeType": "text/markdown", "content": each["documentation"]},
        }
        for name, each in _read("alerts", values).items()
    }


def _condition(each: Mapping[str, Any]) -> dict[str, Any]:
    query = _query(each["series"])
    absent = each.get("absent", False)
    condition = _without_none(
        filter=query["filter"],
        comparison=None if absent else "COMPARISON_GT",
        thresholdValue=each.get("above"),
        duration=each.get("lasts", "0s"),
        aggregations=[query["aggregation"]],
    )
    return {"displayName": each["title"], "conditionAbsent" if absent else "conditionThreshold": condition}


def dashboard(values: Values) -> dict[str, Any]:
    """Return the Dashboard; its name, projects/PROJECT/dashboards/dropcap, is in it."""
    tiles, column = [], 0
    for each in _read("dashboard", values)["tiles"]:
        width = each.get("columns", 16)
        x, y = column % COLUMNS, column // COLUMNS * HEIGHT
        logs = {"filter": each.get("logs"), "resourceNames": [f"projects/{values.project}"]}
        widget = {"title": each["title"]} | ({"logsPanel": logs} if "logs" in each else _chart(each))
        tiles.append(_without_none(xPos=x or None, yPos=y or None, width=width, height=HEIGHT, widget=widget))
        column += width
    name = f"projects/{values.project}/dashboards/dropcap"
    return {"name": name, "displayName": "Dropcap", "mosaicLayout": {"columns": COLUMNS, "tiles": tiles}}


def _chart(each: Mapping[str, Any]) -> dict[str, Any]:
    sets = [
        _without_none(
            plotType=series.get("plot"),
            targetAxis="Y2" if series.get("right") else None,
            legendTemplate=series["legend"],
            timeSeriesQuery={"timeSeriesFilter": _query(series)},
        )
        for series in each["series"]
    ]
    right = {"label": each["right_axis"]} if "right_axis" in each else None
    axes = {"yAxis": {"label": each["axis"]}, "y2Axis": right, "thresholds": each.get("thresholds")}
    return {"xyChart": _without_none(dataSets=sets, **axes)}


def _query(series: Mapping[str, Any]) -> dict[str, Any]:
    """Return filter and aggregation of a time series; a metric without a host is Dropcap's."""
    metric, resource = series["metric"], series.get("resource", "cloud_run_revision")
    kind = metric if ".com/" in metric else f"logging.googleapis.com/user/{metric}"
    where = f" AND {series['where']}" if "where" in series else ""
    aggregation = _without_none(
        alignmentPeriod=series["every"],
        perSeriesAligner=f"ALIGN_{series['align']}",
        crossSeriesReducer=f"REDUCE_{series['reduce']}",
        groupByFields=series.get("by"),
    )
    return {
        "filter": f'metric.type="{kind}" AND resource.type="{resource}"{where}',
        "aggregation": aggregation,
    }


def _without_none(**parts: Any) -> dict[str, Any]:
    return {name: part for name, part in parts.items() if part not in (None, [], {})}


def _read(name: str, values: Values) -> dict[str, Any]:
    words = {"PROJECT": values.project, "REGION": values.region, "FUNCTIONS": FUNCTIONS}
    words["LINES"] = LINES.format(values.project)
    return tomllib.loads(Template((FOLDER / f"{name}.toml").read_text()).substitute(words))

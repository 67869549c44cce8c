"""What an operator watches: log-based metrics, alert policies and a dashboard, as JSON templates.

    metrics/NAME.json   the LogMetric dropcap/NAME, from the log lines that the functions write
    alerts/NAME.json    the AlertPolicy NAME; its documentation says what it means and what to do first
    dashboard.json      the Dashboard `dropcap`

`${PROJECT}`, `${REGION}` and `${CHANNELS}` are filled in, a `$` of Google's own is written `$$`. The formats
are those of Google's REST references (logging v2 projects.metrics, monitoring v3 projects.alertPolicies,
monitoring v1 projects.dashboards).

- Metrics come first: an alert on one that Cloud Monitoring does not know yet is refused, and for up to 10
  minutes after its creation it may not ("Cannot find metric(s) that match type").
- A value that is its field's default (a threshold of 0, say) is left out: Google's answers have none.
- The alert of an absence needs a first point: of a sweep that never ran, Cloud Scheduler's failures tell.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

FOLDER = Path(__file__).parent

# What `gcloud billing budgets create` takes beside the amount of the month, as words of `--threshold-rule`.
# Half of it is news, nine tenths leave time to act, all of it is a fact, and the forecast is the only one
# that comes days before: costs are reported with a delay of hours, and a budget stops nothing by itself.
BUDGET_THRESHOLDS = (
    "percent=0.5",
    "percent=0.9",
    "percent=1.0",
    "percent=1.0,basis=forecasted-spend",
)


@dataclass(frozen=True, slots=True)
class Values:
    """Of one deployment; `channels` are names: projects/PROJECT/notificationChannels/NUMBER."""

    project: str
    region: str
    channels: Sequence[str] = ()


def metrics(values: Values) -> dict[str, dict[str, Any]]:
    """Each LogMetric by its name, as in `gcloud logging metrics create NAME --config-from-file`."""
    return {f"dropcap/{name}": each for name, each in _folder("metrics", values).items()}


def alerts(values: Values) -> dict[str, dict[str, Any]]:
    """Each AlertPolicy by its short name, which stands in it as `userLabels.dropcap`, to find it again."""
    return _folder("alerts", values)


def dashboard(values: Values) -> dict[str, Any]:
    """The Dashboard; its name, projects/PROJECT/dashboards/dropcap, is in it."""
    return _filled(FOLDER / "dashboard.json", values)


def _folder(folder: str, values: Values) -> dict[str, dict[str, Any]]:
    return {file.stem: _filled(file, values) for file in sorted((FOLDER / folder).glob("*.json"))}


def _filled(file: Path, values: Values) -> dict[str, Any]:
    channels = json.dumps(list(values.channels))
    words = {"PROJECT": values.project, "REGION": values.region, "CHANNELS": channels}
    filled: dict[str, Any] = json.loads(Template(file.read_text()).substitute(words))
    return filled

"""Requests to Google, and the stand-in's responses, are validated against Google's own schemas.

The fixture `plane` validates each request and response of every test; these tests cover invalid ones.
"""

import json
from typing import Any

import pytest

from infra.cloud import monitoring
from tests.support.cloud.control_plane_store import Request
from tests.support.cloud.google_schemas import faults

VALUES = monitoring.Values("my-project", "europe-west1")
SENT = [
    *(("logging", "v2/projects/p/metrics", each) for each in monitoring.metrics(VALUES).values()),
    *(("monitoring", "v3/projects/p/alertPolicies", each) for each in monitoring.alerts(VALUES).values()),
    ("monitoring", "v1/projects/p/dashboards", monitoring.dashboard(VALUES)),
]


def found(
    api: str, path: str, sent: Any, method: str = "POST", status: int = 200, **answer: Any
) -> list[str]:
    """Return the errors, without the line of the request."""
    request = Request(method, f"{api}.googleapis.com", f"/{path}", {}, sent, {}, "p")
    return [each.partition(": ")[2] for each in faults(request, status, answer)]


def test_metrics_alerts_and_dashboard_are_documents_that_google_knows() -> None:
    assert len(SENT) > 20
    for api, path, document in SENT:
        assert found(api, path, document) == []
        for name in document:
            wrong = json.loads(json.dumps(document).replace(f'"{name}":', f'"{name}x":', 1))
            assert found(api, path, wrong), name


SECRET = "v1/projects/p/secrets"  # noqa: S105  a path
REPLICAS = "sent.replication.userManaged.replicas"


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        ({"replication": {"automatic": {}}}, None),
        ({"replication": {"automatic": {}}, "labels": {"a": "b"}, "ttl": None}, None),
        ({"replication": {"automatic": {}}, "label": {}}, "sent.label is unknown"),
        ({"replication": {"userManaged": {"replicas": [{"to": 1}]}}}, f"{REPLICAS}[].to is unknown"),
        ({"labels": {"a": 1}}, "sent.labels.a is no string: 1"),
        ({"labels": []}, "sent.labels is no object"),
        ({"topics": {}}, "sent.topics is no list"),
    ],
)
def test_an_unknown_field_or_a_wrong_type_of_what_is_sent_is_found(sent: Any, fault: str | None) -> None:
    assert found("secretmanager", SECRET, sent) == ([fault] if fault else [])


def test_a_wrong_answer_is_found_and_a_refusal_is_not_taken_for_one() -> None:
    version = f"{SECRET}/s/versions/1"
    assert found("secretmanager", version, b"", "GET", state="ENABLED") == []
    assert found("secretmanager", version, b"", "GET", state="ON") == ["answered.state may not be 'ON'"]
    assert found("secretmanager", version, b"", "GET", 404, error={}) == []


def test_a_method_that_google_has_not_is_found() -> None:
    missing = ["there is no such method"]
    assert found("secretmanager", f"{SECRET}/s:remove", {}) == missing
    assert found("secretmanager", SECRET, {}, "PUT") == missing
    assert found("nothing", "v1/x", {}) == missing

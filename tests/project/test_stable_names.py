"""docs/reference/stable-names.md lists exactly the names that users rely on, as the source has them."""

import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest
import yaml

from dropcap.database.schema.tables import TABLES
from dropcap.settings import Settings
from infra.cloud.config import Config
from tests.support.app import ROOT
from tests.support.messages import collect

REFERENCE = ROOT / "docs" / "reference"
PAGE = (REFERENCE / "stable-names.md").read_text()
API: Any = yaml.safe_load((REFERENCE / "openapi.yaml").read_text())


def settings() -> Iterator[str]:
    return (item.name.upper() for item in fields(Settings))


def deployment_settings() -> Iterator[str]:
    return (item.name.upper() for item in fields(Config) if item.metadata)


def make_targets() -> list[str]:
    return re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


def error_codes() -> Iterator[str]:
    return (message.code for message in collect() if message.code)


def json_fields() -> Iterator[str]:
    """Yield the fields of each object that the functions return, as `Object.field`."""
    for name, schema in API["components"]["schemas"].items():
        if name != "Redescribe":  # of a request
            yield from (f"{name}.{field}" for field in schema["properties"])


def columns() -> Iterator[str]:
    return (f"{table.name}.{column.name}" for table in TABLES for column in table.columns)


def log_events() -> Iterator[str]:
    """Yield the event ids and fields of log lines that the metrics and alerts read."""
    for file in (ROOT / "infra" / "cloud" / "monitoring").glob("*.toml"):
        text = file.read_text()
        yield from re.findall(r'jsonPayload\.event="(\w+)"', text)
        yield from re.findall(r"jsonPayload\.(\w+)", text)


SECTIONS: dict[str, Callable[[], Iterator[str] | list[str]]] = {
    "Settings of the functions": settings,
    "Settings of a deployment": deployment_settings,
    "Make targets": make_targets,
    "Error codes": error_codes,
    "JSON fields": json_fields,
    "Tables and columns": columns,
    "Log events": log_events,
}


def listed(title: str) -> list[str]:
    """Return the names in a section, in its order; `a: b, c` in code spans means a.b and a.c."""
    [section] = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    names = []
    for line in section.splitlines():
        owner, separator, rest = line.partition(":")
        if separator and (found := re.fullmatch(r"- `([\w ]+)`", owner)):
            names += [f"{found[1]}.{name}" for name in re.findall(r"`([^`]+)`", rest)]
        elif not line.startswith(">"):
            names += re.findall(r"`([^`]+)`", line)
    return names


@pytest.mark.parametrize("title", SECTIONS)
def test_the_names_listed_are_those_of_the_source(title: str) -> None:
    names = listed(title)
    assert len(names) == len(set(names))
    assert set(names) == set(SECTIONS[title]())

"""An empty database: its owner, and a login without rights."""

import re
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import pytest
from pg8000.native import Connection

from dropcap.database.connection import connect


@pytest.fixture
def owner(empty_database: str) -> Iterator[Connection]:
    """A connection of the administrator to an empty database."""
    with closing(connect(empty_database)) as connection:
        yield connection


class Guest(NamedTuple):
    """A login, and the address with which it connects to the empty database."""

    role: str
    url: str


@pytest.fixture
def guest(owner: Connection, empty_database: str) -> Iterator[Guest]:
    """A login with no rights but those that the test grants."""
    role = f"guest_{uuid.uuid4().hex[:8]}"
    owner.run(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    yield Guest(role, re.sub(r"//[^@]*@", f"//{role}:secret@", empty_database))
    owner.run(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")

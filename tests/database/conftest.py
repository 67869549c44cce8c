"""The repositories of leases and analyses, on the database of a test."""

import pytest

from dropcap.database.analyses import Analyses
from dropcap.database.leases import Leases
from dropcap.database.transactions import Database


@pytest.fixture
def leases(database: Database) -> Leases:
    return Leases(database)


@pytest.fixture
def analyses(database: Database) -> Analyses:
    return Analyses(database)

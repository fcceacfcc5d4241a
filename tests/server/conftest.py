"""A PostgreSQL server for the tests of this folder, started when the first one needs it."""

from collections.abc import Iterator

import pytest
from tests.postgres import Postgres, started


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = started()
    yield server
    server.close()

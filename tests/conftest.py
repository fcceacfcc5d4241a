"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ |= {"COLUMNS": "200", "NO_COLOR": "1"}  # before rich reads them: tables are compared as text
settings.register_profile("salus", deadline=None, max_examples=60)  # machines are shared: time says nothing
settings.load_profile("salus")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The reference data; a test that asks for it skips where the folder is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("needs the reference data in ../shared/data")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests in one test process, because its fixtures start servers; a group of several files goes before."""
    for item in items:
        if not any(item.iter_markers("xdist_group")):
            name = "federation" if "federation" in getattr(item, "fixturenames", ()) else str(item.path)
            item.add_marker(pytest.mark.xdist_group(name))

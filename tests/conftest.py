"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ |= {"COLUMNS": "200", "NO_COLOR": "1"}  # before rich reads them: tables are compared as text
settings.register_profile("salus", deadline=None, max_examples=60)  # machines are shared: time says nothing
settings.load_profile("salus")

SLOW = Path(__file__).with_name("slow.txt")
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The reference data; a test that asks for it skips where the folder is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("needs the reference data in ../shared/data")
    return folder


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished job without noise, see `tests.packages`."""
    from tests.packages import finish, plain_job

    return finish(tmp_path_factory.mktemp("plain") / "run", plain_job())


@pytest.fixture(scope="session")
def private_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished job with noise."""
    from tests.packages import finish, private_job

    return finish(tmp_path_factory.mktemp("private") / "run", private_job())


@pytest.fixture(scope="session")
def private_package(private_run: Path) -> Path:
    """The folder of a package of `private_run`; never to be changed."""
    from tests.packages import export

    return export(private_run, private_run.parent / "package")


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is slow
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of `slow.txt`, and keep a file's tests in one process: its fixtures start servers.

    A group of several files goes before.
    """
    mark_slow(items, whole=not any("::" in word for word in config.args))
    for item in items:
        if not any(item.iter_markers("xdist_group")):
            name = "federation" if "federation" in getattr(item, "fixturenames", ()) else str(item.path)
            item.add_marker(pytest.mark.xdist_group(name))


def mark_slow(items: list[pytest.Item], *, whole: bool) -> None:
    """Mark each test that `slow.txt` names, with or without its parameters.

    Args:
        whole: whether each file was collected whole, so that a line that names no test of its file is an error.
    """
    listed = {line.strip() for line in SLOW.read_text().splitlines() if line.strip() and not line.startswith("#")}
    files, found = {item.nodeid.split("::")[0] for item in items}, set()
    for item in items:
        for name in {item.nodeid, item.nodeid.split("[")[0]} & listed:
            item.add_marker(pytest.mark.slow)
            found.add(name)
    missing = sorted(name for name in listed - found if name.split("::")[0] in files)
    if whole and missing:
        raise pytest.UsageError(f"tests/slow.txt names a test that does not exist: {missing[0]}")

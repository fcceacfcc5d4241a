"""A run folder that somebody prepared: nothing outside of it is read or written, and every refusal is one sentence."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli import salus
from tests.simulations.auditing.test_audit import hospitals, private_job  # noqa: F401  (a fixture)

from salus.common.files import write_whole
from salus.common.identity import Identity
from salus.common.job import seal_job
from salus.server.checkpoints import Checkpoints
from salus.simulations.auditing import finished
from salus.simulations.auditing.finished import finished_run


@pytest.fixture
def run(hospitals: Path, tmp_path: Path) -> Path:  # noqa: F811
    folder = tmp_path / "run"
    shutil.copytree(hospitals, folder, ignore=shutil.ignore_patterns("coordinator", "toy.npz", "central"))
    Checkpoints(folder / "coordinator").submit(seal_job(private_job("local", 1.0), Identity.generate()), "tiny")
    return folder


def _signed(text: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        with sqlite3.connect(run / "coordinator" / "coordinator.sqlite") as connection:
            connection.execute("UPDATE jobs SET signed = ?", (text,))

    return change


def _linked(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        place = run / name
        place.rename(place.with_name(place.name + "-moved"))
        place.symlink_to(place.with_name(place.name + "-moved"))

    return change


def _garbage(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        for part in ("-wal", "-shm"):
            (run / f"{name}{part}").unlink(missing_ok=True)
        (run / name).write_bytes(b"{]" * 5000)

    return change


def _sites(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).mkdir() if name else [shutil.rmtree(place) for place in run.glob("site-*")]  # type: ignore[return-value]


HOSTILE: dict[str, Callable[[Path], object]] = {
    "signed is no JSON": _signed("[" * 100_000),
    "signed is another JSON": _signed('{"document": 7}'),
    "signed is huge": _signed('{"document": "' + "x" * 2_000_000 + '"}'),
    "a job of numbers": _signed('{"document": "{\\"job\\": 1e999}", "key": "00", "signature": "00"}'),
    "the database is a link": _linked("coordinator/coordinator.sqlite"),
    "the coordinator is a link": _linked("coordinator"),
    "a catalogue is a link": _linked("site-2/catalogue.sqlite"),
    "a site is a link": _linked("site-2"),
    "the database is garbage": _garbage("coordinator/coordinator.sqlite"),
    "a catalogue is missing": lambda run: (run / "site-3" / "catalogue.sqlite").unlink(),
    "a catalogue is a folder": lambda run: (
        (run / "site-3" / "catalogue.sqlite").unlink(),
        (run / "site-3" / "catalogue.sqlite").mkdir(),
    ),
    "a catalogue is a pipe": lambda run: (
        (run / "site-3" / "catalogue.sqlite").unlink(),
        os.mkfifo(run / "site-3" / "catalogue.sqlite"),
    ),
    "a number without an end": _sites("site-9999"),
    "no site": _sites(""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_refused_in_one_sentence(run: Path, name: str) -> None:
    HOSTILE[name](run)
    done = salus("audit", run, "--attacks", "one-run", "--canaries", 20)
    assert done.returncode not in (0, 1, 2), done.stdout
    assert "Traceback" not in done.stderr
    assert not (run / "audit.json").exists()


def test_odd_names_are_passed_over_and_large_files_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for odd in ("site-evil", "site-0", "site-01", "site-1e3", "site--1", "[red]site-1"):
        (run / odd).mkdir()
    assert finished_run(run, tmp_path / "a").sites == 5
    monkeypatch.setattr(finished, "LARGEST_FILE", 1000)
    with pytest.raises(Exception, match="expected a file of at most"):
        finished_run(run, tmp_path / "b")


def test_a_prepared_link_leads_a_report_to_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "audit.json.part").symlink_to(tmp_path / "mine")
    (tmp_path / "audit.json").symlink_to(tmp_path / "mine")
    write_whole(tmp_path / "audit.json", b"report")
    assert (tmp_path / "mine").read_text() == "precious"
    assert (tmp_path / "audit.json").read_bytes() == b"report"
    assert not (tmp_path / "audit.json").is_symlink()

"""`salus doctor` at a site and at the coordinator, against a real port with the real link; no daemon is disturbed."""

import json
import math
import os
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.builders import job_text, write_npz
from tests.cli import salus

from salus.client.config import SiteFolder, open_catalogue
from salus.client.data.sources.settings import SourceOptions
from salus.client.doctor import examine
from salus.client.link import FleetLink
from salus.common.clock import Clock, ManualClock, SystemClock
from salus.common.doctor.asking import Asker
from salus.common.doctor.findings import FAILED_EXIT, Finding
from salus.common.doctor.link import link_checks
from salus.common.doctor.load import REQUESTS, seconds_of
from salus.common.job import parse_job
from salus.common.versions import OLDEST_PROTOCOL, PROTOCOL
from salus.server.config import ServerFolder
from salus.server.link import Link
from salus.server.listen import listen_tcp
from salus.simulations.trial import Trial

CLOCK = SystemClock()
POLICY = "allow_unprotected = true\nallow_without_noise = true\n[budget]\nepsilon = 30.0\n"


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    trial = Trial(tmp_path_factory.mktemp("trial"), ["One", "Two"], policy=POLICY)
    site = trial.sites[0]
    open_catalogue(site).add("toy", "medmnist", write_npz(site / "toy.npz"), SourceOptions())
    return trial


@pytest.fixture(scope="module")
def link(trial: Trial) -> Iterator[Link]:
    server = ServerFolder.open(trial.coordinator, CLOCK)
    link = Link(server.node_keys(), roster=lambda: server.roster.serial)
    listener = listen_tcp(link.app, "127.0.0.1", trial.port, server.tls())
    yield link
    listener.close()


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of the files, but for those that SQLite makes beside a database for every reader."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.suffix not in (".sqlite-shm", ".sqlite-wal") and path.is_file()
    }


def checks(folder: Path, clock: Clock = CLOCK, job: Path | None = None, **environment: str) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(folder, clock, environment, job=job).findings}


def test_a_healthy_site_passes_every_check_and_its_own_connection_is_not_touched(trial: Trial, link: Link) -> None:
    site = SiteFolder.open(trial.sites[0], CLOCK)
    with FleetLink(f"https://127.0.0.1:{trial.port}", site.tls(), site.node_key) as daemon:
        node = daemon.activate()
        before = link._state.get_node_info(node_ids=[node])[0]
        found = checks(trial.sites[0])
        after = link._state.get_node_info(node_ids=[node])[0]
        assert link.directory() == {1: node}
    assert (before.last_activated_at, after.last_deactivated_at) == (
        after.last_activated_at,
        before.last_deactivated_at,
    )
    assert {each.status for name, each in found.items() if name not in ("daemon", "storage", "memory")} == {"ok"}, found
    assert float(str(found["clock"].values["offset_s"])) < 5
    assert int(str(found["throughput"].values["up_bytes_s"])) > 0
    assert found["newest roster"].values == {"here": 1, "coordinator": 1}


@pytest.mark.usefixtures("link")
def test_a_round_is_predicted_with_the_requests_of_the_version_that_both_sides_speak(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits(newest: int) -> float:
        """Return the seconds of a round that are spent waiting, on a line without limits and a second away."""
        monkeypatch.setattr("salus.common.versions.PROTOCOL", newest)
        site = SiteFolder.open(trial.sites[0], CLOCK)
        with Asker(f"https://127.0.0.1:{trial.port}", site.tls(), site.node_key, CLOCK) as asker:
            _, line = link_checks(asker, 1)
        assert line is not None
        far = replace(line, round_trip_s=1.0, up_bytes_s=math.inf, down_bytes_s=math.inf)
        return seconds_of(parse_job(job_text(protection="masking")), far) or 0.0

    assert waits(2) == 5 * 2
    assert waits(1) == 5 * 14
    assert set(REQUESTS) == set(range(OLDEST_PROTOCOL, PROTOCOL + 1)), "every version that is spoken has its number"


@pytest.mark.usefixtures("link")
def test_a_clock_that_is_wrong_is_found_although_the_coordinator_refuses_the_question(trial: Trial) -> None:
    found = checks(trial.sites[0], ManualClock(datetime.now(UTC) + timedelta(minutes=20)))
    assert found["link"].cause == "clock-wrong"
    assert (found["clock"].status, found["clock"].cause) == ("failed", "clock-wrong")
    assert -1290 < float(str(found["clock"].values["offset_s"])) < -1190
    assert "NTP" in found["clock"].network_team


@pytest.mark.usefixtures("link")
def test_a_site_that_the_coordinator_does_not_know_is_told_so(trial: Trial, tmp_path: Path) -> None:
    from salus.common.certificates import new_node_key
    from salus.common.identity import save_private_key

    folder = trial.sites[1]
    key = (folder / "keys" / "node.pem").read_bytes()
    (folder / "keys" / "node.pem").unlink()
    save_private_key(new_node_key(), folder / "keys" / "node.pem")
    try:
        found = checks(folder)
    finally:
        (folder / "keys" / "node.pem").write_bytes(key)
    assert found["link"].cause == "not-on-roster"
    assert found["clock"].status == "ok", "the time is known from the refusal, to the second"


@pytest.mark.usefixtures("link")
def test_a_job_is_compared_with_the_sites_data_and_timed_and_nothing_is_reserved(trial: Trial, tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    private = 'noise = "local"\nepsilon = 3.0\ndelta = 1e-5\npatients_per_site = 40'
    for text in (job_text(), job_text(privacy=private, model="cnn")):
        path.write_text(text)
        before = contents(trial.sites[0])
        found = checks(trial.sites[0], job=path)
        assert (found["job"].status, found["round"].status) == ("ok", "ok"), found["job"]
        assert float(str(found["round"].values["compute_s"])) > 0
        assert int(str(found["round"].values["up_bytes"])) > 0
        assert contents(trial.sites[0]) == before
    path.write_text(job_text(dataset="absent"))
    found = checks(trial.sites[0], job=path)
    assert (found["job"].cause, found["round"].status) == ("refused", "skipped")
    path.write_text(job_text().replace("rounds", "ronds"))
    assert checks(trial.sites[0], job=path)["job"].cause == "job-invalid"


def test_the_command_ends_with_its_own_code_and_prints_what_to_tell_the_network_team(
    trial: Trial, tmp_path: Path
) -> None:
    folder = Trial(tmp_path / "t", ["One"], policy=POLICY).sites[0]  # nobody listens there
    result = salus("doctor", folder)
    assert result.returncode == FAILED_EXIT
    assert "For the network team:" in result.stdout
    assert "Please allow outgoing TCP" in result.stdout
    values = json.loads(salus("doctor", folder, "--json").stdout)
    assert values["healthy"] is False
    assert {check["status"] for check in values["checks"]} <= {"ok", "notice", "failed", "skipped"}
    assert salus("doctor", tmp_path).returncode == 11


def test_a_folder_without_a_kit_is_examined_as_far_as_possible(tmp_path: Path) -> None:
    assert salus("client", "init", tmp_path / "s", "--name", "S").returncode == 0
    found = checks(tmp_path / "s")
    assert found["roster"].cause == "not-joined"
    assert found["tls"].status == "skipped"
    (tmp_path / "s" / "policy.toml").write_text("nonsense = 1")
    (tmp_path / "s" / "site.toml").write_text("nonsense")
    found = checks(tmp_path / "s")
    assert (found["policy"].cause, found["folder"].cause) == ("unreadable", "unreadable")


@pytest.mark.usefixtures("link")
def test_the_coordinator_sees_whether_its_own_certificate_answers_under_its_url(trial: Trial) -> None:
    from salus.server import doctor

    found = {each.check: each for each in doctor.examine(trial.coordinator, CLOCK, {}).findings}
    assert found["daemon"].cause == "port-taken", "the port is held by this test and not by a daemon"
    member = doctor.membership(trial.coordinator, "coordinator", CLOCK.now())[1]
    seen = {each.check: each for each in doctor._seen_from_here(member, {}, CLOCK, "", running=True)}
    assert seen["tls"].status == "ok"


PLANTS = {
    "name": "Mueller-Planted",
    "pseudonym": "5f2c9a17d0e84b6c93a1f7b2c8d4e6f0",
    "path": "/srv/planted/radiology",
    "token": "tok_planted_9f8e7d6c",
    "host": "planted-host.hospital.example",
}


def planted(folder: Path) -> dict[str, str]:
    """Plant secrets in every file that the command reads, and return an environment with more of them."""
    every = " ".join(PLANTS.values())
    name = PLANTS["name"]
    lines = [
        {"at": "2026-05-01T10:00:00+00:00", "kind": every, "text": every},
        {"at": "2026-05-01T10:00:00+00:00", "kind": "refused", "error": every, "text": every, "job": every},
        {"at": "2026-05-01T10:00:00+00:00", "kind": "unexpected", "error": name, "where": f"{name}.py:1 > {every}"},
        {"at": "2026-05-01T10:00:00+00:00", "kind": "trained", every: 3, "round": every, "left_out": {every: 1}},
        {
            "at": "2026-05-01T10:00:00+00:00",
            "kind": "round",
            "sites": [every],
            "status": every,
            "metrics": {every: 0.5},
        },
        {"at": "2026-05-01T10:00:00+00:00", "kind": "disconnected", "place": every, "seconds": {every: every}},
    ]
    log = "".join(json.dumps(line) + "\n" for line in lines) + f"torn {every}"
    (folder / "events.jsonl").write_text(log)
    (folder / "working.json").write_text(every)
    (folder / f"{name}.dcm").write_text(every)
    (folder / "cache").mkdir(exist_ok=True)
    (folder / "cache" / name).write_text(every)
    (folder / "policy.toml").write_text(f"{POLICY}# {every}\n[cohort_epochs]\n{name.lower()} = 1\n")
    (folder / "site.toml").write_text(f"# {every}\nhealth_port = 0\n[performance]\nthreads = 1\n")
    data = write_npz(folder / f"{name}.npz")
    catalogue = open_catalogue(folder)
    catalogue.add(name.lower(), "medmnist", data, SourceOptions())
    return {"https_proxy": f"http://{name}:{PLANTS['token']}@{PLANTS['host']}:1", "no_proxy": "", "SALUS": every}


def test_a_support_file_has_no_planted_secret_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(tmp_path / PLANTS["name"], [PLANTS["name"]], policy=POLICY)
    folder = trial.sites[0]
    for variable, value in planted(folder).items():
        monkeypatch.setenv(variable, value)
    job = tmp_path / "job.toml"
    job.write_text(job_text(dataset=PLANTS["name"].lower()) + f"# {PLANTS['token']}\n")
    for place, words in ((folder, ("--job", job)), (trial.coordinator, ())):
        bundle = tmp_path / f"{place.name}.zip"
        if place == trial.coordinator:
            (place / "events.jsonl").write_bytes((folder / "events.jsonl").read_bytes())
            (place / "server.toml").write_text(f'# {PLANTS["token"]}\nlisten = "127.0.0.1"\nport = {trial.port}\n')
        result = salus("doctor", place, "--bundle", bundle, *words)
        assert bundle.exists(), result.stderr
        assert bundle.stat().st_mode & 0o077 == 0
        with zipfile.ZipFile(bundle) as archive:
            text = "".join(f"{name}\n{archive.read(name).decode()}" for name in archive.namelist())
            assert "other" in archive.read("events.jsonl").decode()
        hits = [word for plant in PLANTS.values() for word in (plant, plant.lower(), plant.upper()) if word in text]
        assert hits == []
        assert str(tmp_path) not in text
        assert PLANTS["token"] not in result.stdout + result.stderr
        assert salus("doctor", place, "--bundle", bundle).returncode == 11, "nothing is overwritten"
    assert PLANTS["host"] in salus("doctor", folder, "--json").stdout, "the plants are read; the screen shows the proxy"
    assert os.environ["SALUS"]

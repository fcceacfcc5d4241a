"""What each release wrote opens, verifies and resumes in this version; `tests/fixtures/make_release.py` wrote it."""

import hashlib
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.make_release import COORDINATOR, PATIENTS, ROUNDS, STOPPED_AFTER, World, world

from salus.client.data.catalogue import Catalogue
from salus.client.ledger.entries import Close, Commit, Reserve
from salus.client.ledger.store import Budget, Ledger
from salus.client.policy import Policy
from salus.common.canonical import canonical_json
from salus.common.clock import SystemClock
from salus.common.errors import DataError, JobError, ProtectionError, StorageError
from salus.common.identity import Signed
from salus.common.job import Job, job_from_canonical, open_job, seal_job
from salus.common.models import build_model
from salus.common.roster import read_roster
from salus.common.strategies import strategy_of
from salus.common.strict import load_toml
from salus.common.sums import sums_of
from salus.common.tasks import make_task
from salus.common.vectors import layout_of
from salus.privacy.dp.plan import Plan, plan_of
from salus.privacy.protection import protection_of
from salus.server.checkpoints import Checkpoints
from salus.server.transcripts import verify_file

RELEASES = sorted((Path(__file__).parent / "fixtures").glob("release-*"), key=lambda path: int(path.name.split("-")[1]))


def facts(release: Path) -> dict[str, Any]:
    return json.loads((release / "facts.json").read_bytes())  # type: ignore[no-any-return]


def copied(release: Path, name: str, target: Path) -> Path:
    """Return a copy, because a newer version may bring the file up to date."""
    path = release / name
    return Path(shutil.copytree(path, target / name) if path.is_dir() else shutil.copy(path, target / name))


@pytest.fixture(params=RELEASES, ids=lambda path: path.name)
def release(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def signed_jobs(release: Path) -> dict[str, Signed]:
    return {path.stem: Signed.model_validate_json(path.read_bytes()) for path in (release / "jobs").glob("*.json")}


def test_signed_jobs_of_every_kind_open_with_their_hash_and_could_run(release: Path) -> None:
    known, key = facts(release), bytes.fromhex(facts(release)["coordinator_key"])
    signed = signed_jobs(release)
    assert signed.keys() == known["jobs"].keys()
    assert len(signed) >= 18
    for name, one in signed.items():
        job, document = open_job(one, key)
        assert document == one.document.encode() == job.canonical_bytes(), name
        assert job.digest().hex() == known["jobs"][name] == hashlib.sha256(document).hexdigest(), name
        protection_of(job)
        plan_of(job)
        if job.statistics is not None:
            sums_of(job)
        else:
            strategy_of(job)
            make_task(job.task)
            build_model(job.task, 0)


def test_a_changed_job_is_not_the_one_that_was_signed(release: Path) -> None:
    """The mutant of the test above: one that accepts what it is given without looking at it."""
    one = next(iter(signed_jobs(release).values()))
    with pytest.raises(JobError, match="canonical"):
        job_from_canonical(one.document.replace(":", ": ", 1).encode())
    newer = canonical_json(json.loads(one.document) | {"format": 1_000})
    with pytest.raises(JobError, match="the reading side is too old"):
        job_from_canonical(newer)


@pytest.mark.parametrize("protection", ["masking", "encryption"])
def test_transcripts_verify(release: Path, tmp_path: Path, protection: str) -> None:
    path, key = release / "transcripts" / f"{protection}.jsonl", bytes.fromhex(facts(release)["consortium_key"])
    checked = verify_file(path, key)
    assert [line["kind"] for line in checked.verified.sums] == ["train", "train", "evaluate"]
    assert checked.verified.job.aggregation.protection == protection
    lines = path.read_bytes().splitlines(keepends=True)
    torn = tmp_path / "t.jsonl"
    torn.write_bytes(b"".join(line for line in lines if b'"kind":"consent"' not in line))
    with pytest.raises(ProtectionError, match="not valid"):
        verify_file(torn, key)
    torn.write_bytes(lines[0].replace(b'"format":', b'"format":100') + b"".join(lines[1:]))
    with pytest.raises(ProtectionError, match="the reading side is too old"):
        verify_file(torn, key)


def test_a_stopped_job_is_resumed_from_its_last_round(release: Path, tmp_path: Path) -> None:
    folder = copied(release, "coordinator", tmp_path)
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.safetensors")}
    assert hashes == facts(release)["models"]
    store = Checkpoints(folder)
    (row,) = store.active()
    assert row.status == "running"
    job, _ = open_job(row.signed, bytes.fromhex(facts(release)["coordinator_key"]))
    layout = layout_of(build_model(job.task, job.job.seed))
    model, state = store.load_model(row.job_id, STOPPED_AFTER, layout)
    assert set(state) == {"velocity", "rounds"}
    assert state["rounds"].tolist() == [STOPPED_AFTER]
    again = resumed(tmp_path / "again", job, row.signed, store, row.job_id)
    final = again.run()
    assert [record["round"] for record in store.records(row.job_id)] == list(range(1, ROUNDS + 1))
    asked = [round_ for kind, round_, _ in again.sites.asked if kind == "train"]
    assert sorted(set(asked)) == list(range(STOPPED_AFTER + 1, ROUNDS + 1)), "finished rounds are not done again"
    assert (final != model).any()


def resumed(folder: Path, job: Job, signed: Signed, store: Checkpoints, job_id: str) -> World:
    made = world(folder, job)
    made.signed, made.store, made.job_id = signed, store, job_id
    return made


def test_the_roster_and_the_policy_open(release: Path) -> None:
    signed = Signed.model_validate_json((release / "roster.json").read_bytes())
    assert read_roster(signed, bytes.fromhex(facts(release)["consortium_key"])).site_ids() == (1, 2, 3, 4, 5)
    load_toml(Policy, release / "policy.toml", error=DataError, what="policy")


def test_the_ledger_verifies_and_goes_on(release: Path, tmp_path: Path) -> None:
    path = copied(release, "ledger.sqlite", tmp_path)
    book = Ledger(path, SystemClock())
    head = book.verify()
    assert f"{head.length}/{head.last.hex()}" == facts(release)["ledger"]
    assert [type(entry) for entry, _ in book.entries()] == [Reserve, Commit, Commit, Reserve, Commit, Close]
    plan = Plan("local", 2.0, 20.0, 0.1, 10, 4, 3.0, 1e-5)
    book.commit("open", 2, 0, plan.charge("train"))
    book.reserve("new", "toy", PATIENTS, plan, 3, Budget(epsilon=50.0))
    assert book.verify().follows(head)


def test_the_catalogue_opens_with_its_samples_and_declaration(release: Path, tmp_path: Path) -> None:
    known = facts(release)["catalogue"]
    catalogue = Catalogue(copied(release, "catalogue.sqlite", tmp_path), known["secret"].encode())
    assert len(list(catalogue.images("toy"))) == known["images"]
    declared = catalogue.declarations.all()["toy"]
    assert declared is not None
    assert declared.classes == ("0", "1")


def test_what_a_later_version_will_have_written_is_refused(release: Path, tmp_path: Path) -> None:
    for name, pragma in (
        ("ledger.sqlite", "PRAGMA user_version = 1000"),
        ("catalogue.sqlite", "UPDATE alembic_version SET version_num = '9999'"),
    ):
        path = copied(release, name, tmp_path)
        with sqlite3.connect(path) as connection:
            connection.execute(pragma)
        connection.close()
        with pytest.raises((StorageError, DataError), match="the reading side is too old"):
            Ledger(path, SystemClock()) if name == "ledger.sqlite" else Catalogue(path, b"secret for tests")


def test_a_job_of_an_earlier_release_is_sent_on_as_it_was_signed(release: Path) -> None:
    for one in signed_jobs(release).values():
        job = job_from_canonical(one.document.encode())
        assert seal_job(job, COORDINATOR).to_bytes() == one.to_bytes()

"""The commands: what the papers say and do not say, kill at any moment, and tampering."""

import hashlib
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli import Result, salus
from tests.people import write_people
from tests.test_release_fixtures import RELEASES

from salus.client.commands.withdrawing import read_identifiers
from salus.client.config import init_site, open_catalogue, open_ledger
from salus.client.data import withdrawals as listed
from salus.client.data.sources.settings import SourceOptions
from salus.client.data.uses import UsedJob
from salus.client.ledger.store import Budget
from salus.client.session_store import SqliteSessionStore
from salus.client.withdrawing import run
from salus.client.withdrawing.jobs import again, influence
from salus.common.canonical import canonical_json
from salus.common.clock import SystemClock
from salus.common.errors import DataError
from salus.common.identity import Identity, Signed
from salus.common.package.layout import ALWAYS, CONTEXT, MODEL, FileLine, Manifest
from salus.privacy.contribution import DataKind
from salus.privacy.dp.accounting import epsilon
from salus.privacy.dp.plan import Plan
from salus.privacy.protocol.contributors import Consent

PLAN = Plan("local", 2.0, 20.0, 0.1, 10, 4, 3.0, 1e-5)
PRIVATE, PLAIN = "noised-0001/" + "ab" * 8, "plain-0002/" + "cd" * 8
PATIENT = "P0-1"  # of `write_people`


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with one data set, a job with noise in its third round, a job without noise, and prepared samples."""
    folder = tmp_path_factory.mktemp("prepared") / "site"
    init_site(folder, "St. Mary")
    catalogue = open_catalogue(folder)
    catalogue.add("xrays", "images", write_people(folder.parent / "data", patients=6), SourceOptions())
    catalogue.splits("xrays", 0.2)
    ledger = open_ledger(folder, SystemClock())
    everybody = catalogue.patients("xrays")
    ledger.reserve(PRIVATE, "xrays", everybody, PLAN, 4, Budget())
    for round_ in (3, 4):
        ledger.commit(PRIVATE, round_, 0, PLAN.charge("train"))
    training = dict.fromkeys(everybody, DataKind.TRAINING)
    catalogue.uses.note(UsedJob(PRIVATE, "xrays/0", True, False), training, 3)
    catalogue.uses.note(UsedJob(PLAIN, "xrays/0", False, True), training, 1)
    (folder / "cache" / "abc").mkdir(parents=True)
    (folder / "cache" / "abc" / "images.bin").write_bytes(b"pixels")
    state = folder / "states" / PLAIN.replace("/", "-")
    state.mkdir(parents=True)
    (state / "round-0000001.safetensors").write_bytes(b"gradients")
    return folder


@pytest.fixture
def site(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "site"))


def listing(folder: Path, *identifiers: str) -> Path:
    path = folder / "withdrawn.csv"
    path.write_text("PatientID\n" + "".join(f"{one}\n" for one in identifiers))
    return path


def withdrawn(site: Path, *words: object) -> dict[str, object]:
    done = salus("dataset", "withdraw", site, *words, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def papers(site: Path) -> Result:
    return salus("dataset", "withdrawals", site, "--json")


def test_the_paper_says_what_was_done_and_names_nobody(site: Path, tmp_path: Path) -> None:
    pseudonym = open_catalogue(site).pseudonym("patient", PATIENT)
    found = withdrawn(site, listing(tmp_path, PATIENT))
    (paper,) = found["papers"]  # type: ignore[misc]
    private, plain = paper["jobs"]
    spent = epsilon([PLAN.charge("train")] * 2, 1e-5)
    assert (private["job"], private["use"], private["first_round"]) == (PRIVATE, "possible", 3)
    assert private["epsilon"] == pytest.approx(spent)
    assert "round-00002.safetensors" in private["again"]
    assert (plain["job"], plain["use"], plain["first_round"], plain["noise"]) == (PLAIN, "certain", 1, False)
    assert "no bound" in plain["bound"]
    assert paper["epsilon"] == pytest.approx(spent)
    assert paper["ledger_before"] == paper["ledger_after"]
    text = (site / "withdrawals" / "0001.json").read_text()
    page = (site / "withdrawals" / "0001.html").read_text()
    for secret in (
        PATIENT,
        pseudonym,
        str(site),
        str(tmp_path),
        "St. Mary",
        open_catalogue(site).withdrawals.all()[0].salt,
    ):
        assert secret not in text
    assert pseudonym in page, "the page is for the hospital, which must find the patient again"
    assert PATIENT not in page
    assert (site / "withdrawals" / "0001.html").stat().st_mode & 0o077 == 0
    assert not (site / "cache").exists()
    assert not list(site.glob("cache.withdrawn-*"))
    assert not (site / "states" / PLAIN.replace("/", "-")).exists()
    assert open_catalogue(site).unused("xrays")["withdrawn"] == 2
    checked = papers(site)
    assert checked.returncode == 0
    assert json.loads(checked.stdout) == {"papers": [paper], "not_finished": []}


def test_the_ledger_is_as_before_and_verifies(site: Path, tmp_path: Path) -> None:
    before = open_ledger(site, SystemClock()).entries()
    withdrawn(site, listing(tmp_path, PATIENT))
    book = open_ledger(site, SystemClock())
    assert book.entries() == before, "what was spent stays, and a head of another length would tell the others"
    book.verify()


def test_people_in_words(site: Path, tmp_path: Path) -> None:
    done = salus("dataset", "withdraw", site, listing(tmp_path, PATIENT, "P0-2"), "--yes")
    assert done.returncode == 0, done.stderr
    assert "0001.html" in done.stdout.replace("\n", "")
    assert "cohort_epoch" in done.stdout
    again_ = salus("dataset", "withdraw", site, listing(tmp_path, PATIENT), "--yes")
    assert "had withdrawn before" in again_.stdout
    listed_ = salus("dataset", "withdrawals", site)
    assert "2 paper(s)" in listed_.stdout
    assert PATIENT not in done.stdout + listed_.stdout
    assert "withdrawn" in salus("dataset", "show", site, "xrays").stdout


def test_it_asks_first_and_needs_yes_with_json(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = listing(tmp_path, PATIENT)
    refused = salus("dataset", "withdraw", site, path, "--json")
    assert refused.returncode != 0
    assert "--yes" in refused.stderr
    monkeypatch.setattr("typer.confirm", lambda *_, **__: (_ for _ in ()).throw(SystemExit(1)))
    assert salus("dataset", "withdraw", site, path).returncode == 1
    assert len(open_catalogue(site).patients("xrays")) == 6


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("PatientID\nNOBODY\n", "No registered image and no job belongs to 1 of the patients (line 2)"),
        ("PatientID\n\n", "Expected a CSV with the one column"),
        ("PatientID\n", "Expected a CSV with the one column"),
        ("Name\nP0-1\n", "Expected a CSV with the one column"),
        ("PatientID,OtherPatientID\nP0-1,P0-2\n", "Expected a CSV with the one column"),
        ("", "Expected a CSV with the one column"),
        ("PatientID\n../../etc/passwd\n", "No registered image"),
        ("PatientID\n[red]x[/red]\n", "No registered image"),
    ],
)
def test_files_that_name_nobody_change_nothing(site: Path, tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "withdrawn.csv"
    path.write_text(content)
    refused = salus("dataset", "withdraw", site, path, "--yes", "--json")
    assert refused.returncode != 0
    assert said in re.sub(r"\s+", " ", refused.stderr)
    assert "Traceback" not in refused.stderr
    assert "NOBODY" not in refused.stderr
    assert open_catalogue(site).withdrawals.all() == []


def test_a_file_without_an_end_is_not_read_to_its_end() -> None:
    with pytest.raises(DataError, match="Expected a CSV with the one column"):
        read_identifiers(Path("/dev/zero"))


@pytest.mark.parametrize("words", [(), ("--pseudonym", "P0-1"), ("--pseudonym", "0" * 32), ("no-such.csv",)])
def test_other_words_that_name_nobody(site: Path, words: tuple[str, ...]) -> None:
    refused = salus("dataset", "withdraw", site, *words, "--yes", "--json")
    assert refused.returncode not in (0, 1)
    assert "Traceback" not in refused.stderr
    assert open_catalogue(site).withdrawals.all() == []


def test_a_folder_that_is_no_site(tmp_path: Path) -> None:
    for words in (("dataset", "withdraw"), ("dataset", "withdrawals"), ("client", "withdraw")):
        refused = salus(*words, tmp_path / "nothing", *([] if words[1] == "withdrawals" else ["--yes"]))
        assert refused.returncode not in (0, 1)
        assert "is not a site's folder" in re.sub(r"\s+", " ", refused.stderr)
    assert not (tmp_path / "nothing").exists()


def test_in_advance_and_by_pseudonym(site: Path, tmp_path: Path) -> None:
    withdrawn(site, listing(tmp_path, "P1-9"), "--in-advance")
    more = write_people(tmp_path / "more", patients=10, seed=1)
    assert salus("dataset", "add", site, "more", more, "--yes").returncode == 0
    catalogue = open_catalogue(site)
    assert catalogue.unused("more")["withdrawn"] == 1
    some = min(catalogue.patients("more"))
    withdrawn(site, "--pseudonym", some)
    assert some not in catalogue.patients("more")
    found = json.loads(papers(site).stdout)["papers"]
    assert [paper["number"] for paper in found] == [1, 2]
    assert found[0]["jobs"] == []
    assert found[1]["previous"] != ""


def test_an_import_stores_nothing_of_the_patient(site: Path, tmp_path: Path) -> None:
    import numpy as np
    from tests.client.data.dicom_files import write

    scans = tmp_path / "scans"
    scans.mkdir()
    for number in (1, 2):
        write(scans / f"{number}.dcm", np.full((4, 4), number, np.int16), PatientID=f"D{number}")
    (tmp_path / "labels.csv").write_text("PatientID,label\nD1,yes\nD2,no\n")
    withdrawn(site, listing(tmp_path, "D1"), "--in-advance")
    done = salus("dataset", "import", site, "scans", scans, "--labels", tmp_path / "labels.csv", "--yes")
    assert done.returncode == 0, done.stderr
    assert "withdrawn" in done.stdout
    report = json.loads((site / "images" / "scans" / "report.json").read_text())
    assert report["refused"] == {"withdrawn": 1}
    assert len(list((site / "images" / "scans").rglob("*.dcm"))) == 1
    assert len(open_catalogue(site).patients("scans")) == 1


STEPS: dict[str, tuple[object, str]] = {
    "in the transaction": (listed.Withdrawals, "sweep"),
    "before the cache is cleared": (run, "clear_cache"),
    "before states are removed": (run, "clear_states"),
    "before the paper is signed": (run, "seal"),
    "before the page is written": (run, "write_patient_page"),
    "before the catalogue remembers the paper": (listed.Withdrawals, "finish"),
}


def killed(place: tuple[object, str], work: Callable[[], object]) -> int:
    """Return the exit code of a child that ends, as by kill -9, when it comes to a place."""
    child = os.fork()
    if child == 0:
        owner, name = place
        setattr(owner, name, lambda *_, **__: os._exit(9))
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("step", STEPS)
def test_killed_between_any_two_steps_it_is_finished_later(site: Path, tmp_path: Path, step: str) -> None:
    path = listing(tmp_path, PATIENT)
    code = killed(STEPS[step], lambda: salus("dataset", "withdraw", site, path, "--yes"))
    assert code == 9
    used = len(open_catalogue(site).patients("xrays"))
    assert used == (6 if step == "in the transaction" else 5), "nothing, or withdrawn; the rest comes after"
    waiting = papers(site)
    assert waiting.returncode == 0
    assert json.loads(waiting.stdout)["not_finished"] == ([] if used == 6 else [1])
    if used == 5:
        assert "not finished" in salus("dataset", "withdrawals", site).stdout
        found = withdrawn(site)
    else:
        found = withdrawn(site, path)
    assert [paper["number"] for paper in found["papers"]] == [1]  # type: ignore[attr-defined]
    assert json.loads(papers(site).stdout) == {"papers": found["papers"], "not_finished": []}
    assert not (site / "cache").exists()
    assert (site / "withdrawals" / "0001.html").exists()
    assert len(open_catalogue(site).patients("xrays")) == 5


def changed(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def signed_by_another(path: Path) -> None:
    from salus.client.withdrawing.paper import read_paper, seal

    paper, _ = read_paper(path)
    other = Identity.generate()
    path.write_bytes(seal(paper.model_copy(update={"site_key": other.public_key.hex()}), other).to_bytes())


TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed number": (lambda f: changed(f / "0001.json", b"certain", b"possible"), "signature"),
    "a missing paper": (lambda f: (f / "0002.json").unlink(), "cannot be read"),
    "two exchanged": (
        lambda f: (
            (f / "0001.json").rename(f / "x"),
            (f / "0002.json").rename(f / "0001.json"),
            (f / "x").rename(f / "0002.json"),
        ),
        "not the paper that the catalogue remembers",
    ),
    "one too many": (lambda f: shutil.copy(f / "0001.json", f / "0003.json"), "knows no such withdrawal"),
    "another key": (lambda f: signed_by_another(f / "0001.json"), "signature"),
    "no JSON": (lambda f: (f / "0001.json").write_bytes(b"\xff[" * 50_000), "not a paper"),
    "deep JSON": (lambda f: (f / "0001.json").write_bytes(b"[" * 200_000), "not a paper"),
    "a folder": (lambda f: ((f / "0001.json").unlink(), (f / "0001.json").mkdir()), "cannot be read"),
    "NaN": (lambda f: changed(f / "0001.json", b'\\"delta\\":', b'\\"delta\\":NaN,\\"x\\":'), "signature"),
}


@pytest.fixture(scope="module")
def with_two(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    site = Path(shutil.copytree(prepared, folder / "site"))
    withdrawn(site, listing(folder, PATIENT, "P0-2"))
    return site


@pytest.mark.parametrize("what", TAMPERED)
def test_tampering_is_named(with_two: Path, tmp_path: Path, what: str) -> None:
    site = Path(shutil.copytree(with_two, tmp_path / "site"))
    assert papers(site).returncode == 0
    tamper, said = TAMPERED[what]
    tamper(site / "withdrawals")
    refused = papers(site)
    assert refused.returncode == 42, refused.stderr
    assert said in re.sub(r"\s+", " ", refused.stderr)
    assert "Traceback" not in refused.stderr


def test_an_identifier_that_is_merged_later_has_a_paper_of_its_own(site: Path, tmp_path: Path) -> None:
    withdrawn(site, listing(tmp_path, PATIENT))
    pairs = tmp_path / "same.csv"
    pairs.write_text("PatientID,OtherPatientID\nP0-3,P0-1\n")
    merged = salus("dataset", "merge-patients", site, pairs, "--json")
    assert json.loads(merged.stdout)["withdrawn"] == 1
    assert len(open_catalogue(site).patients("xrays")) == 4
    (paper,) = withdrawn(site)["papers"]  # type: ignore[misc]
    assert (paper["number"], len(paper["jobs"])) == (2, 2)
    assert papers(site).returncode == 0
    assert salus("dataset", "withdraw", site, "--yes").returncode != 0, "nothing is left to do"


@pytest.mark.parametrize("opened", [False, True])
def test_a_copy_of_the_data_set_under_another_name_ends_too(site: Path, tmp_path: Path, opened: bool) -> None:
    data = site.parent / "data"
    write_people(data, patients=6)
    assert salus("dataset", "add", site, "copied", data, "--yes").returncode == 0
    assert (
        salus("dataset", "add", site, "others", write_people(tmp_path / "o", patients=4, seed=3), "--yes").returncode
        == 0
    )
    (site / "policy.toml").write_text((site / "policy.toml").read_text().replace("# chest-xray = 1", "copied = 2"))
    if opened:
        store = SqliteSessionStore(site / "sessions.sqlite")
        store.open_session(b"now", "xrays/0")
        store.consent(b"now", Consent(frozenset({1, 2, 3})))
    (paper,) = withdrawn(site, listing(tmp_path, PATIENT))["papers"]  # type: ignore[misc]
    assert {line["job"] for line in paper["jobs"]} == {PRIVATE, PLAIN}
    uses = open_catalogue(site).uses
    assert uses.ended("xrays/0") == (True, False)
    assert uses.ended("copied/2") == (False, opened)
    assert uses.ended("copied/3") == uses.ended("others/0") == (False, False)


def test_a_patient_of_a_data_set_that_was_removed_can_withdraw(site: Path, tmp_path: Path) -> None:
    assert salus("dataset", "remove", site, "xrays").returncode == 0
    (site / "policy.toml").write_text("damaged [")
    (paper,) = withdrawn(site, listing(tmp_path, PATIENT))["papers"]  # type: ignore[misc]
    assert {line["job"] for line in paper["jobs"]} == {PRIVATE, PLAIN}


def test_a_catalogue_from_an_older_backup_takes_no_paper_of_another_patient(site: Path, tmp_path: Path) -> None:
    backup = shutil.copy(site / "catalogue.sqlite", tmp_path / "backup.sqlite")
    withdrawn(site, listing(tmp_path, PATIENT))
    for name in ("catalogue.sqlite-wal", "catalogue.sqlite-shm"):
        (site / name).unlink(missing_ok=True)
    shutil.copy(backup, site / "catalogue.sqlite")
    assert papers(site).returncode == 42
    refused = salus("dataset", "withdraw", site, listing(tmp_path, "P0-2"), "--yes", "--json")
    assert refused.returncode == 42
    assert "older backup" in re.sub(r"\s+", " ", refused.stderr)
    assert len(open_catalogue(site).patients("xrays")) == 5, "withdrawn all the same"


def test_a_site_withdraws_with_everybody(site: Path, tmp_path: Path) -> None:
    withdrawn(site, listing(tmp_path, PATIENT))
    done = salus("client", "withdraw", site, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    (paper,) = json.loads(done.stdout)["papers"]
    assert (paper["who"], paper["number"]) == ("site", 2)
    assert {line["job"] for line in paper["jobs"]} == {PRIVATE, PLAIN}
    catalogue = open_catalogue(site)
    assert catalogue.patients("xrays") == frozenset()
    refused = salus("dataset", "add", site, "more", write_people(tmp_path / "more", patients=4, seed=2), "--yes")
    assert refused.returncode != 0
    assert "has withdrawn" in refused.stderr
    book = open_ledger(site, SystemClock())
    assert [line["state"] for line in json.loads(salus("ledger", "show", site, "--json").stdout)["jobs"]] == ["closed"]
    book.verify()
    assert salus("client", "withdraw", site, "--yes").returncode == 0, "a second time changes nothing"
    assert [found["number"] for found in json.loads(papers(site).stdout)["papers"]] == [1, 2]


def test_what_earlier_versions_recorded(site: Path, tmp_path: Path) -> None:
    """Of jobs with noise the ledger has the patients; of sums without noise there is only that some were opened."""
    catalogue = open_catalogue(site)
    store = SqliteSessionStore(site / "sessions.sqlite")
    store.open_session(b"old", "xrays/0")
    store.consent(b"old", Consent(frozenset({1, 2, 3})))
    with sqlite3.connect(site / "sessions.sqlite") as sessions, sqlite3.connect(site / "catalogue.sqlite") as database:
        sessions.execute("UPDATE sessions SET opened_at = '2026-01-01T00:00:00+00:00'")
        database.execute("DELETE FROM uses")
        database.execute("DELETE FROM used_jobs")
    with sqlite3.connect(site / "rosters.sqlite") as rosters:
        rosters.execute("CREATE TABLE begun (job VARCHAR PRIMARY KEY, roster VARCHAR NOT NULL)")
        rosters.execute("PRAGMA user_version = 1")
        for job in (f"old-0001/{'ef' * 32}", f"noised-0001/{'ab' * 32}"):
            rosters.execute("INSERT INTO begun VALUES (?, 'x')", [job])
    (paper,) = withdrawn(site, listing(tmp_path, PATIENT))["papers"]  # type: ignore[misc]
    found = {line["job"]: line for line in paper["jobs"]}
    assert found.keys() == {PRIVATE, "(not recorded) xrays/0", "old-0001/" + "ef" * 8}
    assert {line["use"] for line in found.values()} == {"possible"}
    assert found[PRIVATE]["first_round"] == 3
    assert catalogue.uses.ended("xrays/0") == (True, False)


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_a_site_of_an_earlier_release_withdraws_a_patient(release: Path, tmp_path: Path) -> None:
    from tests.test_release_fixtures import facts

    site = tmp_path / "site"
    init_site(site, "Old")
    for name in ("catalogue.sqlite", "ledger.sqlite", "policy.toml"):
        shutil.copy(release / name, site / name)
    some = min(open_catalogue(site).patients("toy"))
    (paper,) = withdrawn(site, "--pseudonym", some)["papers"]  # type: ignore[misc]
    assert some not in open_catalogue(site).patients("toy")
    assert paper["ledger_before"].startswith(f"{facts(release)['ledger'].split('/')[0]}/")
    assert papers(site).returncode == 0


def test_packages_of_the_job_are_named(site: Path, tmp_path: Path) -> None:
    manifest = Manifest(
        job_id="plain-0002", job_sha256="cd" * 32, roster_sha256="0" * 64, consortium="C", consortium_key="1" * 64,
        created=SystemClock().now(), salus="1",
        files=tuple(FileLine(name=name, size=1, sha256="2" * 64) for name in sorted((*ALWAYS, MODEL))),
    )  # fmt: skip
    signed = Signed.seal(Identity.generate(), CONTEXT, canonical_json(manifest.model_dump(mode="json")))
    for name, data in (("hostile", b"[" * 100_000), ("good", signed.to_bytes()), ("huge", b" " * (2**20 + 1))):
        (site / "packages" / name).mkdir(parents=True)
        (site / "packages" / name / "manifest.json").write_bytes(data)
    (paper,) = withdrawn(site, listing(tmp_path, PATIENT))["papers"]  # type: ignore[misc]
    digest = hashlib.sha256(signed.document.encode()).hexdigest()
    assert {line["job"]: line["packages"] for line in paper["jobs"]} == {PRIVATE: [], PLAIN: [digest]}


def test_the_words_about_epsilon_hold_for_known_numbers() -> None:
    assert "at most 2.718 times" in influence(1.0, 0.0)
    assert "at most 73.11 %" in influence(1.0, 0.0)  # e / (1 + e)
    assert "at most 100 %" in influence(1e6, 1e-5)
    assert influence(0.0, 1e-5) == "Nothing was sent of this patient's data."
    assert "salus job submit" in again(1, True)
    assert "round-00004" in again(5, True)
    assert "measured only" in again(1, False)

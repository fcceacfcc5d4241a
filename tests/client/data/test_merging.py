"""Two identifiers of one patient: never less spent than true, never a test patient after training, and all or nothing."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from tests.client.data.dicom.test_deidentify import image
from tests.client.data.dicom_files import write
from tests.client.data.incoming.test_importing import file_bytes
from tests.processes import start
from typer.testing import CliRunner

from salus.cli import app
from salus.client.config import init_site, open_catalogue, open_ledger
from salus.client.data.catalogue import Catalogue
from salus.client.data.pseudonyms import literal_pseudonym
from salus.client.data.records import ImageRecord
from salus.client.data.schema import SPLITS
from salus.client.data.sources.settings import SourceOptions
from salus.client.ledger.spending import in_places, persons
from salus.client.ledger.store import Budget, Ledger
from salus.common.clock import ManualClock, SystemClock
from salus.common.errors import DataError, LedgerError
from salus.common.sqlite import open_sqlite
from salus.privacy.dp.accounting import Release, epsilon, renyi_epsilon
from salus.privacy.dp.plan import Plan

SECRET = b"s" * 16
PLAN = Plan("local", 2.0, 20.0, 0.1, 10, 4, 3.0, 1e-5)
COST = epsilon(PLAN.reserved(), 1e-5)
RAMP = np.arange(16, dtype=np.int16).reshape(4, 4)


def ledger(folder: Path) -> Ledger:
    return Ledger(folder / "ledger.sqlite", ManualClock(datetime(2026, 1, 1, tzinfo=UTC)))


def budget(most: float) -> Budget:
    return Budget(epsilon=most, delta=1e-5, period_days=100)


def catalogue_with(folder: Path, *patients: str) -> Catalogue:
    catalogue = Catalogue(folder / "c.sqlite", SECRET)
    records = [ImageRecord(patient, "s", f"k{n}", "0") for n, patient in enumerate(patients)]
    catalogue.add_records("toy", "dicom", folder, SourceOptions(), records, declare=False)
    return catalogue


def decided(catalogue: Catalogue, **splits: str) -> None:
    with open_sqlite(Path(str(catalogue._engine.url.database))).begin() as connection:
        rows = [
            {"patient": catalogue.pseudonym("patient", patient), "split": split} for patient, split in splits.items()
        ]
        connection.execute(SPLITS.insert(), rows)


def test_a_merged_patient_has_spent_what_both_have(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    book.reserve("job-a", "x", frozenset({"a"}), PLAN, 1, budget(100))
    book.reserve("job-b", "x", frozenset({"b"}), PLAN, 1, budget(100))
    room = budget(2.5 * COST)
    assert book.allows(frozenset({"a"}), PLAN, room)  # must change below
    book.merge({"b": "a"})
    for patient in ("a", "b"):
        (group,) = book.groups(room, frozenset({patient}))
        assert group.jobs == ("job-a", "job-b")
        assert group.epsilon(1e-5) == epsilon([*PLAN.reserved(), *PLAN.reserved()], 1e-5) > COST
    (everybody,) = book.groups(room)
    assert everybody.patients == 1
    tight = budget(1.01 * epsilon([*PLAN.reserved(), *PLAN.reserved()], 1e-5))
    assert not book.allows(frozenset({"a"}), PLAN, tight)
    assert book.allows(frozenset({"c"}), PLAN, tight)
    book.merge({"b": "a"})  # known already
    ledger(tmp_path).verify()


def test_one_person_who_was_two_patients_of_a_job_is_a_group_and_costs_more_than_twice(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    book.reserve("job", "x", frozenset({"a", "b", "c"}), PLAN, 1, budget(100))
    book.merge({"b": "a"})
    (group,) = book.groups(budget(100), frozenset({"a"}))
    spent = group.epsilon(1e-5)
    assert group.jobs == ("job", "job")
    assert spent > epsilon([*PLAN.reserved(), *PLAN.reserved()], 1e-5) > COST
    (other,) = book.groups(budget(100), frozenset({"c"}))
    assert other.epsilon(1e-5) == COST


@given(
    noise=st.floats(1.0, 8.0), rate=st.sampled_from([0.01, 0.1, 0.6, 1.0]), places=st.integers(2, 4),
    count=st.integers(1, 50),
)  # fmt: skip
def test_a_release_in_several_places_costs_at_least_as_much_as_several_releases(
    noise: float, rate: float, places: int, count: int
) -> None:
    one = Release(mechanism="gaussian", noise_multiplier=noise, sampling_rate=rate, count=count)
    several = in_places(one, places)
    assert several.sampling_rate >= 1 - (1 - rate) ** places - 1e-12
    assert several.noise_multiplier == pytest.approx(noise / places)
    assert in_places(one, 1) == one
    assert renyi_epsilon([several], 1e-5) >= renyi_epsilon([one.times(count * places)], 1e-5) * (1 - 1e-6)


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh")), max_size=12))
def test_persons_are_what_pairs_connect(pairs: list[tuple[str, str]]) -> None:
    found = persons(pairs)
    groups = {frozenset({one}) for pair in pairs for one in pair}
    for one, other in pairs:
        joined = frozenset().union(*(group for group in groups if one in group or other in group))
        groups = {group for group in groups if not group & joined} | {joined}
    assert set(found) == {one for pair in pairs for one in pair}
    assert {frozenset(p for p in found if found[p] == found[q]) for q in found} == groups


def test_a_data_set_that_still_holds_both_is_refused(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    book.merge({"b": "a"})
    assert not book.allows(frozenset({"a", "b"}), PLAN, budget(100))
    with pytest.raises(LedgerError, match="merge-patients"):
        book.reserve("job", "x", frozenset({"a", "b"}), PLAN, 1, budget(100))


@pytest.mark.parametrize(
    ("splits", "expected", "crossed"),
    [
        ({"a": "test", "b": "train"}, "train", 1), ({"a": "train", "b": "val"}, "train", 1),
        ({"a": "val", "b": "test"}, "val", 0), ({"b": "test"}, "test", 0), ({"a": "train"}, "train", 0),
    ],
)  # fmt: skip
def test_who_was_trained_on_never_becomes_a_test_patient(
    tmp_path: Path, splits: dict[str, str], expected: str, crossed: int
) -> None:
    catalogue = catalogue_with(tmp_path, "a", "b", "c")
    decided(catalogue, **splits)
    a, b = (catalogue.pseudonym("patient", name) for name in "ab")
    done = catalogue.merges.merge([(a, b)])
    assert (done.new, done.images, done.crossed) == (1, 1, crossed)
    assert catalogue.splits("toy", 0.5)[a] == expected
    assert catalogue.patients("toy") == {a, catalogue.pseudonym("patient", "c")}
    assert catalogue.merges.merge([(a, b), (b, a)]).known == 2  # again, and the other way round


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")), max_size=10))
def test_merges_never_point_at_a_merged_patient(pairs: list[tuple[str, str]]) -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    from salus.client.data.merging import apply
    from salus.client.data.schema import MERGES, METADATA

    METADATA.create_all(engine)
    with engine.connect() as connection:
        apply(connection, pairs[:5])
        apply(connection, pairs[5:])
        found = {row.patient: row.kept for row in connection.execute(sa.select(MERGES))}
    expected = persons((one, other) for one, other in pairs if one != other)
    assert not set(found) & set(found.values())
    for one in expected:
        for other in expected:
            same = found.get(one, one) == found.get(other, other)
            assert same == (expected[one] == expected[other])


SLOW_MERGE = """
import sys, time
from pathlib import Path
from salus.client.data.catalogue import Catalogue
catalogue = Catalogue(Path(sys.argv[1]) / "c.sqlite", b"s" * 16)
def pairs():
    for n in range(100):
        yield catalogue.pseudonym("patient", f"a{n}"), catalogue.pseudonym("patient", f"b{n}")
        print("merged", flush=True)
    sys.stdin.read()
catalogue.merges.merge(pairs())
"""


def test_killed_in_the_middle_nothing_is_merged(tmp_path: Path) -> None:
    catalogue = catalogue_with(tmp_path, *(f"{side}{n}" for side in "ab" for n in range(100)))
    process = start([sys.executable, "-c", SLOW_MERGE, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    for _ in range(50):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stdin.close()
    assert catalogue.merges.all() == {}
    assert len(catalogue.patients("toy")) == 200


@pytest.mark.parametrize("door", ["add", "import"])
def test_the_command_merges_what_is_there_and_what_comes(tmp_path: Path, door: str) -> None:
    site, data = tmp_path / "site", tmp_path / "data"
    data.mkdir()
    init_site(site, "S")
    for number, patient in enumerate(("P1", "OLD-1", "P2")):
        facts = {"PatientID": patient, "StudyInstanceUID": f"1.2.{number}", "InstanceNumber": number}
        path = data / f"{number}.dcm"
        if door == "add":
            write(path, RAMP + number, **facts)
        else:
            path.write_bytes(file_bytes(image(**facts)))
    (data / "labels.csv").write_text("PatientID,label\nP1,a\nOLD-1,b\nP2,b\n")
    arguments = ["dataset", door, str(site), "x", str(data), "--labels", str(data / "labels.csv"), "--yes"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    same = tmp_path / "same.csv"
    same.write_bytes("OtherPatientID;PatientID\r\n OLD-1 ;P1\r\nGONE;P2\r\nP2;P2 \r\n".encode("utf-16"))
    for new in (2, 0):
        result = CliRunner().invoke(app, ["dataset", "merge-patients", str(site), str(same), "--json"])
        assert result.exit_code == 0, result.output
        assert f'"new": {new}' in result.output
    catalogue = open_catalogue(site)
    assert catalogue.summary("x").patients == 2
    one = catalogue.pseudonym("patient", "P1")
    assert sum(item.patient == one for item in catalogue.images("x")) == 2
    if door == "add":
        catalogue.remove("x")
    assert CliRunner().invoke(app, arguments).exit_code == 0  # a later registration, and a later import
    assert open_catalogue(site).summary("x").patients == 2
    if door == "import":
        shown = CliRunner().invoke(app, ["dataset", "patient", str(site), one])
        assert shown.output.split() == ["P1", "OLD-1"]
    book = open_ledger(site, SystemClock())
    assert not book.allows(frozenset({one, catalogue.pseudonym("patient", "OLD-1")}), PLAN, budget(100))


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "PatientID,OtherPatientID\n1,\n", "PatientID,OtherPatientID\n \0,2\n"]
)
def test_files_that_cannot_be_used_name_nobody(tmp_path: Path, text: str) -> None:
    init_site(tmp_path / "site", "S")
    (tmp_path / "same.csv").write_text(text)
    arguments = ["dataset", "merge-patients", str(tmp_path / "site"), str(tmp_path / "same.csv")]
    assert isinstance(CliRunner().invoke(app, arguments).exception, DataError)


@pytest.mark.parametrize("door", ["add", "import"])
def test_what_a_padded_identifier_has_spent_under_its_former_pseudonym_is_not_forgotten(
    tmp_path: Path, door: str
) -> None:
    site, data = tmp_path / "site", tmp_path / "data"
    data.mkdir()
    init_site(site, "S")
    secret = (site / "keys" / "pseudonym.key").read_bytes()
    if door == "add":
        write(data / "a.dcm", RAMP, PatientID=" 77")
    else:
        (data / "a.dcm").write_bytes(file_bytes(image(PatientID=" 77")))
    (data / "labels.csv").write_text("PatientID,label\n77,a\n")
    former = literal_pseudonym(secret, "patient", " 77")
    book = open_ledger(site, SystemClock())
    book.reserve("before", "x", frozenset({former}), PLAN, 1, budget(100))
    arguments = ["dataset", door, str(site), "x", str(data), "--labels", str(data / "labels.csv"), "--yes"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    catalogue = open_catalogue(site)
    now = catalogue.pseudonym("patient", "77")
    assert catalogue.patients("x") == {now} != {former}
    book.merge(catalogue.merges.all())
    (group,) = book.groups(budget(100), frozenset({now}))
    assert group.jobs == ("before",)

"""Whoever has withdrawn is in no data set, whatever is registered, imported or merged before and after."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.test_release_fixtures import RELEASES, copied, facts

from salus.client.data.catalogue import Catalogue
from salus.client.data.records import ImageRecord
from salus.client.data.sources.settings import SourceOptions
from salus.client.data.uses import UsedJob
from salus.common.errors import DataError, Refused
from salus.privacy.contribution import DataKind

SECRET = b"s" * 16
HEAD = "0/" + "0" * 64
PEOPLE = tuple("abcde")


def opened(folder: Path) -> Catalogue:
    return Catalogue(folder / "c.sqlite", SECRET)


def register(catalogue: Catalogue, folder: Path, name: str, *patients: str) -> None:
    records = [ImageRecord(patient, "s", f"{name}/{n}", "0") for n, patient in enumerate(patients)]
    catalogue.add_records(name, "dicom", folder, SourceOptions(), records, replace=True, declare=False)


def name_of(catalogue: Catalogue, patient: str) -> str:
    return catalogue.pseudonym("patient", patient)


def withdraw(catalogue: Catalogue, *patients: str) -> int:
    return catalogue.withdrawals.withdraw([name_of(catalogue, p) for p in patients], HEAD)


def shown(catalogue: Catalogue, name: str) -> set[str]:
    """Return the patients of a data set, which every way of reading it must agree on."""
    found = set(catalogue.patients(name))
    assert {image.patient for image in catalogue.images(name)} == found
    assert {fact.patient for fact in catalogue.facts(name)} == found
    assert set(catalogue.splits(name, 0.2)) == found
    assert catalogue.summary(name).patients == len(found)
    return found


def test_a_patient_is_set_aside_in_every_data_set_now_and_later(tmp_path: Path) -> None:
    catalogue = opened(tmp_path)
    register(catalogue, tmp_path, "one", "a", "b", "a")
    register(catalogue, tmp_path, "two", "a", "c")
    assert withdraw(catalogue, "a") == 1
    assert shown(catalogue, "one") == {name_of(catalogue, "b")}
    assert shown(catalogue, "two") == {name_of(catalogue, "c")}
    register(catalogue, tmp_path, "three", "a", " a ", "d")
    register(catalogue, tmp_path, "one", "a", "b")
    assert shown(catalogue, "three") == {name_of(catalogue, "d")}
    assert shown(catalogue, "one") == {name_of(catalogue, "b")}
    assert catalogue.unused("three") == {"withdrawn": 2}
    assert [found.key for found in catalogue.quarantined("one")] == ["one/0"]
    assert catalogue.withdrawals.all()[0].datasets == ("one", "two")
    assert withdraw(catalogue, "a") == 1, "a second withdrawal is the same one"


def test_merging_withdraws_both(tmp_path: Path) -> None:
    catalogue = opened(tmp_path)
    register(catalogue, tmp_path, "one", "a", "b", "c", "d")
    withdraw(catalogue, "b")
    pairs = [(name_of(catalogue, "a"), name_of(catalogue, "b")), (name_of(catalogue, "c"), name_of(catalogue, "a"))]
    catalogue.merges.merge(pairs)
    assert shown(catalogue, "one") == {name_of(catalogue, "d")}
    assert catalogue.withdrawals.names() == {name_of(catalogue, p) for p in "abc"}
    assert catalogue.withdrawals.all()[0].named == {name_of(catalogue, "b")}, "what the paper means does not change"


def test_withdrawing_one_identifier_withdraws_all_that_are_merged_with_it(tmp_path: Path) -> None:
    catalogue = opened(tmp_path)
    register(catalogue, tmp_path, "one", "a", "b", "c")
    catalogue.merges.merge([(name_of(catalogue, "a"), name_of(catalogue, "b"))])
    withdraw(catalogue, "b")
    assert shown(catalogue, "one") == {name_of(catalogue, "c")}
    register(catalogue, tmp_path, "two", "b", "a", "c")
    assert shown(catalogue, "two") == {name_of(catalogue, "c")}


def test_a_data_set_of_which_nobody_is_left_says_so_and_cannot_be_registered(tmp_path: Path) -> None:
    catalogue = opened(tmp_path)
    register(catalogue, tmp_path, "one", "a")
    withdraw(catalogue, "a")
    with pytest.raises(DataError, match="all of its patients have withdrawn"):
        catalogue.images("one")
    with pytest.raises(DataError, match="all of its patients have withdrawn"):
        register(catalogue, tmp_path, "two", "a")
    assert catalogue.names() == ["one"]


def test_a_site_that_has_withdrawn_registers_nothing(tmp_path: Path) -> None:
    catalogue = opened(tmp_path)
    register(catalogue, tmp_path, "one", "a", "b")
    number = catalogue.withdrawals.withdraw((), HEAD, who="site")
    assert catalogue.withdrawals.withdraw((), HEAD, who="site") == number
    assert catalogue.patients("one") == frozenset()
    with pytest.raises(Refused, match="has withdrawn"):
        register(catalogue, tmp_path, "two", "c")


@pytest.mark.parametrize("who", ["patient", "site"])
def test_a_withdrawal_while_a_data_set_is_being_read(tmp_path: Path, who: str) -> None:
    """A scan may take hours; what counts is who has withdrawn when it is registered."""
    catalogue, other = opened(tmp_path), opened(tmp_path)

    def scan() -> Iterator[ImageRecord]:
        yield ImageRecord("a", "s", "1", "0")
        other.withdrawals.withdraw([name_of(other, "a")] if who == "patient" else (), HEAD, who=who)
        yield ImageRecord("b", "s", "2", "0")

    if who == "site":
        with pytest.raises(Refused, match="has withdrawn"):
            catalogue.add_records("one", "dicom", tmp_path, SourceOptions(), scan(), declare=False)
        assert catalogue.names() == []
    else:
        catalogue.add_records("one", "dicom", tmp_path, SourceOptions(), scan(), declare=False)
        assert shown(catalogue, "one") == {name_of(catalogue, "b")}


STEP = st.one_of(
    st.tuples(st.just("register"), st.sampled_from(["one", "two"]), st.sets(st.sampled_from(PEOPLE), min_size=1)),
    st.tuples(st.just("merge"), st.sampled_from(PEOPLE), st.sampled_from(PEOPLE)),
    st.tuples(st.just("withdraw"), st.sampled_from(PEOPLE), st.none()),
)


@given(st.lists(STEP, max_size=9))
@settings(max_examples=12, deadline=None)
def test_in_any_order_of_steps(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, object]]) -> None:
    """The oracle keeps sets of letters: who is one person with whom, and which persons have withdrawn."""
    folder = tmp_path_factory.mktemp("any")
    catalogue = opened(folder)
    person = {letter: {letter} for letter in PEOPLE}
    gone: set[str] = set()
    held: dict[str, set[str]] = {}
    for kind, first, second in steps:
        if kind == "register":
            assert isinstance(second, set)
            left = {letter for letter in second if not person[letter] & gone}
            try:
                register(catalogue, folder, first, *sorted(second))
                assert left
                held[first] = second
            except DataError:
                assert not left, "only a data set of which nobody is left is refused"
        elif kind == "merge" and first != second:
            joined = person[first] | person[str(second)]
            person |= dict.fromkeys(joined, joined)
            catalogue.merges.merge([(name_of(catalogue, first), name_of(catalogue, str(second)))])
        elif kind == "withdraw":
            gone |= person[first]
            withdraw(catalogue, first)
    gone = {letter for letter in PEOPLE if person[letter] & gone}
    named = {name_of(catalogue, letter): letter for letter in PEOPLE}
    assert {named[name] for name in catalogue.withdrawals.names()} == gone
    for name, letters in held.items():
        found = {named[patient] for patient in catalogue.patients(name)}
        assert not found & gone
        assert {frozenset(person[letter]) for letter in found} == {
            frozenset(person[letter]) for letter in letters - gone
        }


def test_a_gate_sees_what_another_connection_has_written(tmp_path: Path) -> None:
    catalogue, other = opened(tmp_path), opened(tmp_path)
    register(catalogue, tmp_path, "one", "a", "b")
    gate = catalogue.withdrawals.gate()
    gate.require([name_of(catalogue, "a")])
    withdraw(other, "a")
    assert gate.gone() == {name_of(catalogue, "a")}
    gate.require([name_of(catalogue, "b")])
    with pytest.raises(DataError, match="withdrawn"):
        gate.require([name_of(catalogue, "b"), name_of(catalogue, "a")])


def test_uses_keep_the_first_round_and_all_kinds(tmp_path: Path) -> None:
    catalogue = opened(tmp_path)
    job = UsedJob("j-0001/ab", "one/0", noised=False, protected=True)
    catalogue.uses.note(job, {"p": DataKind.TRAINING}, 3)
    catalogue.uses.note(job, {"p": DataKind.TRAINING, "q": DataKind.VALIDATION}, 4)
    (use,) = catalogue.uses.of(["p"])
    assert (use.round, use.kind) == (3, DataKind.TRAINING)
    (both,) = catalogue.uses.of(["p", "q"])
    assert (both.round, both.kind) == (3, DataKind.TRAINING | DataKind.VALIDATION)
    (every,) = catalogue.uses.every()
    assert (every.round, every.kind) == (3, DataKind.TRAINING | DataKind.VALIDATION)
    assert catalogue.uses.ended("one/0") == (False, False)
    catalogue.withdrawals.withdraw(["q"], HEAD)
    assert catalogue.uses.ended("one/0") == (True, False)
    assert catalogue.uses.ended("one/1") == (False, False)


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_the_catalogue_of_an_earlier_release_can_withdraw(release: Path, tmp_path: Path) -> None:
    catalogue = Catalogue(copied(release, "catalogue.sqlite", tmp_path), facts(release)["catalogue"]["secret"].encode())
    (name,) = catalogue.names()
    before = catalogue.patients(name)
    patient = min(before)
    catalogue.withdrawals.withdraw([patient], HEAD)
    assert catalogue.patients(name) == before - {patient}
    assert catalogue.uses.of([patient]) == []


def test_many_patients_at_once(tmp_path: Path) -> None:
    catalogue = opened(tmp_path)
    people = [f"p{number}" for number in range(300)]
    register(catalogue, tmp_path, "one", *people, "a")
    catalogue.withdrawals.withdraw([name_of(catalogue, person) for person in people], HEAD)
    assert len(catalogue.images("one")) == 1
    assert catalogue.unused("one") == {"withdrawn": 300}

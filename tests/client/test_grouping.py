"""Subgroups at a site: which groups are hidden, and how far one patient moves the sums with noise."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import job_text, tiny_job
from tests.people import with_subgroups

from salus.client.grouping import GroupSums, patient_vector
from salus.common.job import parse_job
from salus.common.subgroups import groups_of
from salus.common.subgroups.base import Groups
from salus.common.subgroups.exact import GroupTotals
from salus.privacy.dp.plan import sensitivity_l2

SEX_AND_AGE = groups_of(parse_job(with_subgroups(job_text(), '["sex", "age"]', "age_edges = [40, 70]")))
VALUES = [4, 4]  # of sex, and of age with its unknown
ROW = 5


@dataclass
class People:
    """Stands for a `TensorSet`: the patient and the groups of each image."""

    patients: list[int]
    groups: list[list[int]]

    def by_patient(self) -> list[list[int]]:
        return [[i for i, p in enumerate(self.patients) if p == patient] for patient in sorted(set(self.patients))]

    def places(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.tensor([self.groups[int(row)] for row in rows], dtype=torch.int64).reshape(len(rows), 2)


@st.composite
def people(draw: st.DrawFn) -> People:
    count = draw(st.integers(0, 40))
    owners = draw(st.lists(st.integers(0, 25), min_size=count, max_size=count))
    each = st.tuples(st.integers(0, 3), st.integers(4, 7))
    return People(owners, [list(draw(each)) for _ in range(count)])


def totals_of(found: People, least: int) -> tuple[GroupTotals, torch.Tensor]:
    rows = torch.rand(len(found.patients), ROW, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sums = GroupSums(SEX_AND_AGE, ROW)
    for part in torch.split(torch.arange(len(rows)), 7):
        sums.add(rows[part], found.places(part))
    return sums.totals(found, least), rows  # type: ignore[arg-type]


@given(people(), st.integers(1, 8))
def test_every_figure_and_what_is_hidden_together_is_of_enough_patients(found: People, least: int) -> None:
    totals, rows = totals_of(found, least)
    assert totals.everyone == len(set(found.patients))
    for block in SEX_AND_AGE.blocks.values():
        members = {
            group: {p for p, mine in zip(found.patients, found.groups, strict=True) if group in mine}
            for group in range(block.start, block.stop)
        }
        shown = [group for group in members if totals.patients[group] > 0]
        for group in members:
            images = [i for i, mine in enumerate(found.groups) if group in mine]
            wanted = rows[images].sum(0).numpy() if group in shown else np.zeros(ROW)
            assert np.allclose(totals.rows[group], wanted)
            assert totals.patients[group] in (0, len(members[group]))
            assert group not in shown or len(members[group]) >= least
        hidden = set().union(*(members[group] for group in members if group not in shown))
        # The total minus the shown groups is of all hidden ones: enough, or nobody; or nothing at all is shown.
        assert not hidden or len(hidden) >= least or not shown


def test_a_single_small_group_takes_the_next_smallest_with_it() -> None:
    found = People(list(range(17)), [[0, 4]] * 10 + [[1, 4]] * 6 + [[2, 4]])
    totals, _ = totals_of(found, 5)
    assert totals.patients.tolist() == [10, 0, 0, 0, 17, 0, 0, 0]
    assert totals_of(found, 1)[0].patients.tolist() == [10, 6, 1, 0, 17, 0, 0, 0]


@st.composite
def patient(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """One patient's rows, each of norm at most 1 or broken, and groups."""
    images = draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    rows = torch.randn(images, ROW, dtype=torch.float64, generator=generator)
    rows /= rows.norm(dim=1, keepdim=True) * draw(st.sampled_from([1.0, 1.5, 1e-3]))
    if draw(st.booleans()):
        rows[0, 0] = draw(st.sampled_from([float("nan"), float("inf"), 1e300]))
    groups = torch.tensor([[draw(st.integers(0, 3)), draw(st.integers(4, 7))] for _ in range(images)])
    return rows, groups


@given(patient())
def test_no_patient_adds_more_than_norm_one(one: tuple[torch.Tensor, torch.Tensor]) -> None:
    vector = patient_vector(*one, SEX_AND_AGE)
    assert len(vector) == (1 + SEX_AND_AGE.count) * ROW
    assert torch.isfinite(vector).all()
    assert float(vector.norm()) <= 1 + 1e-12
    assert float(patient_vector(*one, Groups({})).norm()) <= 1 + 1e-12


def test_the_bound_is_reached_and_valid_rows_are_never_clipped() -> None:
    row = torch.zeros(1, ROW, dtype=torch.float64)
    row[0, 2] = 1.0
    vector = patient_vector(row, torch.tensor([[1, 5]]), SEX_AND_AGE) * SEX_AND_AGE.norm_l2
    blocks = vector.reshape(-1, ROW)
    assert float(vector.norm()) == pytest.approx(SEX_AND_AGE.norm_l2)
    assert blocks[:, 2].tolist() == pytest.approx([1, 0, 1, 0, 0, 0, 1, 0, 0])  # all, then the groups 1 and 5
    assert float(blocks.sum()) == pytest.approx(3)


def largest_change(norm_l2: float) -> float:
    """Return the largest change of a site's sum by one patient, if rows are divided by this norm and nothing else."""
    largest = 0.0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(1, ROW, dtype=torch.float64, generator=generator)
        groups = torch.tensor([[seed % 4, 4 + seed % 3]])
        sums = GroupSums(SEX_AND_AGE, ROW)
        sums.add(rows / rows.norm(), groups)
        part = torch.cat([rows[0] / rows.norm(), sums.rows.flatten()]) / norm_l2
        largest = max(largest, float(part.norm()))
    return largest


@pytest.mark.parametrize(("norm_l2", "enough"), [(3**0.5, True), (2**0.5, False), (1.0, False)])
def test_a_smaller_norm_would_break_the_guarantee(norm_l2: float, enough: bool) -> None:
    """The oracle does not clip, so it tells a norm that is too small from the right one."""
    bound = sensitivity_l2(tiny_job(privacy='noise = "local"'), "evaluate")
    assert (largest_change(norm_l2) <= bound) == enough
    assert SEX_AND_AGE.norm_l2 == pytest.approx(3**0.5)

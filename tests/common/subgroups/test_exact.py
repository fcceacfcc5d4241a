"""Sums of subgroups on their way through the vector, and their results for people."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import job_text
from tests.people import with_subgroups

from salus.common.estimates import Estimate
from salus.common.job import parse_job
from salus.common.subgroups import groups_of
from salus.common.subgroups.base import Groups
from salus.common.subgroups.exact import GroupTotals, from_entries, grouped_size, nobody, to_entries
from salus.common.subgroups.results import (
    HIDDEN,
    AttributeResult,
    GroupResult,
    brief_table_of,
    results_from_plain,
    results_to_plain,
    table_of,
    without_figures,
)

GROUPS = groups_of(parse_job(with_subgroups(job_text(), '["sex", "age"]', "age_edges = [50]")))
ROW, BOUND = 3, 50.0


@given(st.lists(st.integers(0, 2**31), max_size=4))
def test_the_sum_over_sites_is_the_sum_of_their_numbers(seeds: list[int]) -> None:
    sites = [nobody(GROUPS, ROW)]
    for seed in seeds:
        random = np.random.default_rng(seed)
        counts = random.integers(0, 50, GROUPS.count).astype(float)
        sites.append(GroupTotals(random.random((GROUPS.count, ROW)) * counts[:, None], counts, float(counts.sum())))
    entries = [to_entries(site, BOUND) for site in sites]
    assert all(len(part) == grouped_size(GROUPS, ROW) for part in entries)
    assert all((part >= 0).all() and (part <= 1).all() for part in entries)
    found = from_entries(np.sum(entries, axis=0), GROUPS, ROW, BOUND)
    assert np.allclose(found.rows, np.sum([site.rows for site in sites], axis=0))
    assert np.array_equal(found.patients, np.sum([site.patients for site in sites], axis=0))
    assert found.everyone == sum(site.everyone for site in sites)


def test_without_subgroups_there_is_nothing() -> None:
    none = Groups({})
    assert grouped_size(none, ROW) == 0
    assert len(to_entries(nobody(none, ROW), BOUND)) == 0


RESULTS = (
    AttributeResult(
        "sex", 7, (GroupResult("female", 12, {"auc": 0.9, "loss": 0.1}), GroupResult("male", 0, {}))
    ),
    AttributeResult(
        "age", None, (GroupResult("0-49", None, {"auc": Estimate(value=0.8, standard_error=0.1, noise_error=0.05)}),)
    ),
)  # fmt: skip


def test_results_are_the_same_after_json_and_invalid_ones_are_left_out() -> None:
    plain = json.loads(json.dumps(results_to_plain(RESULTS)))
    assert results_from_plain(plain) == RESULTS
    assert plain["sex"]["groups"]["female"]["metrics"]["auc"] == 0.9
    for strange in (None, [], "x", {"sex": 3}, {"sex": {"groups": [1]}}, {"sex": {"groups": {"female": None}}}):
        assert all(not result.groups for result in results_from_plain(strange))


def test_the_table_names_hidden_groups_and_how_many_patients_are_in_them() -> None:
    columns, rows = table_of(RESULTS, most=1)
    assert columns == ["subgroup", "patients", "auc"]
    assert rows[0] == ["sex: female", "12", "0.900"]
    assert rows[1] == ["sex: male", "", HIDDEN]
    assert rows[2] == ["sex: hidden", "7", ""]
    assert rows[3][2] == "0.80 +- 0.10"


def test_a_terminal_lists_groups_without_figures_below_the_table() -> None:
    columns, rows = brief_table_of(RESULTS)
    assert columns == ["subgroup", "patients", "auc"]
    assert [row[0] for row in rows] == ["sex: female", "sex: hidden", "age: 0-49"]
    assert without_figures(RESULTS) == "Without figures, as nobody is in the group or it is hidden: sex: male."
    assert without_figures(RESULTS[1:]) == ""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salus.common.errors import ConfigError
from salus.simulations.partitioners import PARTITIONERS, Patient, divide

PATIENTS = [Patient(f"p{i}", str(i % 3), f"hospital-{i % 4}") for i in range(120)]


@given(st.sampled_from(["iid", "dirichlet:0.1", "dirichlet", "quantity:0.5", "group"]), st.integers(0, 50))
def test_every_patient_is_at_exactly_one_site_and_no_site_is_empty(spec: str, seed: int) -> None:
    sites = 4
    parts = divide(spec, PATIENTS, sites, seed)
    assert sorted(key for part in parts for key in part) == sorted(p.key for p in PATIENTS)
    assert all(parts)
    assert parts == divide(spec, PATIENTS, sites, seed)


def test_iid_sizes_differ_by_one_at_most() -> None:
    assert {len(part) for part in divide("iid", PATIENTS, 7, 0)} == {17, 18}


def test_groups_stay_together() -> None:
    for part in divide("group", PATIENTS, 4, 0):
        assert len({p.group for p in PATIENTS if p.key in part}) == 1


def skew(concentration: float) -> float:
    """Mean over seeds of the largest label share per site."""
    shares = []
    label = {p.key: p.label for p in PATIENTS}
    for seed in range(30):
        for part in divide(f"dirichlet:{concentration}", PATIENTS, 4, seed):
            counts = np.unique([label[key] for key in part], return_counts=True)[1]
            shares.append(counts.max() / counts.sum())
    return float(np.mean(shares))


def test_smaller_concentration_is_more_skewed() -> None:
    assert skew(0.1) > skew(1.0) + 0.1 > skew(100.0) + 0.2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("magic", "dirichlet, group, iid, quantity"),
        ("dirichlet:x", "Expected the partition 'dirichlet' to be TOML"),
        ("dirichlet:-1", "concentration: expected a number greater than 0"),
        ("quantity:nan", "finite|plain values"),
        ("quantity:inf", "finite|plain values"),
        ("dirichlet:concentratoin=1", "did you mean 'concentration'"),
        ("iid:3", "Expected nothing after 'iid'"),
    ],
)
def test_wrong_partitions_are_refused(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        divide(spec, PATIENTS, 4, 0)


def test_a_setting_may_be_named() -> None:
    assert divide("dirichlet:concentration=0.1", PATIENTS, 4, 0) == divide("dirichlet:0.1", PATIENTS, 4, 0)
    assert divide("dirichlet", PATIENTS, 4, 0) == divide("dirichlet:0.5", PATIENTS, 4, 0)


def test_impossible_partitions_are_refused() -> None:
    with pytest.raises(ConfigError, match="--sites 4"):
        divide("group", PATIENTS, 3, 0)
    with pytest.raises(ConfigError, match="patients"):
        divide("iid", PATIENTS[:2], 3, 0)
    assert PARTITIONERS.names() == ["dirichlet", "group", "iid", "quantity"]

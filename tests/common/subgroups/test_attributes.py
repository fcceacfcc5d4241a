"""Every attribute, the installed ones included: fixed values, and exactly one for any subject."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import job_text
from tests.people import with_subgroups

from salus.common.errors import JobError
from salus.common.job import Job, job_from_canonical, parse_job
from salus.common.job_schema import job_schema
from salus.common.subgroups import SUBGROUPS, groups_of
from salus.common.subgroups.base import Subject

NEEDED = {"site": "sites = [3, 1]\n"}


def job_of(*names: str, more: str = "") -> Job:
    listed = ", ".join(f'"{name}"' for name in names)
    return parse_job(with_subgroups(job_text(), f"[{listed}]", more + "".join(NEEDED.get(name, "") for name in names)))


def values_of(job: Job, info: dict[str, object], site: int = 1) -> list[str]:
    groups = groups_of(job)
    names = [value for attribute in groups.attributes.values() for value in attribute.values]
    return [names[place] for place in groups.of(Subject(info, site))]


ANYTHING = st.one_of(st.none(), st.text(), st.integers(), st.floats(), st.lists(st.floats(), max_size=3), st.booleans())


@pytest.mark.parametrize("name", SUBGROUPS.names())
@given(
    info=st.dictionaries(st.sampled_from(["sex", "age_years", "vendor", "rows"]), ANYTHING), site=st.integers(0, 10_000)
)
def test_whatever_a_file_says_there_is_exactly_one_value(name: str, info: dict[str, object], site: int) -> None:
    groups = groups_of(job_of(name))
    attribute = groups.attributes[name]
    assert 0 <= attribute.place(Subject(info, site)) < len(attribute.values) == len(set(attribute.values))
    assert 1 <= attribute.usual < len(attribute.values)


def test_the_values_of_a_subject_are_those_of_its_facts() -> None:
    job = job_of("sex", "age", "vendor", "site")
    assert values_of(job, {"sex": "F", "age_years": 17, "vendor": "GE"}) == ["female", "0-17", "GE", "site 1"]
    assert values_of(job, {"sex": "M", "age_years": 18, "vendor": "FUJI"}, 2) == [
        "male", "18-39", "other or unknown", "other sites",
    ]  # fmt: skip
    assert values_of(job, {"sex": "O", "age_years": 90, "vendor": "OTHER"}, 3)[:2] == ["other", "80 or more"]
    assert values_of(job, {}, 4) == ["unknown", "unknown", "other or unknown", "other sites"]


@given(st.lists(st.integers(1, 90), min_size=1, max_size=8, unique=True), st.integers(0, 90))
def test_a_band_of_age_says_what_it_holds(edges: list[int], years: int) -> None:
    (band,) = values_of(job_of("age", more=f"age_edges = {sorted(edges)}\n"), {"age_years": years})
    low, _, high = band.partition("-")
    if band.endswith("or more"):
        assert years >= max(edges) == int(band.split()[0])
    else:
        assert int(low) <= years <= int(high or low)


@pytest.mark.parametrize(
    ("subgroups", "more", "message"),
    [
        ('["sax"]', "", "age, sex, site, vendor"),
        ('["sex", "sex"]', "", "only once"),
        ('"sex"', "", "expected a list"),
        ('["sex"]', "age_edges = [3]", r'known only with subgroups = \["age"\]'),
        ('["age"]', "age_edges = [40, 18]", "ascending"),
        ('["age"]', "age_edges = [95]", "90"),
        ('["age"]', "age_edges = []", "expected 1 or more entries"),
        ('["vendor"]', 'vendors = ["SIMENS"]', "did you mean 'SIEMENS'"),
        ('["site"]', "", "missing key 'evaluation.sites'"),
        ('["site"]', "sites = [1, 1]", "only once"),
        ("[]", "min_patients = 3", "evaluation.subgroups is empty"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_the_reason(subgroups: str, more: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        parse_job(with_subgroups(job_text(), subgroups, more))


@pytest.mark.parametrize(
    ("privacy", "more", "message"),
    [
        ('noise = "local"\nevaluation_share = 0.0', "", "evaluation_share above 0"),
        ('noise = "local"', "min_patients = 3", "noise, and not the size of a group"),
    ],
)
def test_subgroups_that_would_not_be_evaluated_are_refused(privacy: str, more: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        parse_job(with_subgroups(job_text(privacy=privacy), more=more))


def test_a_signed_job_keeps_its_subgroups() -> None:
    job = job_of("vendor", "site", "age")
    assert job_from_canonical(job.canonical_bytes()).evaluation == job.evaluation
    before = job.canonical_bytes().replace(b'"evaluation":', b'"evaluations":')
    with pytest.raises(JobError, match="evaluation"):
        job_from_canonical(before)


def test_a_job_that_was_signed_before_there_were_subgroups_has_none() -> None:
    job = parse_job(job_text())
    lacking = job.canonical_bytes().replace(b'"evaluation":{"min_patients":5,"subgroups":[]},', b"")
    assert lacking != job.canonical_bytes()
    opened = job_from_canonical(lacking)
    assert opened.evaluation.subgroups == ()
    assert opened.canonical_bytes() == lacking
    assert groups_of(opened).count == 0


def test_an_editor_is_offered_every_attribute_and_its_keys() -> None:
    section = job_schema()["$defs"]["Evaluation"]
    (table,) = section["allOf"][0]["oneOf"]
    assert table["properties"]["subgroups"]["items"]["enum"] == SUBGROUPS.names()
    assert {"age_edges", "vendors", "sites"} <= table["properties"].keys()
    assert "min_patients" in section["properties"]
    assert table["required"] == []

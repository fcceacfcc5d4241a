"""Whole simulated jobs that evaluate in subgroups, against a computation over all validation images in one place."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.builders import job_text
from tests.cli import salus
from tests.people import OPTIONS, with_subgroups, write_people

from salus.client.data.loading import Memory, local_data
from salus.client.performance import Performance
from salus.common.estimates import NOTHING, Estimate
from salus.common.job import Job, parse_job
from salus.common.models import build_model
from salus.common.subgroups import groups_of
from salus.common.tasks import make_task
from salus.common.vectors import layout_of, write_parameters
from salus.privacy.noise_in_sum import noise_in_sum
from salus.privacy.shapes import shape_of
from salus.simulations.simulate import SimulationResult, simulate
from salus.simulations.virtual import open_catalogue

CPU = Performance(device="cpu", threads=1)
SITES, LEAST = 5, 4
PLAIN = {"protection": "masking", "training": "validation_fraction = 0.5", "rounds": 2, "min_sites": 5}


def run(folder: Path, job: Job, people: Path, sites: int = SITES) -> SimulationResult:
    return simulate(
        job, people, sites=sites, partition="iid", seed=0, folder=folder, options=OPTIONS, performance=CPU
    )  # fmt: skip


def band(age: int | None) -> str:
    return "unknown" if age is None else "0-29" if age < 30 else "30-59" if age < 60 else "60 or more"


SEX = {"F": "female", "M": "male", "O": "other", None: "unknown"}


def hidden_groups(members: dict[str, set[str]]) -> set[str]:
    """Return the groups that a site must hide, as the documentation says it."""
    hidden = {name for name, who in members.items() if len(who) < LEAST}
    while hidden and len(set().union(*(members[name] for name in hidden))) < LEAST and len(hidden) < len(members):
        hidden.add(min((n for n in members if n not in hidden), key=lambda n: len(members[n])))
    return hidden


def in_one_place(folder: Path, job: Job, model: Path) -> tuple[dict, dict]:
    """Return the number of patients and the accuracy of each group, computed image by image from the sites' own data."""
    task, network = make_task(job.task), build_model(job.task, 0)
    layout, tensors = layout_of(network), load_file(model)
    write_parameters(network, layout, layout.flatten({spec.name: tensors[spec.name] for spec in layout.specs}))
    network.eval()
    patients: dict[tuple[str, str], int] = defaultdict(int)
    right: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for site in range(1, SITES + 1):
        catalogue = open_catalogue(folder, site)
        facts = {
            image.key: fact.info
            for image, fact in zip(catalogue.images("toy"), catalogue.facts("toy"), strict=True)
        }  # fmt: skip
        data = local_data(catalogue, job, task, Memory(2**24), site=site).validation
        members: dict[tuple[str, str], set[str]] = defaultdict(set)
        hits: dict[tuple[str, str], list[bool]] = defaultdict(list)
        for place, item in enumerate(data._items):
            info = facts[item.image.key]
            batch = data.batch(torch.tensor([place]))
            hit = int(network(batch["image"]).argmax()) == int(batch["label"])
            for key in (("sex", SEX[info.get("sex")]), ("age", band(info.get("age_years"))), ("site", f"site {site}")):
                members[key].add(item.image.patient)
                hits[key].append(hit)
        for attribute in ("sex", "age", "site"):
            mine = {name: who for (of, name), who in members.items() if of == attribute}
            for name in set(mine) - hidden_groups(mine):
                patients[attribute, name] += len(mine[name])
                right[attribute, name] += hits[attribute, name]
    return dict(patients), {key: float(np.mean(hits)) for key, hits in right.items()}


def test_subgroups_are_what_all_data_in_one_place_give_without_the_hidden_groups(tmp_path: Path) -> None:
    text = with_subgroups(
        job_text(**PLAIN),  # type: ignore[arg-type]
        '["sex", "age", "site"]',
        f"min_patients = {LEAST}\nage_edges = [30, 60]\nsites = [1, 2, 3, 4, 5]",
    )
    job = parse_job(text)
    people = write_people(tmp_path / "people", patients=160, others=6)
    result = run(tmp_path / "run", job, people)
    patients, accuracy = in_one_place(tmp_path / "run", job, result.model)
    found = {(result.attribute, group.value): group for result in result.subgroups for group in result.groups}
    assert {key: group.patients for key, group in found.items() if group.patients} == patients
    for key, share in accuracy.items():
        assert found[key].metrics["accuracy"] == pytest.approx(share, abs=1e-3), key
    assert found["sex", "other"].metrics == {}, "too few at every site"
    by_name = {result.attribute: result for result in result.subgroups}
    assert by_name["sex"].hidden
    assert by_name["sex"].hidden >= 6
    assert by_name["site"].hidden == 0
    everyone = sum(group.patients or 0 for group in by_name["site"].groups)
    assert sum(group.patients or 0 for group in by_name["sex"].groups) + by_name["sex"].hidden == everyone
    plain = json.loads(json.dumps(result.to_json()))
    assert plain["subgroups"]["sex"]["groups"]["female"]["patients"] == patients["sex", "female"]


def test_a_job_without_subgroups_has_none_in_its_result(tmp_path: Path) -> None:
    people = write_people(tmp_path / "people", patients=100)
    result = run(tmp_path / "run", parse_job(job_text(**{**PLAIN, "rounds": 1})), people)  # type: ignore[arg-type]
    assert result.subgroups == ()
    assert "subgroups" not in result.to_json()


@pytest.mark.slow  # every process accounts for the noise; `tests/server/test_subgroups.py` checks the sums every day
@pytest.mark.parametrize("noise", ["local", "distributed"])
def test_with_noise_every_group_has_an_error_of_its_own(tmp_path: Path, noise: str) -> None:
    privacy = f'noise = "{noise}"\nepsilon = 8.0\nsampling_rate = 0.5\npatients_per_site = 80\nevaluation_share = 0.5'
    text = job_text(protection="masking", privacy=privacy, training="validation_fraction = 0.5", rounds=1, min_sites=3)
    people = write_people(tmp_path / "people", patients=400, others=20)
    job = parse_job(with_subgroups(text))
    result = run(tmp_path / "grouped", job, people, sites=3)
    groups = {(r.attribute, g.value): g for r in result.subgroups for g in r.groups}
    assert list(groups) == [
        (name, value) for name, attribute in groups_of(job).attributes.items() for value in attribute.values
    ]
    assert all(group.patients is None for group in groups.values())
    # Each number has the noise that the job's own shape gives it, see `tests/common/subgroups/test_noisy.py` for the factors.
    shape = shape_of(job, "evaluate", 0, make_task(job.task))
    noise_sd = noise_in_sum(job, shape, roster=3, sites=3) * groups_of(job).norm_l2
    whole, part = result.evaluation["accuracy"], groups["sex", "female"].metrics["accuracy"]
    assert isinstance(whole, Estimate)
    assert isinstance(part, Estimate)
    assert whole.noise_error is not None
    assert whole.noise_error < noise_sd
    assert part.standard_error is None or part.standard_error > (whole.standard_error or 0)
    assert groups["age", "unknown"].metrics["accuracy"] == NOTHING, "nobody is in this group: noise alone"
    assert all(row.epsilon is not None and row.epsilon <= 8 for row in result.privacy.sites)


def test_the_command_shows_a_table(tmp_path: Path) -> None:
    people = write_people(tmp_path / "people", patients=100)
    job = tmp_path / "job.toml"
    job.write_text(with_subgroups(job_text(**{**PLAIN, "rounds": 1}), '["sex"]'))  # type: ignore[arg-type]
    columns = ("--sex-column", "sex", "--age-column", "age")
    done = salus("simulate", job, "--data", people, "--sites", "5", "--json", tmp_path / "out.json", *columns)
    assert done.returncode == 0, done.stderr
    assert "Final model by subgroup" in done.stdout
    assert "sex: female" in done.stdout
    values = json.loads((tmp_path / "out.json").read_text())
    assert values["subgroups"]["sex"]["groups"]["male"]["metrics"]["accuracy"] > 0

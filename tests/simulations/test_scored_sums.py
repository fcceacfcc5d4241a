"""A model from sums is evaluated at the sites on patients of no sum, and so can be released; a swapped model is found out."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.cli import salus
from tests.packages import consortium_key, content, export, kit, signed_again, write_folder
from tests.simulations.sample_jobs.first import COLUMNS
from tests.simulations.sample_jobs.trees import JOBS
from tests.tiny import tiny_text

from salus.client.measured_rows import Rows, measured_of
from salus.client.measuring import Measurer
from salus.client.scoring import Scores, scored
from salus.common.canonical import canonical_json
from salus.common.declaration import target_of
from salus.common.errors import DataError, JobError, PackageError
from salus.common.identity import Identity
from salus.common.job import Job, parse_job
from salus.common.kit import SIGNING_KEY
from salus.common.package.checking import checked_package
from salus.common.subgroups import groups_of
from salus.common.subgroups.base import Subject
from salus.common.sums import sums_of
from salus.common.sums.base import Measured
from salus.common.sums.questions import questions_of
from salus.common.sums.scoring import Evaluated, Scored
from salus.common.sums.signed_model import seal_model
from salus.privacy.contribution import DataKind
from salus.privacy.records.package import EVALUATED_SUMS, FROM_SUMS, evidence_of
from salus.privacy.shapes import shapes_of
from salus.server.packaging.runs import open_run
from salus.simulations.virtual import open_catalogue

NAME = "heart-release.toml"
REASON = "public data"
SOURCE = (
    "--label-column",
    "num",
    "--positive-above",
    0,
    "--age-column",
    "age",
    "--columns",
    ",".join((*COLUMNS, "num")),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished simulation; never to be changed."""
    folder = tmp_path_factory.mktemp("sums")
    (folder / NAME).write_text(tiny_text(NAME, JOBS[NAME](folder)))
    given = ("--data", "heart.csv", "--sites", 5, *SOURCE, "--workers", 1, "--output", "run", "--json", "out.json")
    done = salus("simulate", NAME, *given, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "sites' validation patients" in done.stdout
    return folder / "run"


@pytest.fixture(scope="module")
def package(run: Path) -> Path:
    return export(run, run.parent / "package")


def held_out(run: Path, job: Job, split: str) -> dict[str, list[Measured]]:
    """Return the measured rows of the patients of a split, by site and patient."""
    found: dict[str, list[Measured]] = {}
    for site in range(1, 6):
        catalogue = open_catalogue(run, site)
        assert job.statistics is not None
        splits = catalogue.splits(job.task.dataset, job.statistics.held_out)
        source, rows = catalogue.source(job.task.dataset), Rows(job)
        for image, facts in zip(catalogue.images(job.task.dataset), catalogue.facts(job.task.dataset), strict=True):
            if splits[image.patient] == split:
                label = target_of(image.label, job.task.classes)
                one = measured_of(source.load(image.key), label, facts.info, rows)
                found.setdefault(f"{site} {image.patient}", []).append(one)
    return found


def test_the_evaluation_is_that_of_the_patients_in_no_sum(run: Path) -> None:
    finished, out = open_run(run), json.loads((run.parent / "out.json").read_text())
    job, model = finished.job, finished.records[-1]["model"]
    sums = sums_of(job)
    assert isinstance(sums, Scored)
    assert isinstance(model, dict)
    inside, outside = held_out(run, job, "train"), held_out(run, job, "val")
    assert out["statistics"]["patients"] == len(inside)
    assert len(outside) > 20
    wanted = sums.scores(model, [image for mine in outside.values() for image in mine])
    assert out["evaluation"] == pytest.approx(wanted, abs=2e-3)  # masked sums round
    groups = out["subgroups"]["age"]["groups"]
    assert sum(group["patients"] or 0 for group in groups.values()) == len(outside)
    first = [image for mine in outside.values() for image in mine if image.columns["age"] < 55]
    assert groups["0-54"]["metrics"] == pytest.approx(sums.scores(model, first), abs=5e-3)


def test_a_site_notes_who_is_used_for_what(run: Path) -> None:
    """So that a withdrawal knows whom the sums and the evaluation held."""
    job = open_run(run).job
    used = Measurer(open_catalogue(run, 2), job, sums_of(job), None, lambda: 0, bytes).used()
    for split, kind in (("train", DataKind.MEASURED), ("val", DataKind.VALIDATION)):
        mine = {name.removeprefix("2 ") for name in held_out(run, job, split) if name.startswith("2 ")}
        assert {patient for patient, found in used.items() if found == kind} == mine


def test_the_model_that_the_sites_evaluated_is_the_one_in_the_package(run: Path, package: Path, tmp_path: Path) -> None:
    with checked_package(package, consortium_key(run)) as checked:
        unproven = evidence_of(checked).unproven
        assert checked.json("documentation.json")
    assert FROM_SUMS not in unproven
    assert EVALUATED_SUMS in unproven
    files, finished = content(package), open_run(run)
    model: Any = json.loads(json.loads(files["model.json"])["document"])["model"]
    model["trees"][0]["leaves"][0][0] += 0.001
    coordinator = Identity.load(run / "coordinator" / "keys" / SIGNING_KEY)
    files["model.json"] = seal_model(coordinator, finished.job_id, finished.signed.document.encode(), model)
    del files["trees/xgboost.json"]
    with (
        checked_package(write_folder(signed_again(files, run), tmp_path / "p")) as checked,
        pytest.raises(PackageError, match="model.json is not the model that the sites evaluated"),
    ):
        evidence_of(checked)


def test_it_is_released_with_a_reason(run: Path, package: Path, tmp_path: Path) -> None:
    copy = tmp_path / "package"
    shutil.copytree(package, copy)
    refused = salus("release", run, copy, "--json")
    assert refused.returncode == 14
    assert json.loads(refused.stdout)["missing"] == ["salus audit does not attack models from sums; give a --reason"]
    released = salus("release", run, copy, "--reason", REASON, "--json")
    assert released.returncode == 0, released.stderr
    assert json.loads(released.stdout)["audit_sha256"] is None
    checked = salus("verify", copy, "--kit", kit(run))
    assert checked.returncode == 0, checked.stderr
    assert "is not audited: nothing limits what its numbers reveal" in checked.stdout
    (copy / "audit.json").write_text("{}")
    named = salus("verify", copy, "--kit", kit(run))
    assert named.returncode == 14
    assert "audit.json is there, but a model from sums without noise is not audited" in named.stderr


def job(**changes: Any) -> Job:
    text = Path(__file__).resolve().parents[2] / "simulations" / "jobs" / NAME
    found = text.read_text()
    for old, new in changes.items():
        line = next(line for line in found.splitlines() if line.startswith(f"{old} = "))
        found = found.replace(line, new)
    return parse_job(found)


def test_what_holds_nobody_out_is_as_before() -> None:
    plain = job(held_out="", subgroups="", age_edges="")
    assert plain.statistics is not None
    assert plain.statistics.held_out == 0
    assert {shape.kind for shape in shapes_of(plain)} == {"measure"}
    assert [shape.kind for shape in shapes_of(job())][-2:] == ["measure", "evaluate"]
    assert questions_of(plain, 10)["boosting"] != questions_of(job(), 10)["boosting"]
    assert set(questions_of(plain, 10)) == {"boosting"}
    assert set(questions_of(job(), 10)) == {"boosting", "subgroups: age"}


def test_jobs_that_could_not_be_evaluated_are_refused() -> None:
    with pytest.raises(JobError, match="statistics.held_out above 0"):
        job(held_out="")
    with pytest.raises(JobError, match=r"statistics.held_out = 0 with noise"):
        job(noise='noise = "local"')
    with pytest.raises(JobError, match="held_out: expected at most 0.5"):
        job(held_out="held_out = 0.9")
    with pytest.raises(JobError, match="no model that tells classes apart"):
        sums_of(job(kind='kind = "summary"', trees="", depth="", learning_rate="", rounds="rounds = 1"))


def people(ages: list[float]) -> list[list[tuple[Measured, tuple[int, ...]]]]:
    import numpy as np

    groups = groups_of(job())
    return [
        [
            (
                Measured(n % 2, np.zeros(0, np.float32), columns={"age": age}),
                groups.of(Subject({"age_years": int(age)}, 1)),
            )
        ]
        for n, age in enumerate(ages)
    ]


def test_a_site_with_few_patients_adds_nothing_and_hides_small_groups() -> None:
    finished = job()
    sums, groups = sums_of(finished), groups_of(finished)
    assert isinstance(sums, Evaluated)
    leaf = {"column": [0], "below": [0.0], "gain": [1.0], "missing_left": [True], "leaves": [[-1.0], [1.0]]}
    model = canonical_json({"trees": [leaf]})
    nobody, none = scored(finished, sums, groups, model, people([40.0] * 4), 5)
    assert nobody == 0
    empty = Scores(groups, sums.evaluation.statistics_size)
    assert none.entries(finished, 5, 0).tolist() == empty.entries(finished, 5, 0).tolist()
    count, found = scored(finished, sums, groups, model, people([40.0] * 6 + [70.0] * 5), 5)
    totals = found._sums.totals(found, 6)
    assert count == 11
    assert not totals.rows.any()  # both: a single shown group would be the total less the hidden one
    assert found._sums.totals(found, 5).patients.tolist() == [6, 5, 0]
    assert found.rows[0] == 11
    bounded = finished.model_copy(update={"aggregation": finished.aggregation.model_copy(update={"max_patients": 3})})
    assert scored(bounded, sums, groups, model, people([40.0] * 6), 2)[0] == 3


@pytest.mark.parametrize(
    "blob",
    [b"", b"[]", b"[" * 100_000, b"{}", b'{"trees": [{}]}', b'{"trees": [{"column": 7}]}', b'{"trees": 5}', b"\xff"],
)
def test_what_is_no_model_is_refused(blob: bytes) -> None:
    finished = job()
    sums = sums_of(finished)
    assert isinstance(sums, Evaluated)
    with pytest.raises(DataError, match="no model of this job"):
        scored(finished, sums, groups_of(finished), blob, people([40.0] * 6), 2)

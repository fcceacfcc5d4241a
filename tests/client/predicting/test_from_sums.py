"""`salus predict` with models from sums: what the sums' own code says, and refusals before anything is read."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli import Result, salus
from tests.client.predicting.worlds import write_pictures
from tests.common.sums.builders import JOB, federated
from tests.common.sums.tables import COLUMNS, rows

from salus.client.data.records import Sample
from salus.client.predicting.from_sums import SumsAnswering, load_sums_model
from salus.client.predicting.model import load_model
from salus.common.errors import ConfigError, JobError, UnreadableImage
from salus.common.identity import Identity
from salus.common.job import Job, load_job
from salus.common.outcomes import Outcome
from salus.common.sums import sums_of
from salus.common.sums.base import Measured
from salus.common.sums.scoring import Scored
from salus.common.sums.signed_model import seal_model

COORDINATOR = Identity.from_seed(bytes(32))
KINDS = {
    "boosting": (2, "trees = 1\ndepth = 2"),
    "random-boosting": (1, "trees = 5"),
    "forest": (1, "trees = 5"),
    "logistic": (3, ""),
    "cox": (2, "interval = 100.0\nhorizon = 2000.0"),
    "least-squares": (1, "random_features = 20"),
}


def write_job(path: Path, kind: str, task: str = COLUMNS) -> Job:
    rounds, statistics = KINDS.get(kind, (1, ""))
    path.write_text(JOB.format(kind=kind, rounds=rounds, statistics=statistics, task=task, privacy='noise = "none"'))
    return load_job(path)


def with_outcomes(patients: list[list[Measured]]) -> list[list[Measured]]:
    """Return the patients with times until an event that sick ones reach sooner."""
    rng = np.random.default_rng(2)
    return [
        [Measured(i.label, i.intensities, columns=i.columns, outcome=Outcome(rng.uniform(1, 2000 - 1500 * (i.label or 0)), True))]
        for (i,) in patients
    ]  # fmt: skip


def write_model(path: Path, job: Job, patients: list[list[Measured]]) -> dict[str, Any]:
    sums = sums_of(job)
    model = sums.model(federated(sums, [patients])[0])
    path.write_bytes(seal_model(COORDINATOR, "measure-0001", job.canonical_bytes(), model))
    return model


def write_table(path: Path, patients: list[list[Measured]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["st", "name", "age", "pain"])  # another order, and a column of no interest
        for (image,) in patients:
            st, age, pain = (image.columns[name] for name in ("st", "age", "pain"))
            writer.writerow(["" if np.isnan(st) else repr(st), 3, repr(age), repr(pain)])


def predicted(folder: Path, *words: object, data: str = "people.csv") -> Result:
    key = COORDINATOR.public_key.hex()
    return salus(
        "predict", "model.json", data, "--job", "job.toml", "--json", *(words or ("--signed-by", key)), cwd=folder
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_gets_what_the_model_says(kind: str, tmp_path: Path) -> None:
    job = write_job(tmp_path / "job.toml", kind)
    model = write_model(tmp_path / "model.json", job, with_outcomes(rows(60)))
    new = rows(12, seed=5)
    write_table(tmp_path / "people.csv", new)
    result = predicted(tmp_path)
    scored = sums_of(job)
    assert isinstance(scored, Scored)
    wanted = [said for (image,) in new if (said := scored.said(model, image)) is not None]
    complete = kind in ("logistic", "cox")
    assert (len(wanted) < 12) == complete, "only these two need every value"
    assert result.returncode == (20 if complete else 0), result.stderr
    summary = json.loads(result.stdout)
    assert [one["label"] for one in summary["items"]] == [said.label for said in wanted]
    for one, said in zip(summary["items"], wanted, strict=True):
        assert one["probabilities"] == pytest.approx(dict(said.probabilities))
        assert one["values"] == pytest.approx(dict(said.values))
    assert {one["reason"] for one in summary["refused"]} == ({"missing-value"} if complete else set())
    table = (tmp_path / "predictions" / "predictions.csv").read_text().splitlines()
    assert len(table) == 1 + len(wanted)
    assert ("log_hazard_ratio" if kind == "cox" else "probability_yes") in table[0]
    assert "All results" in (tmp_path / "predictions" / "predictions.html").read_text()


def test_a_model_of_image_features_predicts_on_pictures(tmp_path: Path) -> None:
    task = """columns = [{name = "mean", centre = 0.5, scale = 0.2}]
transforms = [{kind = "radiomics", intensity_low = 0.0, intensity_high = 1.0}]"""
    job = write_job(tmp_path / "job.toml", "least-squares", task)
    grey = [Measured(int(g > 0.5), np.zeros(0, np.float32), columns={"mean": g}) for g in np.linspace(0, 1, 40)]
    write_model(tmp_path / "model.json", job, [[image] for image in grey])
    write_pictures(tmp_path / "scans", {"a.png": 10, "c.png": 250})
    result = predicted(tmp_path, data="scans")
    assert result.returncode == 0, result.stderr
    assert {one["item"]: one["label"] for one in json.loads(result.stdout)["items"]} == {"a.png": "no", "c.png": "yes"}
    write_table(tmp_path / "people.csv", rows(2))
    assert "Expected images, got a row of a table" in predicted(
        tmp_path, "--signed-by", COORDINATOR.public_key.hex(), "--out", "other"
    ).stderr.replace("\n", " ")


def test_wrong_files_are_refused_by_name(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job.toml", "forest")
    write_model(tmp_path / "model.json", job, rows(40))
    (tmp_path / "people.csv").write_text("age,pain,bp\n50,1,2\n")
    key = COORDINATOR.public_key.hex()
    lacking = predicted(tmp_path, "--signed-by", key, "--out", "first")
    assert lacking.returncode != 0
    assert "without 'st'" in lacking.stderr.replace("\n", " ")
    other = Identity.generate().public_key.hex()
    assert "signature" in predicted(tmp_path, "--signed-by", other).stderr
    for words in (("--signed-by", "nowhere"), ("--out", "x")):
        assert "--signed-by" in predicted(tmp_path, *words).stderr
    data = (tmp_path / "model.json").read_bytes()
    (tmp_path / "model.json").write_bytes(data.replace(b"forest", b"Forest"))
    assert "signature" in predicted(tmp_path).stderr
    (tmp_path / "model.json").write_bytes(data)
    text = (tmp_path / "job.toml").read_text()
    (tmp_path / "job.toml").write_text(text.replace("trees = 5", "trees = 6"))
    assert "not a model of this job" in predicted(tmp_path).stderr.replace("\n", " ")
    assert not (tmp_path / "predictions").exists(), "nothing was written for a refused model"


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_no_such_model_are_refused_in_plain_words_although_they_are_signed(
    kind: str, tmp_path: Path
) -> None:
    job, path = write_job(tmp_path / "job.toml", kind), tmp_path / "model.json"
    model = write_model(path, job, with_outcomes(rows(60)))
    sample = Sample(np.array([50.0, 2.0, 1.0]), columns=("age", "pain", "st"))
    wrong: list[dict[str, Any]] = [{"kind": kind}]
    for name in set(model) - {"kind", "columns", "classes", "importance"}:
        wrong += [{**model, name: value} for value in ("x", None, 10**400, 1e308, [[1.0], [1.0, 2.0]], {"a": 1.0})]
    for one in wrong:
        path.write_bytes(seal_model(COORDINATOR, "measure-0001", job.canonical_bytes(), one))
        answering = SumsAnswering(job, load_sums_model(path, job, COORDINATOR.public_key))
        try:
            answer = answering(sample, "")
        except (ConfigError, UnreadableImage):
            continue
        assert np.isfinite([*answer.probabilities.values(), *answer.values.values()]).all()


def test_statistics_that_say_nothing_about_a_patient_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    write_job(tmp_path / "job.toml", "summary")
    with pytest.raises(JobError, match="no network"):
        load_model(tmp_path / "model.json", load_job(tmp_path / "job.toml"))
    result = predicted(tmp_path, data="nothing-here")
    assert "say" in result.stderr
    assert "'summary'" in result.stderr


def test_the_key_is_read_from_a_member_of_the_consortium(tmp_path: Path) -> None:
    from salus.client.predicting.from_sums import key_of
    from salus.common.clock import SystemClock
    from salus.simulations.trial import Trial

    trial = Trial(tmp_path, ["A"], policy="")
    assert key_of(str(trial.sites[0]), SystemClock()) == key_of(str(trial.coordinator), SystemClock())
    assert key_of("ab" * 32, SystemClock()) == b"\xab" * 32

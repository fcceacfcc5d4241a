"""Packages of jobs with a start: complete, checked against the start, and a start again."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from tests.cli import salus
from tests.packages import consortium_key, content, export, finish, kit, signed_again, write_folder
from tests.starts import started_job, trained_weights

from salus.client.predicting.model import load_model
from salus.common.errors import JobError, PackageError, StartError
from salus.common.job import Job, parse_job
from salus.common.package.checking import checked_package
from salus.common.package.layout import DOCUMENTATION, MODEL, MODEL_CARD, START
from salus.common.package.model import check_start, network_of, weights_in
from salus.common.package.starting import start_from
from salus.common.start.weights import Weights
from salus.privacy.records.package import evidence_of
from salus.server.checkpoints import METADATA_OF_FILE
from salus.server.packaging.runs import open_run
from salus.server.packaging.starting import with_start

NOISE = "epsilon = 3.0\nsampling_rate = 0.5\npatients_per_site = 20\nevaluation_share = 0.2\nclip_norm_l2 = 0.5"
LORA = 'trainable = ["12."]\n[task.lora]\nrank = 2'


@pytest.fixture(scope="module")
def weights() -> Weights:
    return trained_weights()


@pytest.fixture(scope="module")
def run(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    job = started_job(weights, task=LORA, rounds=1, min_sites=5, protection="masking", privacy=NOISE)
    return finish(tmp_path_factory.mktemp("run"), job, weights)


@pytest.fixture(scope="module")
def package(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, tmp_path_factory.mktemp("package") / "p")


def job_of(run: Path) -> Job:
    return open_run(run).job


def test_a_package_is_complete_and_names_its_start(run: Path, package: Path, weights: Weights) -> None:
    with checked_package(package, consortium_key(run)) as found:
        evidence_of(found)
        network = network_of(found)
        facts = {fact["what"]: fact["value"] for fact in found.json(DOCUMENTATION)["facts"]}
        card = found.read(MODEL_CARD).decode()
    stated = facts["pre-trained model that it starts from"]
    assert (stated["weights"], stated["adapters"]["rank"]) == (weights.digest, 2)
    assert weights.digest in card
    images = torch.rand(3, 1, 8, 8)
    predicted = load_model(open_run(run).model, job_of(run)).network
    assert torch.equal(predicted(images), network(images))
    assert [name for name, _ in network.named_parameters()] == [line.name for line in weights.lines]


def test_a_package_of_adapters_is_a_start_of_the_plain_network(run: Path, package: Path, weights: Weights) -> None:
    with checked_package(package) as found:
        merged = weights_in(found)
        again = weights_in(found)
        name = "sha256:" + found.sha256
    assert merged.digest == again.digest
    assert merged.digest != weights.digest
    assert [line.name for line in merged.lines] == [line.name for line in weights.lines]
    text = started_job(merged, task="").model_dump(mode="json")
    text["start"]["package"] = name
    job = Job.model_validate_json(json.dumps(text))
    found_weights = start_from(job, package)
    assert found_weights is not None
    assert found_weights.digest == merged.digest


def test_the_command_prints_the_section_and_fills_a_job_file(package: Path, run: Path, tmp_path: Path) -> None:
    printed = salus("model", "start", package, "--kit", kit(run))
    assert printed.returncode == 0, printed.stderr
    section = tomllib.loads(printed.stdout.partition("Parameters")[0])["start"]
    job = tmp_path / "job.toml"
    job.write_text(
        '[job]\nname = "x"\n[start]  # here\npackage = "old"\nnew = ["12."]\nweights = "old"\n[task]\nkind = "y"\n'
    )
    done = salus("model", "start", package, "--job", job, "--output", tmp_path / "new.toml", "--json")
    assert done.returncode == 0, done.stderr
    values = tomllib.loads((tmp_path / "new.toml").read_text())
    assert values["start"] == {**section, "new": ["12."]}
    assert values["task"] == {"kind": "y"}
    assert json.loads(done.stdout)["weights"] == section["weights"]
    again = salus("model", "start", package, "--job", job, "--output", tmp_path / "new.toml")
    assert again.returncode == 11
    assert "Choose another --output" in again.stderr
    assert salus("model", "start", package, "--job", job).returncode == 11


def test_a_section_is_added_where_there_is_none() -> None:
    text = with_start('[job]\nname = "x"\n', "sha256:1", "sha256:2")
    assert tomllib.loads(text) == {"job": {"name": "x"}, "start": {"package": "sha256:1", "weights": "sha256:2"}}
    with pytest.raises(JobError, match="TOML"):
        with_start("[", "a", "b")
    with pytest.raises(JobError, match="section of its own"):
        with_start("start = 1\n", "a", "b")


def test_other_packages_than_the_jobs_are_refused(package: Path, weights: Weights) -> None:
    with pytest.raises(StartError, match="the job starts from sha256:abab"):
        start_from(started_job(weights), package)
    with pytest.raises(StartError, match="has no section start"):
        start_from(parse_job(_plain()), package)
    with pytest.raises(StartError, match="none was given"):
        start_from(started_job(weights), None)
    with checked_package(package) as found:
        name = "sha256:" + found.sha256
    values = started_job(weights).model_dump(mode="json")
    values["start"]["package"] = name
    with pytest.raises(StartError, match="The package's weights have the hash"):
        start_from(Job.model_validate_json(json.dumps(values)), package)


def _plain() -> str:
    from tests.builders import job_text

    return job_text(model="cnn")


def test_a_frozen_parameter_that_was_changed_is_named(run: Path, package: Path, tmp_path: Path) -> None:
    """By a dishonest coordinator, who signs the package again; what is trained is covered by what the sites evaluated."""
    files = content(package)
    tensors = {name: values.copy() for name, values in load(files[MODEL]).items()}
    tensors["0.weight"][0] += 1
    files[MODEL] = save(tensors, METADATA_OF_FILE)
    with (
        checked_package(write_folder(signed_again(files, run), tmp_path / "a"), consortium_key(run)) as found,
        pytest.raises(PackageError, match=r"another '0\.weight' than the job's start"),
    ):
        evidence_of(found)


@pytest.mark.parametrize("change", ["missing", "other", "junk"])
def test_a_list_that_is_not_the_starts_is_named(run: Path, package: Path, tmp_path: Path, change: str) -> None:
    files = content(package)
    if change == "missing":
        del files[START]
    else:
        files[START] = b"junk" if change == "junk" else trained_weights(8).document
    with (
        checked_package(write_folder(signed_again(files, run), tmp_path / "a"), consortium_key(run)) as found,
        pytest.raises(PackageError, match=r"start\.json"),
    ):
        check_start(found)


def test_a_model_file_without_the_frozen_parameters_is_refused(run: Path, tmp_path: Path) -> None:
    found = {name: values for name, values in load(open_run(run).model.read_bytes()).items() if name != "0.weight"}
    (tmp_path / "m.safetensors").write_bytes(
        save({k: np.ascontiguousarray(v) for k, v in found.items()}, METADATA_OF_FILE)
    )
    with pytest.raises(JobError, match=r"no parameter '0\.weight'"):
        load_model(tmp_path / "m.safetensors", job_of(run))

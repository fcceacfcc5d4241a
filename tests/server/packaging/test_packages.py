"""A finished job becomes a package that is complete, the same in both forms, and taken in only with a known key."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.cli import salus
from tests.packages import (
    changed_json,
    consortium_key,
    content,
    finish,
    kit,
    plain_job,
    signed_again,
    write_folder,
)
from tests.simulations.sample_jobs.trees import JOBS as tree_writers
from tests.tiny import tiny_job

from salus.client.performance import Performance
from salus.common.clock import SystemClock
from salus.common.errors import ConfigError, JobError, PackageError
from salus.common.package.checking import checked_package
from salus.common.package.layout import ALWAYS, INPUTS, MODEL, MODEL_CARD, TRANSCRIPT, TREES
from salus.common.package.model import network_of
from salus.common.package.pinning import pinned_key
from salus.common.vectors import STATE_PREFIX
from salus.privacy.records.package import FROM_SUMS, UNPINNED, evidence_of
from salus.server.checkpoints import Checkpoints
from salus.server.packaging.collecting import export_package
from salus.server.packaging.importing import import_package
from salus.server.packaging.runs import open_run
from salus.server.packaging.software import bill_of_materials, versions
from salus.simulations.simulate import simulate


def test_a_package_is_complete_and_the_same_as_folder_and_zip(private_run: Path, private_package: Path) -> None:
    key = consortium_key(private_run)
    assert {*ALWAYS, MODEL, MODEL_CARD, TRANSCRIPT, "manifest.json"} == set(content(private_package))
    with (
        checked_package(private_package, key) as folder,
        checked_package(private_package.with_name("package.zip"), key) as zipped,
    ):
        assert folder.manifest == zipped.manifest
        assert {name: folder.read(name) for name in folder.files.sizes} == {
            name: zipped.read(name) for name in zipped.files.sizes
        }
        evidence = evidence_of(zipped)
    assert len(evidence.privacy.heads) == 5
    assert not evidence.without_head
    assert evidence.card.privacy.sites[0].epsilon == pytest.approx(2.35, abs=0.01)
    assert UNPINNED not in evidence.unproven


def test_the_model_is_that_of_the_last_round_without_the_strategys_state(
    private_run: Path, private_package: Path
) -> None:
    run = open_run(private_run)
    kept, packed = load_file(run.model), load_file(private_package / MODEL)
    assert any(name.startswith(STATE_PREFIX) for name in kept)
    assert set(packed) == {name for name in kept if not name.startswith(STATE_PREFIX)}
    with checked_package(private_package) as package:
        for name, parameter in network_of(package).named_parameters():
            np.testing.assert_array_equal(parameter.detach().numpy(), kept[name])


def test_without_a_kit_a_package_says_what_is_not_known(private_package: Path) -> None:
    with checked_package(private_package) as package:
        assert UNPINNED in evidence_of(package).unproven


def test_a_job_without_noise_has_no_ledger_heads(plain_run: Path, tmp_path: Path) -> None:
    export_package(open_run(plain_run), tmp_path / "package", SystemClock())
    with checked_package(tmp_path / "package", consortium_key(plain_run)) as package:
        evidence = evidence_of(package)
    assert not evidence.privacy.heads
    assert not evidence.without_head
    assert evidence.verified is not None
    assert len(evidence.verified.sums) == 2


def test_a_package_is_never_written_over(plain_run: Path, tmp_path: Path) -> None:
    (tmp_path / "p.zip").touch()
    with pytest.raises(ConfigError, match="exists already"):
        export_package(open_run(plain_run), tmp_path / "p", SystemClock())
    assert [path.name for path in tmp_path.iterdir()] == ["p.zip"]


def test_the_documentation_is_from_records_and_says_what_no_record_has(private_package: Path) -> None:
    facts = json.loads((private_package / "documentation.json").read_bytes())["facts"]
    known = {fact["what"]: fact["value"] for fact in facts}
    assert known["name and version"]["job"] == "tiny-0001"
    assert known["privacy of the patients"] == "(3, 1e-05)-differential privacy per patient"
    assert known["cybersecurity"]["signed sums in the transcript"] == 2
    assert set(known["performance on groups of persons"]) == {"sex"}
    assert known["limitations"] == []
    assert known["intended purpose"] is None
    assert all((fact["value"] is None) == (fact["from"] == "") for fact in facts)


def test_only_a_finished_job_with_all_records_is_exported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a coordinator's folder nor that of a simulation"):
        open_run(tmp_path)
    run = finish(tmp_path / "run", plain_job())
    (run / "transcripts" / "tiny-0001.jsonl").rename(tmp_path / "away")
    with pytest.raises(ConfigError, match="transcript 'tiny-0001.jsonl' is missing"):
        open_run(run)
    checkpoints = Checkpoints(run / "coordinator")
    checkpoints.submit(checkpoints.job("tiny-0001").signed, "tiny")
    with pytest.raises(JobError, match="'tiny-0002' is waiting"):
        open_run(run, "tiny-0002")
    (run / "coordinator" / "trust" / "kit.json").unlink()
    with pytest.raises(ConfigError, match="no key of a coordinator"):
        open_run(run)


def test_a_coordinators_own_folder_is_exported_too(plain_run: Path, tmp_path: Path) -> None:
    """A daemon keeps keys, trust, models and transcripts in one folder, a simulation in two."""
    folder = tmp_path / "coordinator"
    shutil.copytree(plain_run / "coordinator", folder)
    shutil.copytree(plain_run / "transcripts", folder / "transcripts")
    shutil.copy(plain_run / "events.jsonl", folder)
    export_package(open_run(folder, "tiny-0001"), tmp_path / "package", SystemClock())
    with checked_package(tmp_path / "package.zip", pinned_key(folder, None)) as package:
        assert evidence_of(package).card.metrics


def test_a_desk_takes_in_a_package_with_a_kit_and_a_member_without(
    private_run: Path, plain_run: Path, private_package: Path, tmp_path: Path
) -> None:
    desk, archive = tmp_path / "desk", private_package.with_name("package.zip")
    with pytest.raises(ConfigError, match="has joined no consortium"):
        pinned_key(desk, None)
    where, _, _ = import_package(archive, desk, pinned_key(desk, kit(private_run)))
    again, _, _ = import_package(private_package, desk, pinned_key(desk, kit(private_run)))
    assert where == again
    assert content(where) == content(private_package)
    assert pinned_key(private_run / "coordinator", None) == consortium_key(private_run)
    with pytest.raises(ConfigError, match="another consortium"):
        pinned_key(private_run / "coordinator", kit(plain_run))
    with pytest.raises(PackageError, match="another consortium"):
        import_package(archive, tmp_path / "other", consortium_key(plain_run))
    assert not (tmp_path / "other").exists()


def test_the_commands_work_as_documented(plain_run: Path, tmp_path: Path) -> None:
    made = salus("model", "export", plain_run, tmp_path / "package", "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["job_id"] == "tiny-0001"
    taken = salus("model", "import", tmp_path / "desk", tmp_path / "package.zip", "--kit", kit(plain_run))
    assert taken.returncode == 0, taken.stderr
    shown = salus("model", "show", next((tmp_path / "desk" / "packages").iterdir()), "--json")
    found = json.loads(shown.stdout)
    assert found["pinned"] is False
    assert found["card"]["metrics"]["accuracy"] > 0


def test_the_bill_of_materials_names_what_salus_needs_with_licences() -> None:
    bill = bill_of_materials()
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    required = {one["name"].lower(): one for one in bill["components"] if one["scope"] == "required"}
    assert {"torch", "monai", "cryptography"} <= set(required)
    assert [name for name, one in required.items() if "licenses" not in one] == []
    assert bill == bill_of_materials()
    assert versions()["libraries"]["torch"] == required["torch"]["version"]


def test_trees_in_a_package_open_in_xgboost_and_are_those_of_the_model(tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    tiny = tree_writers["heart-boosting.toml"](tmp_path)
    run, package = tmp_path / "run", tmp_path / "package"
    simulate(
        tiny_job("heart-boosting.toml", tiny), tiny.data, sites=tiny.sites, partition="iid", seed=0, folder=run,
        options=tiny.options, performance=Performance(device="cpu"), workers=1,
    )  # fmt: skip
    export_package(open_run(run), package, SystemClock())
    booster = xgboost.Booster()
    booster.load_model(bytearray((package / TREES).read_bytes()))
    assert booster.num_boosted_rounds() == 1
    with checked_package(package, consortium_key(run)) as checked:
        assert FROM_SUMS in evidence_of(checked).unproven
    files = content(package)
    files[TREES] = changed_json(files[TREES], lambda trees: trees.update(version=[1, 0, 0]))
    other = write_folder(signed_again(files, run), tmp_path / "other")
    with checked_package(other) as checked, pytest.raises(PackageError, match="does not hold the trees of model.json"):
        evidence_of(checked)


def test_what_changes_while_it_is_taken_in_is_refused(
    plain_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    export_package(open_run(plain_run), package, SystemClock())

    def later(found: object) -> list[object]:
        (package / INPUTS).write_bytes(b"x" * (package / INPUTS).stat().st_size)
        return []

    monkeypatch.setattr("salus.server.packaging.importing.endorsements_of", later)
    with pytest.raises(PackageError, match="inputs.json is not the file that the coordinator signed"):
        import_package(package, tmp_path / "desk", consortium_key(plain_run))
    assert not list((tmp_path / "desk" / "packages").iterdir())

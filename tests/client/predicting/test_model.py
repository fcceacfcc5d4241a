from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch
from tests.client.predicting.worlds import write_job, write_model

from salus.client.predicting.model import load_model
from salus.common.errors import JobError, StorageError


def test_a_jobs_own_model_is_loaded_in_evaluation_mode(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job.toml")
    model = load_model(write_model(tmp_path / "model.safetensors", job), job)
    assert not model.network.training
    assert model.parameters == 2 * 64 + 2
    with torch.no_grad():
        assert model.network(torch.ones(1, 1, 8, 8)).argmax() == 1
        assert model.network(-torch.ones(1, 1, 8, 8)).argmax() == 0


def renamed(tensors: dict[str, Any]) -> None:
    tensors["other.weight"] = tensors.pop("1.weight")


def reshaped(tensors: dict[str, Any]) -> None:
    tensors["1.weight"] = np.zeros((2, 65), np.float32)


def infinite(tensors: dict[str, Any]) -> None:
    tensors["1.bias"][0] = np.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed, "no parameter '1.weight'; an unknown parameter 'other.weight'"),
        (reshaped, r"'1.weight' has shape \[2, 65\], the job's model \[2, 64\]"),
        (infinite, "not finite"),
    ],
)
def test_a_model_of_another_job_is_refused_by_name(tmp_path: Path, change: Any, message: str) -> None:
    job = write_job(tmp_path / "job.toml")
    path = write_model(tmp_path / "model.safetensors", job, change)
    with pytest.raises(JobError, match=message):
        load_model(path, job)


def test_a_model_file_of_a_newer_format_is_refused_and_one_of_another_library_is_read(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job.toml")
    path = write_model(tmp_path / "model.safetensors", job)
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for stated, refused in (("2", True), ("999999", True), ("0", True), ("1", False), ("pt", False)):
        save_file(tensors, path, {"format": stated})
        if refused:
            with pytest.raises(JobError, match="model file 'model.safetensors'"):
                load_model(path, job)
        else:
            load_model(path, job)


def test_hostile_and_missing_files_are_refused(tmp_path: Path) -> None:
    job = write_job(tmp_path / "job.toml")
    path = tmp_path / "model.safetensors"
    good = write_model(path, job).read_bytes()
    huge = b'{"1.weight":{"dtype":"F32","shape":[2,1099511627776],"data_offsets":[0,8796093022208]}}'
    for data in (b"", b"\x80\x05pickle", good[:-1], len(huge).to_bytes(8, "little") + huge, b"\xff" * 64):
        path.write_bytes(data)
        with pytest.raises(JobError, match="safetensors"):
            load_model(path, job)
    save_file({"1.weight": np.zeros((2**12, 2**12), np.float32)}, path)
    with pytest.raises(JobError, match="not a model of the job 'bright'"):
        load_model(path, job)
    with pytest.raises(StorageError):
        load_model(tmp_path / "absent.safetensors", job)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.int64, torch.bool])
def test_parameters_of_a_type_that_salus_does_not_write_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    job = write_job(tmp_path / "job.toml")
    tensors = load_file(write_model(tmp_path / "model.safetensors", job))
    save_torch({name: torch.tensor(value).to(dtype) for name, value in tensors.items()}, tmp_path / "other.safetensors")
    with pytest.raises(JobError, match="expected F16 or F32 or F64"):
        load_model(tmp_path / "other.safetensors", job)

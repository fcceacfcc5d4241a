"""What this machine offers, and what is missing: each cause once."""

import os
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest

from salus.common.doctor import machine
from salus.common.doctor.machine import GIB, descriptors, gpu, memory, storage


def test_storage_that_is_full_or_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    for free, status, cause in ((0, "failed", "full"), (2 * GIB, "notice", "nearly-full"), (50 * GIB, "ok", "")):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: usage._replace(free=free))
        found = storage(tmp_path)
        assert (found.status, found.cause) == (status, cause)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert storage(tmp_path).cause == "read-only"


def test_memory_within_a_containers_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "container_limit", lambda: GIB)
    found = memory()
    assert (found.status, found.cause) == ("notice", "low")
    assert "container's limit" in found.found
    assert found.values["container_limit_bytes"] == GIB


def test_a_coordinator_needs_more_files_than_a_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 1024))
    assert descriptors("site").status == "ok"
    assert descriptors("coordinator").cause == "too-low"
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, resource.RLIM_INFINITY))
    assert descriptors("coordinator").status == "ok"


class Torch:
    """What of torch the check looks at."""

    def __init__(self, built_for: str | None, free: int | None) -> None:
        self.version = type("version", (), {"cuda": built_for})
        self.cuda = self
        self._free = free

    def is_available(self) -> bool:
        return self._free is not None

    def mem_get_info(self, device: int) -> tuple[int, int]:
        return self._free or 0, 80 * GIB

    def get_device_name(self, device: int) -> str:
        return "GPU X"

    def device_count(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("driver", "built_for", "free", "device", "expected"),
    [
        ("", None, None, "auto", ("ok", "")),
        ("", None, None, "cuda", ("failed", "none-found")),
        ("550.54", None, None, "auto", ("notice", "torch-without-gpu")),
        ("550.54", None, None, "cuda", ("failed", "torch-without-gpu")),
        ("470.1", "12.8", None, "cuda", ("failed", "driver")),
        ("550.54", "12.8", 70 * GIB, "auto", ("ok", "")),
        ("550.54", "12.8", GIB // 2, "cuda", ("failed", "low")),
        ("550.54", "12.8", GIB // 2, "cpu", ("ok", "")),
    ],
)
def test_a_gpu_that_cannot_be_used_is_named_with_the_reason(
    driver: str, built_for: str | None, free: int | None, device: str, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    fake: Any = Torch(built_for, free)
    monkeypatch.setitem(__import__("sys").modules, "torch", fake)
    monkeypatch.setattr(machine, "_driver", lambda: driver)
    found = gpu(device)
    assert (found.status, found.cause) == expected
    assert found.values["driver"] == driver

"""The machine, the versions and the measured processes, for the results of every benchmark."""

import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import psutil

from salus import __version__


def describe_machine() -> dict[str, str | int | float]:
    """Return processor, cores, memory and load, to distinguish a busy machine from a slow one."""
    model = next((line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")), "unknown")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": model,
        "cores": os.cpu_count() or 0,
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Salus, Python and these packages."""
    return {"salus": __version__, "python": platform.python_version(), **{name: version(name) for name in packages}}


def cpu_seconds(process_ids: Iterable[int]) -> float:
    """Return the CPU seconds (user and system) that these processes have used so far."""
    total = 0.0
    for process_id in process_ids:
        times = psutil.Process(process_id).cpu_times()
        total += times.user + times.system
    return total


def peak_rss_mb(process_id: int) -> float:
    """Return the largest resident memory of a living process so far, in MiB (Linux: VmHWM)."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def rss_mb(process_id: int) -> float:
    """Return the resident memory of a living process now, in MiB."""
    return float(psutil.Process(process_id).memory_info().rss) / 2**20

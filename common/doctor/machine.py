"""What this machine offers: storage, memory, open files, GPU."""

import os
import resource
import shutil
from pathlib import Path

import psutil

from salus.common.doctor.findings import Finding
from salus.common.doctor.owners import owners

GIB = 2**30
FULL_BYTES, NEARLY_FULL_BYTES = GIB // 2, 5 * GIB  # a checkpoint of a large model; a cache and some models
LOW_MEMORY_BYTES = 2 * GIB  # the libraries of training and a small model
FEW_FILES = {"site": 256, "coordinator": 4096}  # a coordinator keeps two or three connections for each site
FEW_INODES = 1000


def machine(folder: Path, role: str, device: str) -> list[Finding]:
    """Return the findings about this machine, and about whose the folder's files are.

    Args:
        device: the setting ``device`` of a site; empty for a coordinator, which needs no GPU.
    """
    found = [owners(folder), storage(folder), memory(), descriptors(role)]
    return [*found, gpu(device)] if device else found


def storage(folder: Path) -> Finding:
    """Return how much can be written in a folder."""
    usage, system = shutil.disk_usage(folder), os.statvfs(folder)
    values = {"free_bytes": usage.free, "total_bytes": usage.total, "free_inodes": system.f_favail}
    text = f"{_gib(usage.free)} of {_gib(usage.total)} are free where the folder is"
    if not os.access(folder, os.W_OK) or system.f_flag & os.ST_RDONLY:
        remedy = "Mount it with write access, or correct the owner of the folder."
        return Finding("storage", "failed", "The folder cannot be written to.", "read-only", remedy, values=values)
    inodes_out = system.f_files > 0 and system.f_favail < FEW_INODES
    if usage.free < FULL_BYTES or inodes_out:
        text = f"Only {system.f_favail} more files can be made where the folder is." if inodes_out else f"Only {text}."
        return Finding("storage", "failed", text, "full", "Free some space, or move the folder.", values=values)
    if usage.free < NEARLY_FULL_BYTES:
        return Finding("storage", "notice", f"Only {text}.", "nearly-full", "Free some space soon.", values=values)
    return Finding("storage", "ok", f"{text}.", values=values)


def memory() -> Finding:
    """Return how much memory is free, within the limit of a container if there is one."""
    free, total, limit = available_memory()
    values = {"total_bytes": total, "available_bytes": free, "container_limit_bytes": limit}
    text = f"{_gib(free)} of {_gib(total)} are available"
    text += " within this container's limit." if limit is not None and limit == total else "."
    if free < LOW_MEMORY_BYTES:
        remedy = "Stop other programs, or use a machine with more memory."
        return Finding("memory", "notice", f"Only {text}", "low", remedy, values=values)
    return Finding("memory", "ok", text, values=values)


def available_memory() -> tuple[int, int, int | None]:
    """Return available and total memory in bytes, and the container's limit, which both respect; None without one."""
    machine_has, limit = psutil.virtual_memory(), container_limit()
    most = machine_has.total if limit is None else limit
    return min(machine_has.available, most), min(machine_has.total, most), limit


def container_limit() -> int | None:
    """Return the memory limit of this process's control group in bytes, or None."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdecimal() and int(text) < 2**60 else None
    return None


def descriptors(role: str) -> Finding:
    """Return how many files a daemon that is started like this command could open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2**20 if hard == resource.RLIM_INFINITY else hard  # daemons raise the soft limit to the hard one
    values = {"soft": soft, "hard": most}
    if most < FEW_FILES[role]:
        text = f"A daemon started from here could open {most} files, fewer than the {FEW_FILES[role]} that it may need."
        remedy = "Raise the limit: LimitNOFILE in systemd, or ulimit -n."
        return Finding("descriptors", "failed", text, "too-low", remedy, values=values)
    return Finding("descriptors", "ok", f"A daemon started from here may open {most} files.", values=values)


def gpu(device: str) -> Finding:
    """Return whether torch can use a GPU, and why not.

    Args:
        device: the setting ``device`` in ``site.toml``.
    """
    import torch

    wanted = device == "cuda"
    driver = _driver()
    values: dict[str, int | float | bool | str | None] = {"count": 0, "driver": driver, "built_for": torch.version.cuda}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info(0)
        name = torch.cuda.get_device_name(0)
        values |= {"count": torch.cuda.device_count(), "free_bytes": free, "total_bytes": total, "name": name}
        used = "not used, because device = 'cpu' in site.toml" if device == "cpu" else "used for training"
        text = f"{name}, {_gib(free)} of {_gib(total)} free, driver {driver or 'unknown'}: {used}."
        if device != "cpu" and free < GIB:
            remedy = "Another program uses it: stop it, or set device = 'cpu' in site.toml."
            return Finding("gpu", "failed" if wanted else "notice", text, "low", remedy, values=values)
        return Finding("gpu", "ok", text, values=values)
    if driver and torch.version.cuda is None:
        text = f"There is an NVIDIA driver ({driver}), but the installed torch is built for CPUs only."
        remedy = "Install the torch of your CUDA version; see pytorch.org, with the version in constraints.txt."
        return Finding("gpu", "failed" if wanted else "notice", text, "torch-without-gpu", remedy, values=values)
    if driver:
        text = f"The NVIDIA driver {driver} does not fit torch, which is built for CUDA {torch.version.cuda}."
        remedy = "Update the driver; in a container, start it with access to the GPU."
        return Finding("gpu", "failed" if wanted else "notice", text, "driver", remedy, values=values)
    if wanted:
        remedy = "Install the driver, or set device = 'auto' in site.toml."
        text = "device = 'cuda' in site.toml, but there is no NVIDIA driver."
        return Finding("gpu", "failed", text, "none-found", remedy, values=values)
    return Finding("gpu", "ok", "No GPU; training uses the CPU.", values=values)


def _driver() -> str:
    """Return the version of the NVIDIA driver, such as ``550.54.15``, or an empty string."""
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split()
    except OSError:
        return ""
    return next((word for word in words if word.count(".") >= 1 and word.replace(".", "").isdecimal()), "unknown")


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"

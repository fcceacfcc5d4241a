"""The support file of `salus doctor --bundle`: numbers, and words that are fixed in the code. Nothing is copied as it is.

No name of a person, hospital, job or data set, no address, no path, no key, and no text of any file is written. Everything is
taken through an allow-list: what is not known is left out or becomes ``other``.
"""

import contextlib
import importlib.metadata
import io
import json
import os
import platform
import re
import sqlite3
import ssl
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import psutil
from pydantic import BaseModel

from salus import __version__
from salus.common.allowed import OTHER, fixed_numbers, reduced
from salus.common.doctor.findings import CAUSES, CHECKS, Report
from salus.common.errors import ConfigError
from salus.common.events import read_events
from salus.common.files import replace_whole

MOST_EVENTS = 5000
LOG = "events.jsonl"
PACKAGES = ("torch", "flwr", "monai", "opacus", "cryptography", "httpx", "uvicorn", "pydantic", "SQLAlchemy", "grpcio")
DATABASES = (
    "catalogue.sqlite",
    "ledger.sqlite",
    "sessions.sqlite",
    "rosters.sqlite",
    "jobs.sqlite",
    "coordinator.sqlite",
)
FILES = (*DATABASES, LOG, "site.toml", "policy.toml", "server.toml", "daemon.lock", "working.json", "admin.sock")
FOLDERS = ("keys", "trust", "cache", "states", "starts", "checkpoints", "transcripts", "reports")
FROM_DATA = frozenset(("minutes", "compute_s"))  # values of checks that follow from the number of images
WORDS = {
    "link": frozenset(("", "connected", "disconnected", "outdated", "stopped")),
    "version": frozenset(("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")),
}
NUMERIC = re.compile(r"[0-9]+(\.[0-9]+){0,3}")
README = """\
A support file of Salus. It holds what `salus doctor` found, as numbers and fixed words: no names, addresses, paths, keys, texts,
jobs, data sets or patients. Each file is JSON; look into it before you send it.
"""


def write_bundle(path: Path, folder: Path, report: Report, settings: Mapping[str, BaseModel]) -> None:
    """Write a support file about a member's folder; only its owner can read it.

    Args:
        settings: the models of the settings files that could be read, by file name.

    Raises:
        ConfigError: there is something at `path`.
    """
    if path.exists() or path.is_symlink():
        raise ConfigError(f"There is already something at {path.name!r}.", remedy="Give the name of a new file.")
    contents = {
        "doctor.json": _findings(report),
        "settings.json": {name: plain_settings(model) for name, model in settings.items()},
        "machine.json": machine(),
        "files.json": files_of(folder),
        "databases.json": {name: database(folder / name) for name in DATABASES if (folder / name).exists()},
    }
    lines = [json.dumps(line) for line in events_of(folder / LOG)]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "README.txt", README)
        for name, value in contents.items():
            _add(archive, name, json.dumps(value, indent=1, allow_nan=False) + "\n")
        _add(archive, LOG, "".join(line + "\n" for line in lines))
    replace_whole(path, _private(packed.getvalue()))


def _private(data: bytes) -> Callable[[Path], None]:
    def write(beside: Path) -> None:
        handle = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)

    return write


def _add(archive: zipfile.ZipFile, name: str, text: str) -> None:
    archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)  # without this machine's times and users


def _findings(report: Report) -> dict[str, Any]:
    checks = [
        {
            "check": finding.check if finding.check in CHECKS else OTHER,
            "status": finding.status,
            "cause": finding.cause if finding.cause in CAUSES else OTHER,
            "values": fixed_numbers(
                {name: value for name, value in finding.values.items() if name not in FROM_DATA}, WORDS
            ),
        }
        for finding in report.findings
    ]
    return {"role": report.role, "healthy": report.healthy, "checks": checks}


def events_of(log: Path) -> Iterator[dict[str, Any]]:
    """Yield what may leave of the last events of a log."""
    if log.exists():
        for event in read_events(log)[-MOST_EVENTS:]:
            yield reduced(event)


def plain_settings(model: BaseModel) -> dict[str, Any]:
    """Return the numbers and fixed words of a settings model; of lists and tables only the length."""
    kept: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            kept[name] = plain_settings(value)
        elif isinstance(value, bool | int | float):
            kept[name] = value
        elif isinstance(value, list | tuple | dict | set | frozenset):
            kept[name] = {"entries": len(value)}
        elif isinstance(value, str) and get_origin(field.annotation) is Literal and value in get_args(field.annotation):
            kept[name] = value
    return kept


def machine() -> dict[str, Any]:
    """Return versions and sizes of this machine, as numbers."""
    packages = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = _numeric(importlib.metadata.version(name))
    return {
        "salus": _numeric(__version__),
        "python": _numeric(platform.python_version()),
        "kernel": _numeric(platform.release()),
        "linux": platform.system() == "Linux",
        "x86_64": platform.machine() == "x86_64",
        "openssl": list(ssl.OPENSSL_VERSION_INFO[:3]),
        "sqlite": _numeric(sqlite3.sqlite_version),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "packages": packages,
    }


def _numeric(version: str) -> str:
    found = NUMERIC.match(version)
    return found[0] if found else OTHER


def magnitude(number: int) -> int:
    """Return a size rounded up to a power of ten: exact sizes of caches and databases would count images and patients."""
    return 10 ** len(str(number - 1)) if number > 1 else number


def files_of(folder: Path) -> dict[str, Any]:
    """Return the magnitudes of the files that Salus makes, and whether there are others."""
    known: dict[str, Any] = {}
    others = {"entries": False, "unreadable": False}
    for entry in folder.iterdir():
        try:
            if entry.name in FOLDERS and entry.is_dir() and not entry.is_symlink():
                sizes = [path.lstat().st_size for path in entry.rglob("*") if path.is_file() and not path.is_symlink()]
                known[entry.name] = {"bytes": magnitude(sum(sizes))}
            elif entry.name in FILES:
                found = entry.lstat()
                known[entry.name] = {"bytes": magnitude(found.st_size), "mode": f"{found.st_mode & 0o777:o}"}
            else:
                others["entries"] = True
        except OSError:
            others["unreadable"] = True
    return {"known": known, OTHER: others}


def database(path: Path) -> dict[str, Any]:
    """Return whether a database is whole, its version, and how many tables it has; read beside a running daemon."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)) as opened:
            tables = int(opened.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0])
            whole = opened.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
            version = int(opened.execute("PRAGMA user_version").fetchone()[0])
            return {"readable": True, "whole": whole, "user_version": version, "tables": tables}
    except sqlite3.Error as problem:
        name = getattr(problem, "sqlite_errorname", "")
        return {"readable": False, "problem": name if re.fullmatch(r"SQLITE_[A-Z_]{2,40}", name) else OTHER}

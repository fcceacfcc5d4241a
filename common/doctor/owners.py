"""Whose the files of a folder are: after a command with sudo, the daemon meets files that it may not open."""

import os
import pwd
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from salus.common.doctor.findings import Finding

MOST_FILES = 50_000  # a cache may have millions; what commands write lies in front
NAMELESS = "user "  # in front of the number of a user without a name
WRITTEN = (".sqlite", ".sqlite-wal", ".sqlite-shm", ".jsonl", ".lock")


def owners(folder: Path) -> Finding:
    """Return whether this user may use every file, and whether all belong to who should own them.

    That is this user; for root, who may open everything, the owner of the folder.
    """
    me = os.geteuid()
    should = me or folder.stat().st_uid
    others: dict[str, int] = {}
    closed: dict[str, None] = {}
    looked = 0
    for name, path, found in _entries(folder):
        looked += 1
        if found.st_uid != should:
            others.setdefault(name, found.st_uid)
        link = stat.S_ISLNK(found.st_mode)
        if not link and not os.access(path, _needed(path, found)) and os.path.exists(path):  # not gone meanwhile
            closed[name] = None
    values = {"others": len(others), "closed": len(closed)}  # not of all files, which would count images
    if not others and not closed:
        return Finding("files", "ok", f"All {looked} files and folders looked at are {_user(should)}'s.", values=values)
    whose = ", ".join(sorted({_user(uid) for uid in others.values()}))
    owner = _user(should).removeprefix(NAMELESS)
    remedy = f"If {_user(should)} runs the daemon, stop it, run: sudo chown -R {owner} FOLDER, and start it again. "
    remedy += f"Run commands as {_user(should)}, without sudo."
    if not closed:
        text = f"Of another user ({whose}, not {_user(should)}): {_listed(others)}."
        return Finding("files", "notice", text, "other-owner", remedy, values=values)
    if not others:
        whose, remedy = _user(should), "Give the owner the right to read and write: chmod -R u+rwX FOLDER."
    text = f"{_user(me)} may not read or write all of: {_listed(closed)}. The owner is {whose}."
    return Finding("files", "failed", text, "not-allowed", remedy, values=values)


def _entries(folder: Path) -> Iterator[tuple[str, Path, os.stat_result]]:
    """Yield files and folders, those in front first: the name in `folder` below which each lies, its path and what it is."""
    waiting = deque([(folder, "")])
    left = MOST_FILES
    yield ".", folder, folder.stat()
    while waiting and left:
        place, top = waiting.popleft()
        try:
            found = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError:
            continue  # it is among the closed ones
        for entry in found[:left]:
            try:
                known = entry.stat(follow_symlinks=not top)  # a folder on another disk is linked in front
            except OSError:
                continue  # a file that has gone meanwhile, or a link to nowhere
            yield top or entry.name, Path(entry.path), known
            if stat.S_ISDIR(known.st_mode):
                waiting.append((Path(entry.path), top or entry.name))
        left -= len(found[:left])


def _needed(path: Path, found: os.stat_result) -> int:
    if stat.S_ISDIR(found.st_mode):
        return os.R_OK | os.W_OK | os.X_OK
    return os.R_OK | os.W_OK if path.suffix in WRITTEN else os.R_OK


def _listed(names: Iterable[str]) -> str:
    """Return what is in front only: names of files further down may tell something."""
    shown = [repr(name) if name != "." else "the folder itself" for name in names]
    return f"{', '.join(shown[:4])}{f' and {len(shown) - 4} more' if len(shown) > 4 else ''}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"{NAMELESS}{uid}"

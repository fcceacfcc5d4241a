"""Files that a command with sudo has left behind are found, with whose they are and what to do."""

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from salus.common.doctor import owners as module
from salus.common.doctor.owners import owners

ME, OTHER = 4_000_001, 4_000_002  # users that no machine has


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("site.toml", "ledger.sqlite", "cache/a", "cache/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


class Users:
    """Whose each file is, and who asks; only root may change that on a real disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, me: int, root: bool = False) -> None:
        self.of: dict[str, int] = {}
        real = module._entries

        def entries(folder: Path) -> object:
            for name, path, found in real(folder):
                yield name, path, os.stat_result([*found[:4], self.of.get(path.name, me), *found[5:]])

        def allowed(path: Path, mode: int) -> bool:
            return root or self.of.get(path.name, me) == me

        monkeypatch.setattr(module, "_entries", entries)
        monkeypatch.setattr(os, "access", allowed)
        monkeypatch.setattr(os, "geteuid", lambda: 0 if root else me)


def test_a_folder_of_one_user_is_fine(folder: Path) -> None:
    found = owners(folder)
    assert (found.status, found.cause) == ("ok", "")
    assert found.values == {"others": 0, "closed": 0}
    assert found.found.startswith("All 6 files and folders looked at are ")


def test_files_that_this_user_may_not_open_are_named_with_the_remedy(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = Users(monkeypatch, ME)
    users.of = {"ledger.sqlite": 0, "a": 0}
    found = owners(folder)
    assert (found.status, found.cause) == ("failed", "not-allowed")
    assert f"user {ME} may not read or write all of: " in found.found
    assert "'ledger.sqlite'" in found.found
    assert "'cache'" in found.found
    assert f"The owner is {pwd.getpwuid(0).pw_name}." in found.found
    assert f"sudo chown -R {ME} FOLDER" in found.remedy
    assert found.values == {"others": 2, "closed": 2}


def test_root_finds_what_is_not_of_the_owner_of_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = Users(monkeypatch, folder.stat().st_uid, root=True)
    users.of = {"ledger.sqlite": OTHER}
    found = owners(folder)
    assert (found.status, found.cause) == ("notice", "other-owner")
    assert f"Of another user (user {OTHER}" in found.found
    assert "'ledger.sqlite'" in found.found
    assert "sudo chown -R " in found.remedy


def test_files_that_even_their_owner_may_not_write_need_another_mode(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: dict[str, int] = {}

    def allowed(path: Path, mode: int) -> bool:
        wanted[path.name] = mode
        return path.name != "ledger.sqlite"

    monkeypatch.setattr(os, "access", allowed)
    found = owners(folder)
    assert (found.status, found.cause) == ("failed", "not-allowed")
    assert found.remedy == "Give the owner the right to read and write: chmod -R u+rwX FOLDER."
    assert wanted["site.toml"] == os.R_OK
    assert wanted["ledger.sqlite"] == os.R_OK | os.W_OK
    assert wanted["cache"] == os.R_OK | os.W_OK | os.X_OK


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/nowhere"), lambda path: path.symlink_to(path.parent)])
def test_links_lead_nowhere_twice(folder: Path, make: Callable[[Path], None]) -> None:
    make(folder / "cache" / "link")
    assert owners(folder).found.startswith("All 7 files")


def test_a_folder_on_another_disk_is_looked_at_and_a_cache_without_end_is_not(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path_factory.mktemp("disk")
    (disk / "c").touch()
    (folder / "linked").symlink_to(disk)
    assert owners(folder).found.startswith("All 8 files")
    monkeypatch.setattr(module, "MOST_FILES", 5)
    assert owners(folder).found.startswith("All 6 files")

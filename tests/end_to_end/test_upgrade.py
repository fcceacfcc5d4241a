"""The commands of docs/upgrade.md, one after the other, on a site with a catalogue of release 1."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.cli import salus

from salus.client.data import migrations
from salus.common.errors import DataError
from salus.common.keeping import kept
from salus.common.sqlite import open_sqlite

ROOT = Path(__file__).resolve().parents[2]
RELEASE = ROOT / "tests" / "fixtures" / "release-1"
STUBS = 'systemctl() { echo "systemctl $*" >> calls; }; pip() { echo "pip $*" >> calls; }; set -euo pipefail; '


def blocks() -> dict[str, str]:
    """Return the shell block of each section of the page."""
    page = (ROOT / "docs" / "upgrade.md").read_text()
    return {
        title: block for title, block in re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```sh\n(.*?)```", page, re.M | re.S)
    }


def run(block: str, place: Path, allowed: tuple[int, ...] = (0,)) -> list[str]:
    """Run a block: `salus` in this process, everything else in bash; services and the installer are only written down."""
    (place / "calls").unlink(missing_ok=True)
    for line in block.splitlines():
        words = line.partition("#")[0].split()
        if words[0] == "salus":
            result = salus(*words[1:], cwd=place)
            assert result.returncode in allowed, result.stderr
        else:
            subprocess.run(["bash", "-c", STUBS + line], cwd=place, check=True)
    return (place / "calls").read_text().splitlines()


def version(path: Path) -> str:
    with open_sqlite(path).connect() as connection:
        return str(connection.scalar(sa.text("SELECT version_num FROM alembic_version")))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a site that has joined, and whose catalogue is of release 1."""
    from salus.simulations.trial import Trial

    trial = Trial(tmp_path / "trial", ["One"], policy="")
    shutil.copytree(trial.sites[0], tmp_path / "site")
    shutil.copy(RELEASE / "catalogue.sqlite", tmp_path / "site" / "catalogue.sqlite")
    return tmp_path


def as_of(head: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Return what an older Salus does with a catalogue when it opens it."""

    def opened(path: Path) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(migrations, "HEAD", head)
            migrations.migrate(open_sqlite(path), lambda text: text)

    return opened


def test_backup_upgrade_and_going_back_as_documented(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = place / "site" / "catalogue.sqlite"
    before = version(catalogue)
    assert before < migrations.HEAD
    old_salus = as_of(before, monkeypatch)
    commands = blocks()
    assert set(commands) == {"Backup", "Upgrade", "Going back"}

    assert run(commands["Backup"], place) == ["systemctl stop salus-site", "systemctl start salus-site"]
    listed = subprocess.run(
        ["tar", "tf", "site-backup.tar"], cwd=place, check=True, capture_output=True, text=True
    ).stdout
    assert {"site/keys/pseudonym.key", "site/catalogue.sqlite", "site/trust/kit.json"} <= set(listed.splitlines())

    calls = run(commands["Upgrade"], place, allowed=(0, 70))  # nobody listens for this site: the doctor says so
    assert calls == ["systemctl stop salus-site", "pip install --upgrade salus", "systemctl start salus-site"]
    assert version(catalogue) == migrations.HEAD
    assert [copy.name for copy in kept(catalogue)] == [f"catalogue.sqlite.kept-{before}"]
    with pytest.raises(DataError, match="too old"):
        old_salus(catalogue)

    run(commands["Going back"], place)
    old_salus(catalogue)
    assert version(catalogue) == before
    assert json.loads(salus("client", "status", place / "site", "--json").stdout)["running"] is False
    assert version(catalogue) == migrations.HEAD, "forwards again, by the present version"


def test_a_restored_backup_is_the_site_as_it_was(place: Path) -> None:
    run(blocks()["Backup"], place)
    files = {path.relative_to(place): path.read_bytes() for path in (place / "site").rglob("*") if path.is_file()}
    shutil.rmtree(place / "site")
    subprocess.run(["tar", "xf", "site-backup.tar"], cwd=place, check=True)
    assert {
        path.relative_to(place): path.read_bytes() for path in (place / "site").rglob("*") if path.is_file()
    } == files
    assert (place / "site" / "keys" / "signing.pem").stat().st_mode & 0o077 == 0
    assert salus("client", "status", place / "site").returncode == 0

"""A hospital's audit over its own data: the same attacks, and nothing of the site changes."""

import json
import os
import sqlite3
from pathlib import Path

import pytest
from tests.builders import write_npz
from tests.cli import salus
from tests.simulations.auditing.test_audit import PRIVACY, text

from salus.client.config import init_site, open_catalogue
from salus.client.data.sources.settings import SourceOptions
from salus.common.job import parse_job
from salus.simulations.auditing.dry import own_hospitals
from salus.simulations.virtual import open_catalogue as virtual_catalogue

JOB = text(2, privacy=PRIVACY.format(noise="local", epsilon=1.0))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospital")
    init_site(folder / "site", "hospital-a")
    data = write_npz(folder / "own.npz", images=40, side=16)
    open_catalogue(folder / "site").add("own", "medmnist", data, SourceOptions())
    return folder / "site"


def state(site: Path) -> dict[str, bytes]:
    """Return the contents of every file of a site but its audits; of the databases, because a reader may touch their logs."""
    found = {}
    for path in sorted(site.rglob("*")):
        if path.is_dir() or "audits" in path.parts or path.name.endswith(("-wal", "-shm")):
            continue
        if path.suffix == ".sqlite":
            with sqlite3.connect(path) as connection:
                found[str(path)] = "\n".join(connection.iterdump()).encode()
        else:
            found[str(path)] = path.read_bytes()
    return found


def test_a_hospital_sees_what_a_job_would_reveal_and_nothing_of_it_changes(site: Path, tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text(JOB)
    before = state(site)
    words = ("audit", file, "--dry", "--site", site, "--dataset", "own", "--sites", 3, "--canaries", 20)
    done = salus(*words, "--attacks", "one-run,imprint", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "Nothing left the hospital" in said
    assert "policy would allow this job" in said
    assert "a coordinator that crafts a job could read 0 of" in said.lower()
    assert state(site) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.toml"]
    (folder,) = (site / "audits").iterdir()
    values = json.loads((folder / "audit.json").read_text())
    assert values["job_sha256"] == parse_job(JOB).digest().hex()
    assert values["about"].startswith("Made at a hospital over its own data set 'own'")
    assert "In plain words" in (folder / "audit.html").read_text()
    assert os.stat(folder.parent).st_mode & 0o077 == 0


def test_mistakes_are_one_sentence(site: Path, tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text(JOB)
    for words, needed in (
        (("--dry",), "--dry and --site together"),
        (("--site", site), "--dry and --site together"),
        (("--dry", "--site", tmp_path), "not a site's folder"),
        (("--dry", "--site", site), "No data set 'toy' is registered"),
        (("--dry", "--site", site, "--dataset", "../own"), "No data set"),
        (("--dry", "--site", site, "--dataset", "own", "--output", tmp_path), "stay in the site's folder"),
        (("--dry", "--site", site, "--dataset", "own", "--sites", 500), "smaller number"),
        (("--dataset", "own"), "for --dry"),
    ):
        done = salus("audit", file, *words)
        assert done.returncode in (11, 12, 20)
        assert "Traceback" not in done.stderr
        assert needed in " ".join(done.stderr.split()), done.stderr
    assert "job file" in salus("audit", tmp_path, "--dry", "--site", site).stderr


def test_the_virtual_hospitals_hold_each_image_once(site: Path, tmp_path: Path) -> None:
    target, about = own_hospitals(
        site, parse_job(JOB), "own", sites=3, partition="iid", seed=0, folder=tmp_path / "hospitals"
    )
    found = [image.key for number in (1, 2, 3) for image in virtual_catalogue(target.hospitals, number).images("toy")]
    assert sorted(found) == sorted(image.key for image in open_catalogue(site).images("own"))
    assert target.decoding is not None
    assert about.count("hospital") > 2

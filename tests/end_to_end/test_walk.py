"""A walk through the README as three people take it: every screen has the exit code, the one line and the remedy they need.

The researcher misspells, the coordinator founds a consortium of five, runs the README's private job with fewer rounds, admits a
sixth hospital while it runs and removes one, and an auditor checks the old transcript.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tests.builders import write_npz
from tests.cli import Result, salus
from tests.processes import Forked

from salus.simulations.trial import Trial, empty

ROOT = Path(__file__).resolve().parents[2]
PRIVATE = ROOT / "simulations" / "jobs" / "pneumonia-private.toml"
ROUNDS = 3
FINGERPRINT = re.compile(r"(?:[0-9a-f]{4}\s+){7}[0-9a-f]{4}")


def good(*words: object) -> str:
    """Run a command that should succeed, and return its screen."""
    result = salus(*words)
    assert result.returncode == 0, f"{words}: {result.stderr}"
    assert "Traceback" not in result.stdout + result.stderr
    return result.stdout


def mistaken(folder: Path, code: int, *words: object, says: Sequence[str]) -> None:
    """Run a command with a mistake: one line with what was wrong and what to do, a fitting exit code, and no path of ours."""
    result = salus(*words)
    assert result.returncode == code, f"{words}: {result.returncode} {result.stderr}"
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert str(folder) not in lines[0]
    for text in says:
        assert text in lines[0], lines[0]
    assert re.search(r"[.?)] [A-Z][^.]+.*\.$", lines[0]), f"no remedy: {lines[0]}"


def private_job(path: Path, **changes: str) -> Path:
    """Write the README's private job with fewer rounds, and with some words changed."""
    text = PRIVATE.read_text().replace("rounds = 300 ", f"rounds = {ROUNDS} ")
    text = text.replace("patients_per_site = 588", "patients_per_site = 100")
    assert f"rounds = {ROUNDS} " in text
    assert "patients_per_site = 100" in text
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


class Walk(Trial):
    """A trial whose people type the README's commands and read their screens."""

    def _found(self, names: Sequence[str]) -> None:
        founded = good("consortium", "init", self.folder / "consortium", "--name", "Paediatric imaging")
        (self.fingerprint,) = FINGERPRINT.findall(" ".join(founded.split()))
        url = f"https://127.0.0.1:{self.port}"
        made = good("server", "init", self.coordinator, "--name", "University", "--url", url, "--listen", "127.0.0.1")
        added = good("consortium", "add-site", self.folder / "consortium", self.coordinator / "coordinator.request")
        same_fingerprint(made, added)
        for name in names:
            self.admit(name)
        self.issue()

    def admit(self, name: str) -> Path:
        site = self.folder / f"site-{len(self.sites) + 1}"
        made = good("client", "init", site, "--name", name)
        assert "site.request to the consortium" in " ".join(made.split())
        added = good("consortium", "add-site", self.folder / "consortium", site / "site.request")
        same_fingerprint(made, added)
        assert "salus consortium issue" in added
        (site / "site.toml").write_text("reconnect_max_s = 2.0\n[performance]\nthreads = 1\n")
        self.sites.append(site)
        data = write_npz(site / "pneumoniamnist.npz", images=80, seed=len(self.sites), side=28)
        shown = good("dataset", "add", site, "chest-xray", data)
        assert "The labels are numbers" in shown
        assert f"salus dataset declare {site} chest-xray --yes" in shown.replace("\n", "")
        good("dataset", "declare", site, "chest-xray", "--classes", "normal,pneumonia", "--yes")
        return site

    def issue(self) -> None:
        good("consortium", "issue", self.folder / "consortium", self.folder / "kits")
        joined = [good("server", "join", self.coordinator, self.folder / "kits" / "coordinator.kit")]
        joined += [good("client", "join", site, self.folder / "kits" / f"{site.name}.kit") for site in self.sites]
        for text in joined:
            assert self.fingerprint in " ".join(text.split())
            assert "daemon" in text, "it says when the roster takes effect"


def same_fingerprint(one: str, other: str) -> None:
    """Two people compare a fingerprint by telephone."""
    first, second = (FINGERPRINT.findall(" ".join(text.split())) for text in (one, other))
    assert len(first) == 1
    assert first == second


def misspell_at_the_site(folder: Path, site: Path) -> None:
    """A path, a column and a data set."""
    mistaken(folder, 20, "dataset", "add", site, "new", folder / "imagse", says=["'imagse'", "Check the path"])
    pictures = folder / "pictures"
    pictures.mkdir()
    (pictures / "labels.csv").write_text("file,label\n0.png,normal\n")
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(pictures / "0.png")
    mistaken(
        folder, 20, "dataset", "add", site, "new", pictures, "--label-column", "lable",
        says=["'lable'", "did you mean 'label'", "--label-column"],
    )  # fmt: skip
    mistaken(folder, 20, "dataset", "check", site, "chest-xry", says=["'chest-xry'", "chest-xray", "salus dataset"])
    mistaken(folder, 12, "client", "join", site, folder / "kits" / "site-2.kit", says=["another member's kit"])


def misspell_in_the_job(folder: Path, coordinator: Path) -> None:
    """A key, a file, a class, a data set and a folder."""
    key = private_job(folder / "key.toml", sampling_rate="sampling_rat")
    mistaken(folder, 10, "job", "validate", key, says=["did you mean 'sampling_rate'", "Correct the file"])
    mistaken(folder, 10, "job", "validate", folder / "privat.toml", says=["'privat.toml'", "Check the path"])
    for name, right, wrong in (("class", "pneumonia", "pneumona"), ("data", "chest-xray", "chest-xry")):
        job = private_job(folder / f"{name}.toml", **{f'"{right}"': f'"{wrong}"'})
        says = [f"'{wrong}'", f"did it mean '{right}'", "5 cannot run it", "salus job check"]
        mistaken(folder, 44, "job", "submit", coordinator, job, says=says)
        checked = salus("job", "check", coordinator, job)
        assert checked.returncode == 44
        assert checked.stdout.count(f"did it mean '{right}'") == 1, "one line for all sites with the same reason"
        assert "site 1, 2, 3, 4, 5: " in checked.stdout
    mistaken(folder, 11, "job", "list", folder / "site-1", says=["'site-1' is not a coordinator's folder"])
    mistaken(folder, 50, "job", "show", coordinator, "pneumonia-9999", says=["'pneumonia-9999'", "salus job list"])


def audit(folder: Path, coordinator: Path, job: str) -> None:
    """Check an old transcript with the kit of a member that was not there, and one that somebody has changed."""
    transcript, kit = coordinator / "transcripts" / f"{job}.jsonl", folder / "kits" / "site-6.kit"
    checked = good("verify", transcript, "--kit", kit)
    assert "Roster 1 of Paediatric imaging, 5 sites" in checked
    assert "1, 2, 3, 4, 5" in checked
    lines = transcript.read_text().splitlines()
    changed = folder / "changed.jsonl"
    changed.write_text("\n".join([*lines[:-1], lines[-1].replace("1", "2")]) + "\n")
    mistaken(folder, 41, "verify", changed, "--kit", kit, says=["transcript"])
    mistaken(folder, 11, "verify", folder / "absent.jsonl", "--kit", kit, says=["'absent.jsonl'", "Check the path"])


def submitted(result: Result | str) -> str:
    """Return the id in a screen that says what was submitted."""
    text = result if isinstance(result, str) else result.stdout
    return re.findall(r"Submitted (\S+)\.", text)[0]


def test_the_walk(tmp_path: Path) -> None:
    empty(tmp_path / "t")
    walk = Walk(tmp_path / "t", [f"Site {number}" for number in range(1, 6)], policy="", launcher=Forked)
    folder, coordinator = walk.folder, walk.coordinator
    misspell_at_the_site(folder, walk.sites[0])
    mistaken(folder, 31, "server", "status", coordinator, says=["does not answer", "salus server start"])
    job = private_job(folder / "private.toml")
    assert "(3, 1e-05)-differential privacy per patient" in good("job", "validate", job)
    with walk:
        walk.start_all()
        mistaken(folder, 11, "client", "start", walk.sites[0], says=["already running", "Stop it first"])
        misspell_in_the_job(folder, coordinator)
        checked = good("job", "check", coordinator, job)
        assert "0 of 5 cannot run it" in checked
        assert "epsilon" in checked
        identifier = submitted(good("job", "submit", coordinator, job))

        walk.wait_for_round(identifier, 1)
        walk.kill(coordinator)  # while people exchange files: the job cannot end before the sixth hospital is there
        sixth = walk.admit("Site 6")
        walk.issue()
        walk.start_missing()
        assert walk.wait_for(identifier)["status"] == "finished"
        shown = good("job", "show", coordinator, identifier)
        assert "finished" in shown
        assert "site 1 (Site 1)" in " ".join(shown.split())
        assert "Not asked now: site 6 (Site 6): joined the consortium after the job began" in shown
        for name in ("Model: ", "Report: "):
            (path,) = [line.removeprefix(name) for line in shown.splitlines() if line.startswith(name)]
            assert Path(path).exists()
        happened = good("job", "events", coordinator, identifier)
        assert "The job finished." in happened
        again = salus("job", "resume", coordinator, identifier)
        assert (again.returncode, again.stderr.count("Error: ")) == (10, 1)
        assert "finished" in again.stderr

        walk.kill(walk.sites[1])
        removed = good("consortium", "remove-site", folder / "consortium", "Site 2")
        assert "takes effect only" in " ".join(removed.split())
        mistaken(folder, 11, "consortium", "remove-site", folder / "consortium", "Site 2", says=["3 Site 3"])
        walk.sites.pop(1)
        walk.issue()
        walk.start_missing()
        walk.wait_online(5)
        checked = good("job", "check", coordinator, job)
        assert "0 of 5 cannot run it" in checked
        assert "Site 2" not in checked
        assert "Roster 3" in good("client", "status", sixth)
    audit(folder, coordinator, identifier)
    spent = good("ledger", "show", walk.sites[0])
    assert "chest-xray" in spent

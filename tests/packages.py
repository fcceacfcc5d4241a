"""A tiny finished job with all of its records, and packages of it that a test may change."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.builders import job_text, toy_identity, toy_keys, toy_site

from salus.common.canonical import canonical_json
from salus.common.clock import SystemClock
from salus.common.events import EventLog
from salus.common.identity import Identity, Signed
from salus.common.job import Job, job_from_canonical, parse_job, seal_job
from salus.common.kit import SIGNING_KEY, read_kit
from salus.common.package.layout import CONTEXT, MANIFEST
from salus.common.roster import Roster
from salus.common.start.store import STARTS, CoordinatorStarts
from salus.common.start.weights import Weights
from salus.privacy.audit.one_run import bound_of_counts
from salus.privacy.records.card import ModelCard
from salus.privacy.records.privacy import PrivacyRecord
from salus.privacy.records.readable import Records, readable_files
from salus.server.attempts import Attempts
from salus.server.checkpoints import Checkpoints
from salus.server.measuring import keep_model
from salus.server.packaging.collecting import export_package
from salus.server.packaging.runs import open_run
from salus.server.rounds import run_of
from salus.simulations.auditing.world import InOneProcess
from salus.simulations.members import begin_transcript, found_consortium

SITES = 5
NOISE = "epsilon = 3.0\nsampling_rate = 0.5\npatients_per_site = 20\nevaluation_share = 0.4"
Content = dict[str, bytes]


def plain_text(**changes: Any) -> str:
    """Return the job file of a masked job, without noise unless changed."""
    text = job_text(**{"rounds": 1, "min_sites": SITES, "protection": "masking", **changes})
    return f'{text}[evaluation]\nsubgroups = ["sex"]\n'


def plain_job() -> Job:
    """Return a masked job without noise."""
    return parse_job(plain_text())


def audit_of(job: Job, **changes: Any) -> bytes:
    """Return what `salus audit` writes about a job."""
    noised = job.privacy.noised
    delta = job.privacy.delta if noised else 0.0
    counts = {"canaries": 500, "guesses": 500, "correct": 327}
    found = {
        "format": "salus/audit/1",
        "job_sha256": job.digest().hex(),
        "claimed_epsilon": job.privacy.epsilon if noised else None,
        "delta": delta,
        "lower_bound": round(bound_of_counts(**counts, delta=delta, noised=noised), 4),
        "confidence": 0.95,
        **counts,
        "refuted": False,
    }
    return json.dumps({**found, **changes}).encode()


def private_job() -> Job:
    """Return a masked job with noise at each site."""
    return parse_job(plain_text(privacy=NOISE))


def finish(folder: Path, job: Job, start: Weights | None = None) -> Path:
    """Run a job in this process, as a simulation keeps it; returns the folder.

    Args:
        start: the weights with which the job starts.
    """
    keys, home = toy_keys(SITES), folder / "coordinator"
    coordinator, roster = found_consortium(home, keys, SystemClock())
    sites = {
        number: toy_site(folder / f"site-{number}", number, coordinator.public_key, sites=SITES) for number in keys
    }
    for number in keys:
        (folder / f"site-{number}" / "keys").mkdir()
        toy_identity(number).save(folder / f"site-{number}" / "keys" / SIGNING_KEY)
    signed, checkpoints = seal_job(job, coordinator), Checkpoints(home)
    job_id = checkpoints.submit(signed, job.job.name)
    transcript = begin_transcript(folder / "transcripts" / f"{job_id}.jsonl", roster)
    events = EventLog(folder / "events.jsonl")
    attempts = Attempts(
        job, job_id, signed, InOneProcess(sites), checkpoints, events, keys, transcript, start=start, patience_s=0.0
    )
    if job.start is not None and start is not None:
        CoordinatorStarts(home / STARTS).put(job.start, start)
    run_of(attempts).run()
    keep_model(attempts, coordinator)
    checkpoints.set_status(job_id, "finished")
    return folder


def export(run: Path, folder: Path) -> Path:
    """Write the package of a run; returns its folder."""
    export_package(open_run(run), folder, SystemClock())
    return folder


def consortium_key(run: Path) -> bytes:
    """Return the key that a kit of the run's consortium pins."""
    return bytes.fromhex(read_kit(kit(run)).consortium_key)


def kit(run: Path) -> Path:
    """Return the kit of a run's consortium."""
    return run / "coordinator" / "trust" / "kit.json"


def content(package: Path) -> Content:
    """Return the files of a package's folder."""
    return {path.relative_to(package).as_posix(): path.read_bytes() for path in package.rglob("*") if path.is_file()}


def write_folder(files: Mapping[str, bytes], folder: Path) -> Path:
    """Write files to a folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zip(files: Mapping[str, bytes], path: Path) -> Path:
    """Write files to a zip."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def changed_json(data: bytes, change: Callable[[Any], object]) -> bytes:
    """Return JSON after a change of its value."""
    value = json.loads(data)
    change(value)
    return canonical_json(value)


def readable_again(files: Content) -> Content:
    """Return the files with those for people written again from the others, as a dishonest coordinator would."""
    job, roster = (json.loads(json.loads(files[name])["document"]) for name in ("job.json", "roster.json"))
    records = Records(
        job_from_canonical(canonical_json(job)),
        Roster.model_validate_json(json.dumps(roster)),
        ModelCard.model_validate_json(files["card.json"]),
        PrivacyRecord.model_validate_json(files["privacy.json"]),
        json.loads(files["evaluation.json"]),
        json.loads(files["versions.json"]),
        next(
            fact["value"]["signed sums in the transcript"]
            for fact in json.loads(files["documentation.json"])["facts"]
            if fact["what"] == "cybersecurity"
        ),
    )
    return {**files, **readable_files(records)}


def signed_again(files: Content, run: Path, change: Callable[[dict[str, Any]], object] = lambda value: None) -> Content:
    """Return the files with a manifest that the run's coordinator has signed again, as a dishonest one could."""
    coordinator = Identity.load(run / "coordinator" / "keys" / SIGNING_KEY)
    manifest = json.loads(json.loads(files[MANIFEST])["document"])
    manifest["files"] = [
        {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in sorted(files.items())
        if name != MANIFEST
    ]
    change(manifest)
    return {**files, MANIFEST: Signed.seal(coordinator, CONTEXT, canonical_json(manifest)).to_bytes()}

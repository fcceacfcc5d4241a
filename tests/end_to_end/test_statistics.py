"""Statistics and unreadable files in whole federations: real processes, real TLS."""

import json
from pathlib import Path

import numpy as np
from tests.cli import salus

from salus.client.config import open_catalogue
from salus.client.data.sources.settings import SourceOptions
from salus.common.events import read_events
from salus.simulations.phantoms import Hospital, write_hospital
from salus.simulations.trial import Trial

STATISTICS = """
[job]
name = "intensities"
rounds = 1
min_sites = 5
[task]
dataset = "measured"
classes = ["no", "yes"]
[privacy]
noise = "none"
[statistics]
kind = "quantiles"
intensity_high = 1.0
bins = 4096
"""
TRAINING = """
[job]
name = "lesions"
rounds = 2
min_sites = 5
[task]
kind = "classification"
model = "logistic"
dataset = "phantoms"
classes = ["healthy", "lesion"]
shape = [16, 16]
[privacy]
noise = "none"
"""


def test_salus_stats_measures_over_daemons_and_writes_a_page(federation: Trial, tmp_path: Path) -> None:
    values = []
    for site in federation.sites:
        with np.load(site / "toy.npz") as arrays:
            values += [arrays[f"{split}_images"].ravel() for split in ("train", "val", "test")]
    (tmp_path / "job.toml").write_text(STATISTICS)
    (tmp_path / "train.toml").write_text(TRAINING)
    done = salus("stats", federation.coordinator, tmp_path / "job.toml")
    assert done.returncode == 0, done.stderr
    number = next(row["job"] for row in federation.admin.get("/jobs") if row["job"].startswith("intensities-"))
    shown = salus("stats", federation.coordinator, number, "--json")
    wrong = salus("stats", federation.coordinator, tmp_path / "train.toml")
    assert wrong.returncode != 0
    assert "salus job submit" in wrong.stderr
    assert 'kind = "zscore"' in done.stdout
    found = json.loads(shown.stdout)["groups"]["ALL"]["quantiles"]
    pooled = np.concatenate(values) / 255
    for name in ("0.25", "0.5", "0.75"):
        assert abs(found[name] - np.quantile(pooled, float(name), method="inverted_cdf")) < 2 / 255
    page = (federation.coordinator / "reports" / f"{number}.html").read_text()
    assert "Intensities of all images" in page
    assert "kind = &#34;zscore&#34;" in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_site_with_48_unreadable_studies_of_191_takes_part_and_everybody_concerned_sees_48(
    federation: Trial, tmp_path: Path
) -> None:
    for number, site in enumerate(federation.sites, start=1):
        data = tmp_path / f"data{number}"
        patients = 110 if number == 2 else 20  # only this one needs 191 studies
        hospital = Hospital(f"H{number}", "PhantomA Imaging", 1.0, (600, 1200), False, 0.5, 60, patients, damaged=0)
        write_hospital(data, hospital, seed=number, side=16)
        if number == 2:
            studies = sorted(path for path in data.glob("*/*") if path.is_dir())
            for study in studies[191:]:
                for image in study.iterdir():
                    image.unlink()
            for study in studies[:191]:
                for image in sorted(study.iterdir())[1:]:
                    image.unlink()  # one image a study, so that studies can be counted by files
            for number_, study in enumerate(studies[:48]):
                image = next(study.iterdir())
                whole = image.read_bytes()
                image.write_bytes([whole[: len(whole) // 2], b"", whole[:-100], b"not dicom" * 40][number_ % 4])
        open_catalogue(site).add("phantoms", "dicom", data, SourceOptions())
    summary = open_catalogue(federation.sites[1]).summary("phantoms")
    assert (summary.images, sum(summary.quarantined.values())) == (191 - 48, 48)
    result = federation.wait_for(federation.submit(TRAINING))
    assert result["status"] == "finished"
    assert all(record["sites"] == [1, 2, 3, 4, 5] for record in result["rounds"])
    assert [record["cohort"]["left_out"] for record in result["rounds"]] == [48, 48]
    assert "48 files could not be used" in Path(result["report"]).read_text()
    seen = [
        event
        for event in read_events(federation.sites[1] / "events.jsonl")
        if event.kind == "trained" and event.fields["job"] == result["job"]
    ]
    assert seen
    assert all(sum(event.fields["left_out"].values()) == 48 for event in seen)  # type: ignore[attr-defined]
    shown = json.loads(salus("dataset", "show", federation.sites[1], "phantoms", "--json").stdout)
    assert sum(shown["quarantined"].values()) == 48

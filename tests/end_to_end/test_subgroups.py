"""A masked job over real daemons that evaluates in subgroups, compared with the simulation."""

from pathlib import Path

import pytest
from tests.builders import job_text
from tests.cli import salus
from tests.people import OPTIONS, with_subgroups, write_people

from salus.client.config import open_catalogue
from salus.client.performance import Performance
from salus.common.job import parse_job
from salus.common.subgroups.results import results_from_plain
from salus.simulations.simulate import simulate
from salus.simulations.trial import Trial
from salus.simulations.virtual import make_hospitals
from salus.simulations.virtual import open_catalogue as virtual_catalogue


@pytest.mark.slow  # `tests/simulations/test_subgroups.py` checks the figures, and other daemons the way every day
def test_daemons_find_the_same_subgroups_as_the_simulation(federation: Trial, tmp_path: Path) -> None:
    text = job_text(
        protection="masking",
        training='validation_fraction = 0.5\noptimizer = "sgd"',
        rounds=2,
        min_sites=5,
        dataset="grouped",
    ).replace("batch_size = 8", "batch_size = 4096")  # one batch: its order is each site's secret
    text = with_subgroups(text, more="age_edges = [30, 60]")
    job = parse_job(text)
    people = write_people(tmp_path / "people", patients=150, others=6, split=True)
    simulated = simulate(
        job, people, sites=5, partition="iid", seed=3, folder=tmp_path / "sim", options=OPTIONS,
        performance=Performance(device="cpu", threads=1),
    )  # fmt: skip
    make_hospitals(job, people, OPTIONS, sites=5, partition="iid", seed=3, folder=tmp_path / "again")
    for number, site in enumerate(federation.sites, start=1):
        virtual = virtual_catalogue(tmp_path / "again", number)
        mine = {image.key for image in virtual.images("grouped")}
        records = [record for record in virtual.source("grouped").scan() if record.key in mine]
        declared = virtual.declarations.all()["grouped"] or False
        open_catalogue(site).add_records("grouped", "images", people, OPTIONS, records, declare=declared)
    result = federation.wait_for(federation.submit(text))
    assert result["status"] == "finished"
    events = federation.admin.get(f"/jobs/{result['job']}/events")
    real = next(event["fields"]["subgroups"] for event in events if event["kind"] == "evaluated")
    found, wanted = results_from_plain(real), simulated.subgroups
    assert [result.attribute for result in found] == ["sex", "age"]
    assert [result.hidden for result in found] == [result.hidden for result in wanted]
    assert found[0].hidden, "the patients of sex O are too few at every site"
    for mine, theirs in zip(found, wanted, strict=True):
        for group, same in zip(mine.groups, theirs.groups, strict=True):
            assert (group.value, group.patients) == (same.value, same.patients)
            assert group.metrics.keys() == same.metrics.keys()
            for name, metric in group.metrics.items():
                # The masked sum's fixed point rounds, so the weights agree to about 1e-5, and a score may change its bin.
                assert metric == pytest.approx(same.metrics[name], abs=0.02), (group.value, name)
    assert "Quality in subgroups" in Path(result["report"]).read_text()
    assert "Final model by subgroup" in salus("job", "show", federation.coordinator, result["job"]).stdout

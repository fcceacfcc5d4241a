"""Several jobs at once over real daemons: they alternate at the sites, drop nobody, survive `kill -9`, and learn the same."""

import numpy as np
from safetensors.numpy import load_file
from tests.builders import job_text

from salus.common.events import read_events
from salus.simulations.trial import Trial


def masked(rounds: int) -> str:
    text = job_text(rounds=rounds, dataset="masked", protection="masking", min_sites=3, training='optimizer = "sgd"')
    return text.replace("batch_size = 8", "batch_size = 4096")  # one batch: no order of images


def test_jobs_over_different_data_run_at_once_and_survive_a_killed_coordinator(federation: Trial) -> None:
    alone = federation.wait_for(federation.submit(masked(3)))
    first = federation.submit(job_text(rounds=500, dataset="toy"))
    federation.wait_for_round(first, 1)
    second = federation.submit(masked(3))
    third = federation.submit(job_text(rounds=1, dataset="toy"))
    rows = {row["job"]: row for row in federation.admin.get("/jobs")}
    assert rows[third]["place"] == 1
    assert rows[third]["reason"].startswith(f"waits for {first}")
    federation.wait_for_round(second, 1)
    federation.kill(federation.coordinator)
    federation.start(federation.coordinator)
    result = federation.wait_for(second)
    assert result["status"] == "finished"
    assert federation.admin.get(f"/jobs/{first}")["status"] == "running", "both ran at once"
    federation.admin.post(f"/jobs/{first}/cancel")
    assert federation.wait_for(third)["status"] == "finished"
    assert [record["sites"] for record in result["rounds"]] == [[1, 2, 3, 4, 5]] * 3
    happened = read_events(federation.coordinator / "events.jsonl")
    mine = [event for event in happened if event.fields.get("job") in (first, second)]
    left_out = [event for event in mine if event.kind == "left-out" and "answer" in str(event.fields["text"])]
    assert left_out == [], "nobody is left out because it works for the other job"
    assert {event.fields["job"] for event in mine if event.kind == "waiting-for-turn"} == {first, second}
    together, before = load_file(result["model"]), load_file(alone["model"])
    assert all(np.allclose(together[name], before[name], atol=1e-5) for name in before)

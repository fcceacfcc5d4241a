"""Masked sums over real daemons, and what a listener finds on the wire."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from tests.builders import job_text, tiny_job, write_npz
from tests.cli import salus
from tests.server.test_rounds import Here, World

from salus.client.data.sources.settings import SourceOptions
from salus.client.performance import Performance
from salus.common.clock import SystemClock
from salus.common.errors import ProtectionError, SalusError
from salus.common.job import load_job
from salus.common.packets import Reply, Request
from salus.server.config import ServerFolder
from salus.server.transcripts import verify_file
from salus.simulations.simulate import simulate
from salus.simulations.trial import Trial

JOBS = Path(__file__).resolve().parents[2] / "simulations" / "jobs"


def test_a_masked_job_over_daemons_survives_a_killed_site_and_its_transcript_holds(
    federation: Trial, tmp_path: Path
) -> None:
    job = federation.submit(
        job_text(rounds=5, model="cnn", training="local_epochs = 3", protection="masking", dataset="masked")
    )
    federation.wait_for_round(job, 2)
    federation.kill(federation.sites[2])
    federation.start(federation.sites[2])
    result = federation.wait_for(job)
    assert result["status"] == "finished"
    assert all(record["sites"] == [1, 2, 3, 4, 5] for record in result["rounds"])
    consortium_key = ServerFolder.open(federation.coordinator, SystemClock()).trust.consortium_key
    path = federation.coordinator / "transcripts" / f"{job}.jsonl"
    sums = verify_file(path, consortium_key).verified.sums
    assert [line["round"] for line in sums] == [1, 2, 3, 4, 5, 6]
    kit = federation.folder / "kits" / "site-1.kit"
    verified = salus("verify", path, "--kit", kit, "--json")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["sums"] == sums
    assert "no formal privacy" in json.loads(verified.stdout)["privacy"]["statement"]
    forged = tmp_path / "forged.jsonl"
    forged.write_text(path.read_text().replace('"round":3', '"round":4', 1))
    with pytest.raises(ProtectionError, match="is not valid"):
        verify_file(forged, consortium_key)
    refused = salus("verify", forged, "--kit", kit, "--json")
    assert refused.returncode == 41
    assert "Traceback" not in refused.stderr


class Wire(Here):
    """Keeps every byte that passes between coordinator and sites, except the masked vectors and the global model."""

    def __init__(self, inner: Here) -> None:
        super().__init__(inner.sites)
        self.seen: list[bytes] = []
        self.masked: list[bytes] = []

    def exchange(
        self, requests: Mapping[int, tuple[Request, bytes]], timeout_s: float
    ) -> Iterator[tuple[int, Reply | SalusError, bytes]]:
        for request, blob in requests.values():
            self.seen.append(request.model_dump_json().encode())
            if request.kind not in ("train", "evaluate"):
                self.seen.append(blob)
        for site, reply, blob in super().exchange(requests, timeout_s):
            assert isinstance(reply, Reply)
            self.seen.append(reply.model_dump_json().encode())
            if len(blob) > 2000:  # shares and signatures of five sites are shorter
                self.masked.append(blob[64:])
                self.seen.append(blob[:64])
            else:
                self.seen.append(blob)
            yield site, reply, blob


def test_nothing_about_a_site_is_on_the_wire_outside_the_masked_vector(tmp_path: Path) -> None:
    job = tiny_job(rounds=2, protection="masking")
    world = World(tmp_path, job, sites=5)
    wire = Wire(world.sites)
    world.sites = wire
    world.run()
    planted = [b"toy.npz", b"train/", b"catalogue", b"Site", b"validation_images"]
    counts = [60, 40, 20]  # images, patients, validation patients
    traffic = b"\n".join(wire.seen)
    for text in planted:
        assert text not in traffic
    values = [np.float64(loss) for loss in (0.693147, 0.5)]
    needles = [n.to_bytes(w, order) for n in counts for w, order in ((8, "little"), (8, "big"))]
    needles += [value.tobytes() for value in values] + [np.float32(value).tobytes() for value in values]
    ciphertext_free = [part for part in wire.seen if part.startswith(b"{")]
    assert not any(needle in part for needle in needles for part in ciphertext_free)
    # Replies of different sites differ in keys, boxes, signatures, the nonce and the site's number only: no length differs.
    replies = [json.loads(part) for part in ciphertext_free if b'"kind":"ok"' in part]
    assert {tuple(sorted(reply)) for reply in replies} == {("error", "kind", "nonce", "protocol", "site", "text")}
    assert {(reply["error"], reply["text"]) for reply in replies} == {("", "")}
    assert len({len(vector) for vector in wire.masked[:5]}) == 1
    # And the same search finds the plain vector where there is no protection, so that it can fail.
    plain = World(tmp_path / "plain", tiny_job(rounds=1), sites=5)
    open_wire = Wire(plain.sites)
    plain.sites = open_wire
    plain.run()
    weight = np.float32(40 / 50).tobytes()
    assert any(weight in vector for vector in open_wire.masked)
    assert not any(weight in vector for vector in wire.masked)


def test_masked_and_plain_sums_give_the_same_model(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "toy.npz", images=100)
    models = {}
    for protection in ("none", "masking"):
        result = simulate(
            tiny_job(rounds=3, protection=protection), data, sites=5, partition="iid", seed=0, folder=tmp_path / protection,
            options=SourceOptions(), performance=Performance(device="cpu", threads=1),
        )  # fmt: skip
        models[protection] = result.model
    from safetensors.numpy import load_file

    plain, masked = (load_file(models[name]) for name in ("none", "masking"))
    for name in plain:
        assert np.allclose(plain[name], masked[name], atol=2e-4), name
    assert any(not np.array_equal(plain[name], masked[name]) for name in plain), "rounding must leave a trace"


def test_a_site_that_drops_in_a_masked_round_is_tolerated_up_to_n_minus_t(tmp_path: Path) -> None:
    world = World(tmp_path, tiny_job(rounds=1, protection="masking"), sites=8)
    world.sites.broken = {3: "silent", 7: "error"}
    world.run()
    assert world.store.records(world.job_id)[0]["sites"] == [1, 2, 4, 5, 6, 8]


@pytest.mark.shared_data
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_pneumonia_masked_is_as_good_as_plain(tmp_path: Path, shared_data: Path) -> None:
    scores = {}
    job = load_job(JOBS / "pneumonia.toml")
    for protection in ("none", "masking"):
        aggregation = job.aggregation.model_copy(update={"protection": protection})
        result = simulate(
            job.model_copy(update={"aggregation": aggregation}), shared_data / "pneumoniamnist", sites=8,
            partition="dirichlet:0.5", seed=0, folder=tmp_path / protection, options=SourceOptions(),
            performance=Performance(device="cpu"),
        )  # fmt: skip
        scores[protection] = result.metrics["auc"]
    assert scores["masking"] == pytest.approx(scores["none"], abs=0.002)

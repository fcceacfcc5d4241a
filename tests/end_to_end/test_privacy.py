"""Jobs with noise from the coordinator's round to the site's ledger, over virtual sites and over real daemons."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.builders import job_text, tiny_job, toy_site, write_npz
from tests.cli import salus

from salus.client.data.sources.settings import SourceOptions
from salus.client.ledger.entries import Commit
from salus.client.ledger.report import job_lines
from salus.client.ledger.store import Budget, Ledger
from salus.client.performance import Performance
from salus.client.policy import Policy
from salus.common.clock import SystemClock
from salus.common.events import read_events
from salus.common.identity import Identity
from salus.common.job import Job, parse_job, seal_job
from salus.common.models import build_model
from salus.common.packets import Request
from salus.common.vectors import layout_of, read_parameters
from salus.privacy.dp.plan import plan_of
from salus.simulations.simulate import simulate
from salus.simulations.trial import Trial

PRIVACY = """
noise = "{noise}"
epsilon = 3.0
sampling_rate = 0.5
patients_per_site = 16
evaluation_share = 0.2
"""


def private_job(noise: str, rounds: int = 3, **changes: object) -> Job:
    return parse_job(
        job_text(rounds=rounds, min_sites=3, protection="masking", privacy=PRIVACY.format(noise=noise), **changes)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("noise", ["local", "distributed"])
def test_a_private_job_runs_and_its_card_is_what_the_ledgers_say(tmp_path: Path, noise: str) -> None:
    job = private_job(noise)
    data = write_npz(tmp_path / "toy.npz", images=120)
    result = simulate(
        job,
        data,
        sites=4,
        partition="iid",
        seed=0,
        folder=tmp_path / "run",
        options=SourceOptions(),
        performance=Performance(device="cpu", threads=1),
    )
    assert len(result.rounds) == 3
    assert all(record["metrics_before"] == {} for record in result.rounds)  # no number without noise of its own
    card = result.privacy
    assert (card.mode, card.unit, card.source) == (noise, "patient", "transcript")
    for row in card.sites:
        book = Ledger(tmp_path / "run" / f"site-{row.site}" / "ledger.sqlite", SystemClock())
        book.verify()
        (line,) = job_lines(book)
        assert row.epsilon == pytest.approx(float(str(line["spent_epsilon"])), abs=1e-4)
        assert row.epsilon is not None
        assert 0 < row.epsilon <= 3.0
        assert sum(isinstance(entry, Commit) for entry, _ in book.entries()) == row.attempts == 4
    evaluated = [event for event in read_events(tmp_path / "run" / "events.jsonl") if event.kind == "evaluated"]
    assert evaluated


class Asked:
    """One site and its coordinator's requests."""

    def __init__(self, folder: Path, job: Job, policy: Policy | None = None) -> None:
        self.coordinator = Identity.generate()
        self.job, self.folder = job, folder
        self.site = toy_site(
            folder, 1, self.coordinator.public_key, policy or Policy(budget=Budget(epsilon=1000.0)), sites=3
        )
        model = build_model(job.task, 0)
        self.layout = layout_of(model)
        self.model = read_parameters(model, self.layout)

    def train(
        self, round_: int = 1, attempt: int = 0, job_id: str = "tiny-0001", kind: str = "train", shift: float = 0
    ) -> str:
        """Ask and return the kind of the reply and its text."""
        request = Request.model_validate(
            {"kind": kind, "job_id": job_id, "job": seal_job(self.job, self.coordinator), "round": round_,
             "attempt": attempt, "sites": (1, 2, 3)}
        )  # fmt: skip
        reply, _ = self.site.handle(request, self.layout.encode((self.model + shift).astype(np.float32)))
        return f"{reply.kind} {reply.text}"

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / "ledger.sqlite", SystemClock())

    def commits(self) -> int:
        return sum(isinstance(entry, Commit) for entry, _ in self.ledger.entries())


def test_a_retry_with_local_noise_sends_the_same_and_costs_nothing(tmp_path: Path) -> None:
    asked = Asked(tmp_path, private_job("local"))
    for attempt in range(5):
        assert asked.train(attempt=attempt).startswith("ok")
    assert asked.commits() == 1
    assert asked.train(round_=2, shift=1.0).startswith("ok")  # another model: another release
    assert asked.commits() == 2


def test_a_retry_with_distributed_noise_is_charged_and_ends_with_what_was_reserved(tmp_path: Path) -> None:
    job = private_job("distributed", rounds=2)
    plan = plan_of(job)
    assert plan is not None
    asked = Asked(tmp_path, job)
    answers = [asked.train(attempt=attempt) for attempt in range(plan.attempts + 1)]
    assert [answer[:2] for answer in answers] == ["ok"] * plan.attempts + ["re"]
    assert "used up" in answers[-1]
    assert asked.commits() == plan.attempts


def test_a_job_over_budget_is_refused_before_data_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(tmp_path, private_job("local"), Policy.model_validate({"budget": {"epsilon": 2.0}}))
    monkeypatch.setattr("salus.client.preparing.local_data", lambda *_: pytest.fail("data were read"))
    answer = asked.train()
    assert "privacy budget does not allow the job" in answer
    assert not any(letter.isdigit() for letter in answer)  # the numbers are about patients: they stay in the site's log
    log = (tmp_path / "events.jsonl").read_text()
    assert "at most epsilon 2 (delta 1e-05) per patient in 365 days" in log
    assert asked.ledger.entries() == []


def test_the_same_job_under_another_number_is_charged_again_until_the_budget_ends(tmp_path: Path) -> None:
    asked = Asked(tmp_path, private_job("local"), Policy.model_validate({"budget": {"epsilon": 6.75}}))
    answers = [asked.train(job_id=f"tiny-{number:04d}")[:2] for number in range(1, 6)]
    assert answers[0] == "ok"
    assert "re" in answers


@pytest.mark.parametrize("noise", ["local", "distributed"])
def test_a_site_whose_training_fails_sends_noise_and_pays(
    tmp_path: Path, noise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(tmp_path, private_job(noise))
    assert asked.train(round_=1).startswith("ok")

    def broken(*_: object) -> None:
        raise RuntimeError("the machine is broken")

    # Not a patient's fault, which costs that patient only, see `tests/client/test_private_training.py`.
    monkeypatch.setattr("salus.client.private_training.poisson_sample", broken)
    assert asked.train(round_=2).startswith("ok")
    monkeypatch.undo()
    assert asked.train(round_=3).startswith("ok")  # once is for good: silence now and then would say which samples fail
    running = asked.site._running
    assert running is not None
    assert running.data is None
    assert asked.commits() == 3
    assert any(event.kind == "contributed-nothing" for event in read_events(tmp_path / "events.jsonl"))


def test_a_site_notices_by_itself_that_its_ledger_was_restored(tmp_path: Path) -> None:
    asked = Asked(tmp_path, private_job("local"))
    assert asked.train().startswith("ok")
    asked.ledger.close(asked.ledger.entries()[0][0].job)
    backup = {path.name: path.read_bytes() for path in tmp_path.glob("ledger.sqlite*")}
    for number in (2, 3):
        assert asked.train(job_id=f"tiny-{number:04d}").startswith("ok")
    for path in tmp_path.glob("ledger.sqlite*"):
        path.unlink()
    for name, data in backup.items():
        (tmp_path / name).write_bytes(data)
    asked.site._ledger = asked.ledger
    assert "ledger of site 1 was rolled back" in asked.train(job_id="tiny-0004")
    assert asked.commits() == 1  # and it was not let grow again


def test_daemons_keep_ledgers_and_verify_prints_the_card(federation: Trial, tmp_path: Path) -> None:
    job = federation.submit(
        job_text(
            rounds=3, min_sites=3, protection="masking", dataset="noised", privacy=PRIVACY.format(noise="distributed")
        )
    )
    result = federation.wait_for(job)
    assert result["status"] == "finished"
    card = json.loads((federation.coordinator / "reports" / f"{job}.card.json").read_text())["privacy"]

    def good(*words: object) -> str:
        done = salus(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    path, site = federation.coordinator / "transcripts" / f"{job}.jsonl", federation.sites[0]
    kit = federation.folder / "kits" / "site-1.kit"
    assert json.loads(good("verify", path, "--kit", kit, "--json"))["privacy"] == card
    shown = json.loads(good("ledger", "show", site, "--json"))
    (mine,) = [line for line in shown["jobs"] if line["job"].startswith(f"{job}/")]
    assert mine["spent_epsilon"] == pytest.approx(card["sites"][0]["epsilon"], abs=1e-4)
    assert "all of them in this ledger" in good("ledger", "verify", site, "--transcript", path)
    assert "given back" in good("ledger", "close", site, mine["job"])
    good("ledger", "export", site, tmp_path / "ledger.json")
    assert [entry["kind"] for entry in json.loads((tmp_path / "ledger.json").read_text())][-1] == "close"


def test_a_private_job_is_parsed_and_checked() -> None:
    assert tiny_job(privacy="").privacy.noise == "local"
    for text, message in (
        ('noise = "distributed"', "masking"),
        ('noise = "none"\nepsilon = 1.0', "epsilon"),
        ("epsilon = 0.0", "epsilon"),
        ("sampling_rate = 0.9", "sampling_rate"),
        ("epsylon = 1.0", "epsilon"),
    ):
        with pytest.raises(Exception, match=message):
            tiny_job(privacy=text)

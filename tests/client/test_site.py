import ast
from pathlib import Path

import numpy as np
import pytest
from tests.builders import tiny_job, toy_site

from salus.client.policy import Policy
from salus.client.site import Site
from salus.common.events import read_events
from salus.common.identity import Identity
from salus.common.job import seal_job
from salus.common.models import build_model
from salus.common.packets import Request
from salus.common.vectors import layout_of, read_parameters


@pytest.fixture
def coordinator() -> Identity:
    return Identity.generate()


@pytest.fixture
def site(tmp_path: Path, coordinator: Identity) -> Site:
    return toy_site(tmp_path, 1, coordinator.public_key)


def request(coordinator: Identity, **changes: object) -> Request:
    values: dict[str, object] = {
        "kind": "train",
        "job_id": "tiny-0001",
        "job": seal_job(tiny_job(), coordinator),
        "round": 1,
        "attempt": 0,
        "sites": (1, 2),
    }
    return Request.model_validate({**values, **changes})


def model_bytes() -> bytes:
    job = tiny_job()
    model = build_model(job.task, 0)
    layout = layout_of(model)
    return layout.encode(read_parameters(model, layout))


def test_a_good_request_is_answered_and_logged(site: Site, coordinator: Identity, tmp_path: Path) -> None:
    reply, blob = site.handle(request(coordinator), model_bytes())
    assert reply.kind == "ok"
    assert np.isfinite(np.frombuffer(blob, "<f4")).all()
    trained = [event for event in read_events(tmp_path / "events.jsonl") if event.kind == "trained"]
    assert trained[0].fields["patients"] == 40
    assert trained[0].fields["images"] == 40


def test_the_same_request_gives_the_same_answer(site: Site, coordinator: Identity) -> None:
    first = site.handle(request(coordinator), model_bytes())[1]
    assert first == site.handle(request(coordinator), model_bytes())[1]
    assert first != site.handle(request(coordinator, round=2), model_bytes())[1]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"job": None}, "IdentityError"),
        ({"job": seal_job(tiny_job(), Identity.generate())}, "IdentityError"),
        ({"sites": (2, 3)}, "Refused"),
        ({"sites": (1,)}, "Refused"),
        ({"sites": (1, 1)}, "Refused"),
        ({"round": 3}, "Refused"),
        ({"round": 0}, "Refused"),
        ({"round": 99}, "Refused"),
    ],
)
def test_bad_requests_are_refused_before_data_are_read(
    site: Site, coordinator: Identity, changes: dict[str, object], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("data were read")

    monkeypatch.setattr("salus.client.preparing.local_data", never)
    reply, blob = site.handle(request(coordinator, **changes), model_bytes())
    assert (reply.kind, reply.error, blob) == ("refused", error, b"")


def test_policy_is_asked_before_data_are_read(
    tmp_path: Path, coordinator: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = toy_site(tmp_path, 1, coordinator.public_key, Policy())
    monkeypatch.setattr("salus.client.preparing.local_data", lambda *_: pytest.fail("data were read"))
    reply, _ = strict.handle(request(coordinator), model_bytes())
    assert reply.error == "Refused"
    assert "allow_unprotected" in reply.text


@pytest.mark.parametrize("blob", [b"", b"garbage", b"SALT" + b"\0" * 100])
def test_garbage_instead_of_a_model_is_refused(site: Site, coordinator: Identity, blob: bytes) -> None:
    assert site.handle(request(coordinator), blob)[0].error == "WireError"


def test_an_unforeseen_error_shows_nothing_of_itself(
    site: Site, coordinator: Identity, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def explode(*_: object) -> None:
        raise KeyError("patient Smith in /secret/folder")

    monkeypatch.setattr("salus.client.preparing.local_data", explode)
    reply, _ = site.handle(request(coordinator), model_bytes())
    assert reply.kind == "refused"
    assert "Smith" not in reply.text + (tmp_path / "events.jsonl").read_text()
    assert "/secret" not in reply.text + (tmp_path / "events.jsonl").read_text()


def test_an_answer_without_an_open_session_is_refused(site: Site, coordinator: Identity) -> None:
    assert site.handle(request(coordinator, kind="answer"), b"x")[0].error == "Refused"


def test_evaluation_sends_no_parameters(site: Site, coordinator: Identity) -> None:
    reply, blob = site.handle(request(coordinator, kind="evaluate", round=3), model_bytes())
    assert reply.kind == "ok"
    assert len(blob) < 8000


def test_what_is_wrong_with_the_data_stays_at_the_site(tmp_path: Path, coordinator: Identity) -> None:
    owner = toy_site(tmp_path, 1, coordinator.public_key)
    (tmp_path / "toy.npz").unlink()
    reply, _ = owner.handle(request(coordinator), model_bytes())
    assert reply.error == "DataError"
    assert "toy" not in reply.text
    assert "toy" in (tmp_path / "events.jsonl").read_text()


def test_a_data_set_removed_during_a_job_is_not_trained_on(site: Site, coordinator: Identity) -> None:
    assert site.handle(request(coordinator), model_bytes())[0].kind == "ok"
    site._catalogue.remove("toy")
    assert site.handle(request(coordinator, round=2), model_bytes())[0].error == "DataError"


def test_nothing_beside_the_site_uses_its_private_members() -> None:
    """`try_out` is handed a site; what it needs of it is public."""
    from salus.client import canary

    tree = ast.parse(Path(canary.__file__).read_text())
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "site"
    }
    assert {"prepare", "verdict", "party"} <= used
    assert not [name for name in used if name.startswith("_")]

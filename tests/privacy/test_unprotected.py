import os

import numpy as np
import pytest
from tests.builders import tiny_job, toy_identity, toy_keys

from salus.common.errors import JobError, ProtectionError
from salus.privacy.contribution import Contribution, Shape
from salus.privacy.protection import protection_of
from salus.privacy.protocol.party import SiteParty
from salus.privacy.protocol.session import Session
from salus.privacy.protocol.store import MemoryStore
from salus.privacy.protocol.transcript import no_record
from salus.privacy.unprotected import UNPROTECTED

SHAPE = Shape(3, 1, 10.0)
PARTY = SiteParty(1, toy_identity(1), toy_keys(3), MemoryStore(), 2, os.urandom, "data/0")
SESSION = Session("job", 1, 0, b"m" * 32, b"g" * 32, (1, 2, 3))


def contribution(value: float) -> Contribution:
    return Contribution(np.full(3, value, np.float32), 0.5, np.array([0.25]))


def test_the_sum_is_over_those_who_answered() -> None:
    job = tiny_job()
    end = UNPROTECTED.coordinator_end(SESSION, SHAPE, job, {}, no_record)
    for site, value in ((1, 1.0), (3, 3.0)):
        end.receive(site, UNPROTECTED.site_end(SESSION, SHAPE, job, PARTY).open(contribution(value)))
    assert end.close() is None
    assert end.result.sites == (1, 3)
    assert end.result.mean_update(SHAPE).tolist() == [2, 2, 2]
    assert end.result.statistics(SHAPE, 4).tolist() == [2]


@pytest.mark.parametrize(
    ("site", "vector", "message"),
    [
        (1, [0, 0, 0, 0.5], "expected 5 numbers"),
        (1, [np.nan, 0, 0, 0.5, 0], "NaN"),
        (1, [9, 0, 0, 0.5, 0], "exceeds its public bound"),
        (1, [0, 0, 0, 2.0, 0], "exceeds its public bound"),
        (1, [0, 0, 0, 0.5, -1], "exceeds its public bound"),
        (4, [0, 0, 0, 0.5, 0], "site 4"),
    ],
)
def test_a_bad_vector_is_left_out_with_its_sites_name(site: int, vector: list[float], message: str) -> None:
    end = UNPROTECTED.coordinator_end(SESSION, SHAPE, tiny_job(), {}, no_record)
    with pytest.raises(ProtectionError, match=message):
        end.receive(site, np.array(vector, "<f4").tobytes())
    assert end.result.sites == ()
    assert not end.result.vector.any()


def test_a_site_counts_once() -> None:
    job = tiny_job()
    end = UNPROTECTED.coordinator_end(SESSION, SHAPE, job, {}, no_record)
    reply = UNPROTECTED.site_end(SESSION, SHAPE, job, PARTY).open(contribution(1))
    end.receive(1, reply)
    with pytest.raises(ProtectionError, match="twice"):
        end.receive(1, reply)


def test_it_does_not_claim_to_protect_and_unknown_names_are_refused() -> None:
    assert not UNPROTECTED.protects
    job = tiny_job()
    unknown = job.model_copy(update={"aggregation": job.aggregation.model_copy(update={"protection": "magic"})})
    with pytest.raises(JobError, match="masking, none"):
        protection_of(unknown)


def test_sessions_differ_in_everything_they_are_bound_to() -> None:
    changes = (
        {"job_id": "other"},
        {"round": 2},
        {"attempt": 1},
        {"manifest_hash": b"n" * 32},
        {"model_hash": b"h" * 32},
        {"roster": (1, 2)},
    )
    sessions = [SESSION, *(Session(**{**SESSION.__dict__, **change}) for change in changes)]
    assert len({session.id for session in sessions}) == len(sessions)

"""A whole consortium of masking sites in one process, driven step by step; for vectors, schedules and attacks."""

import functools
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.builders import tiny_job

from salus.common.errors import ProtectionError
from salus.common.identity import Identity
from salus.privacy.contribution import DataKind, Shape
from salus.privacy.masking.coordinator import MaskingCoordinator
from salus.privacy.masking.site import MaskingSite
from salus.privacy.prg import Words
from salus.privacy.protocol.encoding import FixedPoint
from salus.privacy.protocol.head import Head
from salus.privacy.protocol.party import SiteParty
from salus.privacy.protocol.session import Session, manifest_hash
from salus.privacy.protocol.store import MemoryStore

ENCODING = FixedPoint(20)
VECTORS = Path(__file__).resolve().parents[4] / "shared" / "vectors" / "masked_sum_v1.json"


@functools.cache
def identity(site: int) -> Identity:
    """Return the same identity for a site in every world."""
    return Identity.from_seed(bytes([site]) * 32)


def vectors() -> dict[str, Any]:
    """Return the protocol's test vectors."""
    loaded: dict[str, Any] = json.loads(VECTORS.read_text())
    return loaded


def scripted(values: Iterable[bytes]) -> Callable[[int], bytes]:
    """Return a source that gives these values first, then real randomness."""
    queue = iter(values)

    def random(count: int) -> bytes:
        value = next(queue, None)
        return os.urandom(count) if value is None else value

    return random


class World:
    """n sites with inputs of `length` words each, and a coordinator."""

    def __init__(
        self,
        n: int,
        *,
        length: int = 6,
        seed: int = 0,
        job_id: str = "job-1",
        round_: int = 1,
        attempt: int = 0,
        noised: bool = False,
    ) -> None:
        self.n, self.length, self.noised = n, length, noised
        privacy = 'noise = "local"' if noised else 'noise = "none"'
        document = tiny_job(protection="masking", privacy=privacy).canonical_bytes()
        self.heads = {site: Head(3, bytes([site]) * 32) for site in range(1, n + 1)}
        self.keys = {site: identity(site).public_key for site in range(1, n + 1)}
        self.stores = {site: MemoryStore() for site in self.keys}
        manifest = manifest_hash(document, "train", length - 2, 1)
        self.session = Session(job_id, round_, attempt, manifest, b"g" * 32, tuple(self.keys))
        self.record: list[dict[str, Any]] = [{"kind": "job", "document": document.decode()}]
        rng = np.random.default_rng(seed)
        self.data = dict.fromkeys(self.keys, DataKind.TRAINING)
        self.inputs: dict[int, Words] = {s: rng.integers(-1000, 1000, length).astype(np.uint32) for s in self.keys}
        self.sites = {site: self.site(site) for site in self.keys}
        self.coordinator = self.new_coordinator()

    def new_coordinator(self) -> MaskingCoordinator:
        """Return a coordinator of this session; the shape has one statistic, so that d = length - 2."""
        shape = Shape(self.length - 2, 1, 1.0)
        return MaskingCoordinator(self.session, shape, ENCODING, self.keys, self.note, noised=self.noised)

    def note(self, kind: str, **fields: Any) -> None:
        """Record an entry of the transcript."""
        self.record.append({"kind": kind, **fields})

    def site(
        self, number: int, session: Session | None = None, cohort: int = 0, random: Any = os.urandom
    ) -> MaskingSite:
        """Return a site's end of a session."""
        party = SiteParty(number, identity(number), self.keys, self.stores[number], cohort, random, "data/0")
        if self.noised:
            party = replace(party, head=lambda: self.heads[number])
        shape = Shape(self.length - 2, 1, 1.0)
        return MaskingSite(session or self.session, shape, ENCODING, party, job_minimum=2)

    def following(self, *, job_id: str = "job-1", round_: int = 2) -> "World":
        """Return another session over the same data and sites; its sites remember this one."""
        other = World(self.n, length=self.length, job_id=job_id, round_=round_, noised=self.noised)
        other.stores, other.data = self.stores, dict(self.data)
        other.sites = {site: other.site(site) for site in other.keys}
        return other

    def adverts(self, sites: Iterable[int] | None = None) -> dict[int, bytes]:
        """Open the sites and return their adverts."""
        return {s: self.sites[s].open_words(self.inputs[s].copy(), self.data[s]) for s in (sites or self.keys)}

    def exchange(self, replies: Mapping[int, bytes]) -> Mapping[int, bytes] | None:
        """Hand replies to the coordinator and close the step."""
        for site, reply in replies.items():
            self.coordinator.receive(site, reply)
        return self.coordinator.close()

    def answers(self, requests: Mapping[int, bytes] | None, without: Iterable[int] = ()) -> dict[int, bytes]:
        """Let every site but `without` answer."""
        assert requests is not None
        return {s: self.sites[s].answer(r) for s, r in requests.items() if s not in set(without)}

    def run(self, drops: Mapping[int, Iterable[int]] | None = None) -> np.ndarray:
        """Run all five exchanges; `drops[k]` are sites that fall silent at exchange k (1 .. 5). Returns the sum's words."""
        gone: set[int] = set()
        left = drops or {}
        gone |= set(left.get(1, ()))
        requests = self.exchange(self.adverts(set(self.keys) - gone))
        for step in itertools.count(2):
            gone |= set(left.get(step, ()))
            requests = self.exchange(self.answers(requests, gone))
            if requests is None:
                break
        return np.rint(self.coordinator.result.vector * ENCODING.scale).astype(np.int64).astype(np.uint32)

    def expected(self) -> np.ndarray:
        """Return the plain modular sum over the sites in the result."""
        total = np.zeros(self.length, np.uint32)
        for site in self.coordinator.result.sites:
            total += self.inputs[site]
        return total


def refused(action: Callable[[], object], *texts: str) -> None:
    """Assert that `action` is refused with all these texts in its message."""
    with pytest.raises(ProtectionError) as caught:
        action()
    for text in texts:
        assert text in str(caught.value)

"""A consortium with a key holder in one process, driven step by step."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from tests.builders import tiny_job
from tests.privacy.masking.world import identity

from salus.privacy.contribution import Contribution, DataKind, Shape
from salus.privacy.encryption.coordinator import EncryptedCoordinator, Step
from salus.privacy.encryption.packing import Packing, choose_packing
from salus.privacy.encryption.site import EncryptedSite
from salus.privacy.protocol.head import Head
from salus.privacy.protocol.party import SiteParty
from salus.privacy.protocol.session import Session, manifest_hash
from salus.privacy.protocol.store import MemoryStore


class World:
    """n sites, of which `holder` has the key; the shape has one statistic."""

    def __init__(
        self, n: int, *, holder: int = 1, parameters: int = 10, seed: int = 0, round_: int = 1, noised: bool = False
    ) -> None:
        self.n, self.holder, self.noised = n, holder, noised
        self.keys = {site: identity(site).public_key for site in range(1, n + 1)}
        self.stores = {site: MemoryStore() for site in self.keys}
        document = tiny_job().canonical_bytes()
        manifest = manifest_hash(document, "train", parameters, 1)
        self.session = Session("job-1", round_, 0, manifest, b"g" * 32, tuple(self.keys))
        self.shape = Shape(parameters, 1, 1.0)
        self.packing: Packing = choose_packing(n, 1.0)
        rng = np.random.default_rng(seed)
        grid = 2.0**-self.packing.fraction_bits
        self.inputs: dict[int, Contribution] = {}
        for site in self.keys:
            update = rng.normal(size=parameters)
            update = (
                np.trunc(update / np.linalg.norm(update) / grid) * grid
            )  # on the grid, so that rounding changes nothing
            self.inputs[site] = Contribution(update.astype(np.float32), 1.0, np.array([0.5]), DataKind.TRAINING)
        self.sites = {site: self.site(site) for site in self.keys}
        self.record: list[dict[str, object]] = []
        self.coordinator = EncryptedCoordinator(
            self.session, self.shape, self.packing, holder, self.keys, self.note, noised=noised
        )

    def note(self, kind: str, **fields: object) -> None:
        """Record an entry of the transcript."""
        self.record.append({"kind": kind, **fields})

    def site(self, number: int, session: Session | None = None) -> EncryptedSite:
        """Return a site's end."""
        party = SiteParty(number, identity(number), self.keys, self.stores[number], 2, os.urandom, "data/0")
        if self.noised:
            party = replace(party, head=lambda: Head(3, bytes([number]) * 32))
        return EncryptedSite(session or self.session, self.shape, self.packing, self.holder, party)

    def open(self, sites: Iterable[int] | None = None) -> dict[int, bytes]:
        """Open the sites and return their first replies."""
        return {site: self.sites[site].open(self.inputs[site]) for site in (sites or self.keys)}

    def exchange(self, replies: Mapping[int, bytes]) -> Mapping[int, bytes] | None:
        """Hand replies to the coordinator and close the step."""
        for site, reply in replies.items():
            self.coordinator.receive(site, reply)
        return self.coordinator.close()

    def answers(self, requests: Mapping[int, bytes] | None, without: Iterable[int] = ()) -> dict[int, bytes]:
        """Let every site but `without` answer."""
        assert requests is not None
        return {s: self.sites[s].answer(r) for s, r in requests.items() if s not in set(without)}

    def until(self, step: Step, drops: Mapping[Step, Iterable[int]] | None = None) -> Mapping[int, bytes] | None:
        """Run until the coordinator collects `step`; `drops` fall silent when their step is collected."""
        gone: set[int] = set((drops or {}).get(Step.KEYS, ()))
        requests = self.exchange(self.open(set(self.keys) - gone))
        while self.coordinator.step is not step and requests is not None:
            gone |= set((drops or {}).get(self.coordinator.step, ()))
            requests = self.exchange(self.answers(requests, gone))
        return requests

    def expected(self, sites: Iterable[int]) -> np.ndarray:
        """Return the plain sum."""
        return np.sum([np.concatenate([self.inputs[s].update.astype(np.float64), [1.0, 0.5]]) for s in sites], axis=0)

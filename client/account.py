"""A job's account in a site's ledger."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from salus.client.ledger.store import Ledger
from salus.common.packets import Request
from salus.privacy.contribution import Contribution, Kind
from salus.privacy.dp.plan import Plan


@dataclass
class Account:
    """A job's account in a site's ledger; nothing with noise leaves the site except through `spend`.

    Args:
        name: the job's name in the ledger.
        sent: the last contribution with local noise, by round and model; sending it again costs nothing.
    """

    plan: Plan
    ledger: Ledger
    name: str
    sent: dict[tuple[int, bytes], Contribution] = field(default_factory=dict)

    def spend(self, request: Request, kind: Kind, blob: bytes, make: Callable[[], Contribution]) -> Contribution:
        """Return the result of `make` after its cost is in the ledger, on disk; a retry reuses a contribution with local noise.

        Raises:
            LedgerError: the reservation is used up.
        """
        key = request.round, hashlib.sha256(blob).digest()
        if key in self.sent:
            return self.sent[key]
        self.ledger.commit(self.name, request.round, request.attempt, self.plan.charge(kind))
        contribution = make()
        if self.plan.mode == "local":
            self.sent = {key: contribution}
        return contribution

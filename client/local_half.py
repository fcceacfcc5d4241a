"""The site's half of a job's strategy: what was sent beside the model, how steps are corrected, what is kept."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from salus.client.state import JobStates
from salus.common.errors import Refused
from salus.common.strategies.base import PAST, LocalRule, Sent, Strategy, past_of
from salus.common.strategies.wire import decode_model
from salus.common.vectors import FloatVector, Layout
from salus.privacy.contribution import Kind, Shape

Update = FloatVector | npt.NDArray[np.float64]


@dataclass
class LocalHalf:
    """A strategy at one site in one job.

    Args:
        job: names the job and its contents, see `JobStates`.
    """

    strategy: Strategy
    layout: Layout
    states: JobStates
    job: str

    def __post_init__(self) -> None:
        self._first = self.strategy.sent(self.strategy.init(self.layout.size))

    def opened(self, blob: bytes, kind: Kind, round_: int) -> tuple[FloatVector, Sent]:
        """Return the model and, for training, what was sent beside it.

        Raises:
            WireError: other tensors than the job's.
            Refused: in round 1, other vectors beside the model than the strategy begins with.
        """
        if kind != "train":
            return self.layout.decode(blob), {}
        sizes = {name: len(vector) for name, vector in self._first.items()}
        model, sent = decode_model(blob, self.layout, sizes)
        if round_ == 1 and any(not np.array_equal(sent[name], vector) for name, vector in self._first.items()):
            raise Refused(
                "What was sent beside the model of round 1 is not what the job's strategy begins with.",
                remedy="The coordinator sends other numbers than the job's.",
            )
        return model, sent

    def rule(self, round_: int, model: FloatVector, sent: Sent) -> LocalRule:
        """Return how steps are taken in a round; a state that is damaged, or comes from another past, counts as lost.

        What the other sites received is the same, as it is part of the session; so what a site kept of it is, too, the same
        function of each site's data. A coordinator that could change it at one site would see that site in two sums.

        Raises:
            OtherPast: the strategy needs a state that is not here.
        """
        own = self.states.load(self.job, round_)
        if PAST not in own or PAST not in sent or not np.array_equal(own[PAST], sent[PAST]):
            own = {}
        rule = self.strategy.local(own, sent)
        if rule.keep is None:
            return rule
        keep, past = rule.keep, past_of(round_, model, sent).astype(np.float64)
        return replace(rule, keep=lambda update: {**keep(update), PAST: past})

    def finished(self, round_: int, rule: LocalRule, update: Update, shape: Shape) -> None:
        """Keep what the rule keeps of the clipped update, on disk before the update leaves; raises StorageError."""
        if rule.keep is None:
            return
        exact = update.astype(np.float64)
        norm = float(np.linalg.norm(exact))
        clipped = exact * min(1.0, shape.clip_norm_l2 / norm) if norm > 0 else exact
        self.states.keep(self.job, round_, rule.keep(clipped))

"""FedProx and SCAFFOLD on hospitals that differ, against the textbook algorithms written out plainly."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from tests.builders import job_text

from salus.common.errors import JobError, OtherPast
from salus.common.job import Job, parse_job
from salus.common.strategies import strategy_of
from salus.common.strategies.base import LocalRule, Mean, State, Strategy
from salus.common.vectors import FloatVector

PLAIN_SGD = 'optimizer = "sgd"\nmomentum = 0.0\n'
NO_STEPS = ""  # a round is one noised step, which the coordinator takes
STEPS, RATE, SITES, D = 20, 0.02, 4, 3


def job_of(strategy: str, more: str = "", training: str = PLAIN_SGD, privacy: str = 'noise = "none"') -> Job:
    text = job_text(rounds=30, training=training, privacy=privacy, protection="masking")
    rate = "" if training == NO_STEPS else f"learning_rate = {RATE}"
    text = text.replace("learning_rate = 0.02", rate)
    return parse_job(text.replace("max_patients = 50", f'max_patients = 50\nstrategy = "{strategy}"\n{more}'))


@dataclass
class Hospitals:
    """Quadratic losses ``|A_i w - b_i|^2 / 2`` with different minima, weighted like patients."""

    weights: np.ndarray
    matrices: list[np.ndarray] = field(default_factory=list)
    targets: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def drawn(cls, seed: int = 0) -> "Hospitals":
        rng = np.random.default_rng(seed)
        found = cls(np.array([1.0, 0.5, 0.25, 1.0]))
        for place in range(SITES):
            found.matrices.append(rng.normal(size=(6, D)) * (0.3 + 0.5 * place))
            found.targets.append(rng.normal(size=6) + 3.0 * place)
        return found

    def gradient(self, site: int, w: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.matrices[site].T @ (self.matrices[site] @ w - self.targets[site])
        return found

    def optimum(self) -> np.ndarray:
        weights = self.weights / self.weights.sum()
        hessian = sum(w * a.T @ a for w, a in zip(weights, self.matrices, strict=True))
        right = sum(w * a.T @ b for w, a, b in zip(weights, self.matrices, self.targets, strict=True))
        solved: np.ndarray = np.linalg.solve(np.asarray(hessian), np.asarray(right))
        return solved


def local_update(hospitals: Hospitals, site: int, start: np.ndarray, rule: LocalRule) -> np.ndarray:
    w = start.copy()
    for _ in range(rule.steps or STEPS):
        g = hospitals.gradient(site, w)
        w = w - RATE * (g + (0 if rule.add is None else rule.add) + rule.pull * (w - start))
    return w - start


@dataclass
class Federation:
    """Both halves of a strategy, without any network."""

    strategy: Strategy
    hospitals: Hospitals
    model: FloatVector = field(default_factory=lambda: np.zeros(D, np.float32))
    own: dict[int, State] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.state = self.strategy.init(D)

    def round(self, without: tuple[int, ...] = (), unheard: tuple[int, ...] = ()) -> list[int]:
        """Run a round; sites in `unheard` train, but their vectors are lost. Returns the sites in the sum."""
        sent, updates, restarted = self.strategy.sent(self.state), {}, 0
        for site in range(SITES):
            if site in without:
                continue
            try:
                rule = self.strategy.local(self.own.get(site, {}), sent)
            except OtherPast:  # all begin again, in this round
                self.state = self.strategy.again(self.state)
                return self.round(without, unheard)
            restarted += rule.restarted
            updates[site] = local_update(self.hospitals, site, self.model.astype(np.float64), rule)
            if rule.keep is not None:
                self.own[site] = rule.keep(updates[site])
        heard = [site for site in updates if site not in unheard]
        weights = np.array([self.hospitals.weights[site] for site in heard])
        update = sum(w * updates[site] for w, site in zip(weights, heard, strict=True)) / weights.sum()
        mean = Mean(np.asarray(update), tuple(heard), int(100 * weights.sum()), restarted)
        self.state, self.model = self.strategy.apply(self.state, self.model, mean)
        return heard

    def error(self) -> float:
        return float(np.linalg.norm(self.model - self.hospitals.optimum()))


def run(strategy: Strategy, rounds: int = 60) -> Federation:
    federation = Federation(strategy, Hospitals.drawn())
    for _ in range(rounds):
        federation.round()
    return federation


def textbook_scaffold(hospitals: Hospitals, rounds: int) -> np.ndarray:
    """Algorithm 1 of the paper with option II, weights instead of equal sites, and c computed from the c_i themselves."""
    weights = hospitals.weights / hospitals.weights.sum()
    x, c, c_i = np.zeros(D), np.zeros(D), np.zeros((SITES, D))
    for _ in range(rounds):
        y = np.tile(x, (SITES, 1))
        for site in range(SITES):
            for _ in range(STEPS):
                y[site] -= RATE * (hospitals.gradient(site, y[site]) - c_i[site] + c)
        c_i = c_i - c + (x - y) / (STEPS * RATE)
        x = x + weights @ (y - x)
        c = weights @ c_i
    return x


def scaffold() -> Strategy:
    return strategy_of(job_of("scaffold", f"local_steps = {STEPS}"))


@pytest.mark.parametrize("rounds", [1, 2, 3, 10, 40])
def test_scaffold_from_the_sum_of_updates_is_the_textbook_algorithm(rounds: int) -> None:
    found = run(scaffold(), rounds)
    assert np.allclose(found.model, textbook_scaffold(found.hospitals, rounds), atol=1e-5)


def test_scaffold_ends_at_the_optimum_where_averaging_does_not() -> None:
    averaging = run(strategy_of(job_of("fedavg", training=PLAIN_SGD + "local_epochs = 1")))
    corrected = run(scaffold())
    assert corrected.error() < 1e-3
    assert averaging.error() > 0.1


def test_fedprox_ends_nearer_to_the_optimum_than_averaging_and_is_the_minimum_of_its_own_objective() -> None:
    averaging = run(strategy_of(job_of("fedavg")), 400)
    pulled = run(strategy_of(job_of("fedprox", "proximal = 5.0")), 400)
    assert pulled.error() < 0.7 * averaging.error()
    strategy = strategy_of(job_of("fedprox", "proximal = 5.0"))
    rule = strategy.local({}, strategy.sent(strategy.init(D)))
    assert rule == LocalRule(pull=5.0)
    hospitals, start = Hospitals.drawn(), np.ones(D)
    many = LocalRule(steps=4000, pull=5.0)
    w = start + local_update(hospitals, 1, start, many)
    assert np.allclose(hospitals.gradient(1, w) + 5.0 * (w - start), 0.0, atol=1e-8)


def invariant(federation: Federation, heard: list[int]) -> bool:
    """Whether the coordinator's control variate is the weighted mean of those of the sites."""
    weights = federation.hospitals.weights[heard]
    own = np.stack([federation.own[site]["control"] for site in heard])
    return bool(np.allclose(federation.state["control"], weights @ own / weights.sum(), atol=1e-5))


def test_the_coordinators_control_variate_is_the_mean_of_the_sites() -> None:
    federation = Federation(scaffold(), Hospitals.drawn())
    for _ in range(5):
        assert invariant(federation, federation.round())


@pytest.mark.parametrize("how", ["without", "unheard", "lost"])
def test_after_a_round_with_other_sites_it_begins_again_and_still_ends_at_the_optimum(how: str) -> None:
    federation = Federation(scaffold(), Hospitals.drawn())
    for _ in range(6):
        federation.round()
    if how == "lost":
        del federation.own[2]
        federation.round()
        assert federation.state["since"].tolist() == [7.0]  # all sites began again in this round
    else:
        federation.round(**{how: (2,)})
        assert not federation.state["control"].any()  # all sites begin again in the next round
    assert federation.round() == [0, 1, 2, 3]
    assert invariant(federation, [0, 1, 2, 3])
    for _ in range(60):
        federation.round()
    assert federation.error() < 1e-3


def test_without_beginning_again_the_error_would_stay() -> None:
    """The mutant: a strategy that does not notice that a site was missing."""
    federation = Federation(scaffold(), Hospitals.drawn())
    for _ in range(6):
        federation.round()
    kept = federation.own[2]
    federation.own[2] = {**kept, "control": kept["control"] + 10.0}  # as after a lost round, and nobody notices
    for _ in range(60):
        federation.round()
    assert federation.error() > 0.05


def test_a_state_of_another_round_or_beginning_is_not_used() -> None:
    federation = Federation(scaffold(), Hospitals.drawn())
    for _ in range(3):
        federation.round()
    sent, own = federation.strategy.sent(federation.state), federation.own[1]
    assert federation.strategy.local(own, sent).corrects
    for wrong in ({}, {**own, "round": own["round"] - 1}, {**own, "since": own["since"] + 1}):
        with pytest.raises(OtherPast):
            federation.strategy.local(wrong, sent)


@pytest.mark.parametrize(
    ("strategy", "training", "privacy", "text"),
    [
        ("scaffold", 'optimizer = "sgd"', 'noise = "none"', "plain steps"),
        ("scaffold", 'optimizer = "adam"', 'noise = "none"', "plain steps"),
        ("scaffold", PLAIN_SGD + "weight_decay = 0.1", 'noise = "none"', "plain steps"),
        ("scaffold", PLAIN_SGD + "local_epochs = 2", 'noise = "none"', "plain steps"),
        ("scaffold", NO_STEPS, 'noise = "local"', 'noise = "none"'),
        ("fedprox", NO_STEPS, 'noise = "distributed"', "one step"),
        ("fedprox", NO_STEPS, 'noise = "local"', "one step"),
    ],
)
def test_jobs_in_which_the_equations_do_not_hold_are_refused(
    strategy: str, training: str, privacy: str, text: str
) -> None:
    with pytest.raises(JobError, match=text):
        strategy_of(job_of(strategy, training=training, privacy=privacy))


def test_fedprox_works_with_several_noised_steps() -> None:
    job = job_of("fedprox", "proximal = 0.5", privacy='noise = "local"\nsteps_per_round = 5')
    strategy = strategy_of(job)
    assert strategy.local({}, {}) == LocalRule(pull=0.5)

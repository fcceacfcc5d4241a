import numpy as np
import pytest
from tests.builders import tiny_job

from salus.common.errors import JobError
from salus.common.job import Aggregation, Job
from salus.common.strategies import STRATEGIES, strategy_of
from salus.common.strategies.base import Mean
from salus.common.strategies.fedavg import FedAvg
from salus.common.strategies.fedavgm import FedAvgM


def job_with(**settings: object) -> Job:
    return tiny_job(rounds=4).model_copy(update={"aggregation": Aggregation(**settings)})  # type: ignore[arg-type]


def test_fedavg_with_rate_one_is_the_weighted_mean_of_local_models() -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=4).astype(np.float32)
    local = rng.normal(size=(3, 4))
    weights = np.array([1.0, 2.0, 5.0])
    mean_update = (weights[:, None] * (local - start)).sum(axis=0) / weights.sum()
    fedavg = FedAvg(job_with())
    state, model = fedavg.apply(fedavg.init(4), start, Mean(mean_update))
    assert np.allclose(model, np.average(local, axis=0, weights=weights), atol=1e-6)
    assert state == {}
    assert model.dtype == np.float32


def test_the_server_learning_rate_scales_the_step() -> None:
    half = FedAvg(job_with(server_learning_rate=0.5))
    assert half.apply({}, np.zeros(1, np.float32), Mean(np.ones(1)))[1].tolist() == [0.5]


def test_momentum_and_decay_follow_their_formula_and_survive_a_checkpoint() -> None:
    strategy = FedAvgM(job_with(server_learning_rate=0.5, server_momentum=0.5, server_decay="linear"))
    state, model = strategy.init(1), np.zeros(1, np.float32)
    expected, velocity = 0.0, 0.0
    for done in range(4):
        state, model = strategy.apply({name: value.copy() for name, value in state.items()}, model, Mean(np.ones(1)))
        velocity = 0.5 * velocity + 1.0
        expected += 0.5 * (1 - done / 4) * velocity
        assert model[0] == pytest.approx(expected)


def test_unknown_strategies_are_refused() -> None:
    job = tiny_job()
    wrong = job.model_copy(update={"aggregation": job.aggregation.model_copy(update={"strategy": "fedmagic"})})
    with pytest.raises(JobError, match="fedavg"):
        strategy_of(wrong)
    assert STRATEGIES.names() == ["fedavg", "fedavgm", "fedprox", "scaffold"]


def test_one_noised_step_a_round_gets_momentum_and_decay_and_other_jobs_keep_averaging() -> None:
    single = tiny_job(rounds=4, protection="masking", privacy='noise = "local"')
    strategy = strategy_of(single)
    assert isinstance(strategy, FedAvgM)
    state, model = strategy.init(1), np.zeros(1, np.float32)
    for _ in range(2):
        state, model = strategy.apply(state, model, Mean(np.ones(1)))
    assert model[0] == pytest.approx(0.3 + 0.3 * 0.75 * 1.9)
    for privacy in ('noise = "none"', 'noise = "local"\nsteps_per_round = 4'):
        job = tiny_job(protection="masking", privacy=privacy)
        assert isinstance(strategy_of(job), FedAvg)
        assert strategy_of(job).apply({}, np.zeros(1, np.float32), Mean(np.ones(1)))[1].tolist() == [1.0]

"""Federated algorithms: how a site takes its steps, and how the mean update becomes the next global model.

To add a strategy: one file here, one test and one line below; a site adds its own through the entry-point group
``salus.strategies``. The coordinator's half sees only the weighted mean, never a single site's update, so each strategy works
under every protection.
"""

from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.registry import Registry
from salus.common.strategies.base import Strategy

STRATEGIES = Registry(
    "strategy",
    "salus.strategies",
    {
        "fedavg": "salus.common.strategies.fedavg:FedAvg",
        "fedavgm": "salus.common.strategies.fedavgm:FedAvgM",
        "fedprox": "salus.common.strategies.fedprox:FedProx",
        "scaffold": "salus.common.strategies.scaffold:Scaffold",
    },
)


def strategy_of(job: Job) -> Strategy:
    """Return the strategy that a job names, or the default for its kind of rounds; raises JobError for an unknown name."""
    strategy: Strategy = STRATEGIES.get(job.strategy, error=JobError)(job)
    return strategy

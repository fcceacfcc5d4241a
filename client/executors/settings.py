"""Where a site works for jobs, and what that may use: the section ``executor`` of ``site.toml``."""

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, field_validator

from salus.client.executors.hours import minutes_of
from salus.common.strict import Strict

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_=:.,/@%+-]{1,200}$")]  # of a Slurm option; passed without a shell
LEAST_MB = 1024  # the libraries alone take half of it
LEAST_STUCK_MINUTES = 5.0  # the process for work gives a sign once a minute at most


class ExecutorSettings(Strict):
    """How a site runs its jobs.

    Args:
        kind: ``process``: a child process on this machine. ``slurm``: a job on a cluster that shares the site's folder.
        idle_minutes: minutes without a request after which the process for work ends and its memory is free.
        stuck_minutes: minutes without any sign of that process in the middle of a request after which it is ended and the request
            refused; it gives one with each batch, at most once a minute. From 5; 0: never.
        memory_mb: memory in MB that this process may allocate, from 1024; what needs more fails there. 0: no limit.
        gpu_share: the part of each GPU's memory that it may use.
        hours: local hours in which it begins to work, such as ``["20:00-06:00"]``; empty: always.
        python: for ``slurm``: the Python interpreter on the cluster's nodes, with Salus installed.
        options: for ``slurm``: options of ``sbatch``, such as ``["--partition=gpu", "--gres=gpu:1"]``.
        start_minutes: for ``slurm``: minutes that a job may wait in the queue before a request is refused.
    """

    kind: Literal["process", "slurm"] = "process"
    idle_minutes: Annotated[float, Field(ge=0, le=10_080)] = (
        10.0  # starting takes seconds, preparing data may take minutes
    )
    stuck_minutes: Annotated[float, Field(ge=0, le=10_080)] = (
        120.0  # twice the time after which a round goes on without it
    )
    memory_mb: Annotated[int, Field(ge=0, le=100_000_000)] = 0
    gpu_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    hours: Annotated[tuple[str, ...], Field(max_length=20)] = ()
    python: Annotated[str, Field(max_length=1000)] = ""
    options: Annotated[tuple[Word, ...], Field(max_length=50)] = ()
    start_minutes: Annotated[float, Field(gt=0, le=10_080)] = 60.0  # a queue is often longer than a round's patience

    @field_validator("memory_mb")
    @classmethod
    def _memory(cls, memory_mb: int) -> int:
        if 0 < memory_mb < LEAST_MB:
            raise ValueError(f"expected 0 or at least {LEAST_MB}")
        return memory_mb

    @field_validator("stuck_minutes")
    @classmethod
    def _stuck(cls, stuck_minutes: float) -> float:
        if 0 < stuck_minutes < LEAST_STUCK_MINUTES:
            raise ValueError(f"expected 0 or at least {LEAST_STUCK_MINUTES:g}")
        return stuck_minutes

    @field_validator("hours")
    @classmethod
    def _hours(cls, hours: tuple[str, ...]) -> tuple[str, ...]:
        for text in hours:
            minutes_of(text)
        return hours

    @field_validator("python")
    @classmethod
    def _python(cls, python: str) -> str:
        if python and not PurePosixPath(python).is_absolute():
            raise ValueError("expected an absolute path")
        return python

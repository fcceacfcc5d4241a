"""Local training: a few epochs from the global parameters, and the statistics of the global model on validation patients."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from salus.client.correction import Correction
from salus.client.data.prefetch import batches
from salus.client.data.tensors import TensorSet, Use
from salus.client.grouping import GroupSums
from salus.client.performance import Performance
from salus.client.sampling import Balance
from salus.common.batch import Batch
from salus.common.canonical import hash_parts, u32, u64
from salus.common.job import Job
from salus.common.optimizers import make_optimizer
from salus.common.progress import Reporter
from salus.common.strategies.base import PLAIN, LocalRule
from salus.common.tasks.base import Step, Task, Totals
from salus.common.tasks.steps import check_steps, given, stepping, trained_by, with_noise
from salus.common.vectors import FloatVector, Layout, read_parameters, write_parameters

EVALUATION_BATCH = 256
LARGEST_ROWS = 2**23  # numbers in the rows of one batch: 64 MB


@dataclass
class Trainer:
    """A job's network and task on this machine, reused from round to round so that memory stays flat."""

    model: torch.nn.Module
    layout: Layout
    task: Task
    job: Job
    performance: Performance
    reporter: Reporter = field(default_factory=Reporter)

    def __post_init__(self) -> None:
        if self.performance.threads:
            torch.set_num_threads(self.performance.threads)
        self.device = self.performance.torch_device()
        self.model.to(self.device)
        check_steps(self.model, self.task)

    def train(self, start: FloatVector, data: TensorSet, seed: int, rule: LocalRule = PLAIN) -> FloatVector:
        """Return the update (local minus `start`) after the job's local epochs, or after the steps of the rule.

        Guarantees: the same start, data, seed and device give the same update; torch's global random state is untouched.
        """
        settings = self.job.training
        write_parameters(self.model, self.layout, start)
        optimizers = [make_optimizer(trained_by(self.model, step), settings) for step in self.task.steps]
        noise = torch.Generator().manual_seed(seed)
        correct = Correction(self.model, rule, self.layout)
        shuffle = torch.Generator().manual_seed(seed)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            self.model.train()
            left = rule.steps
            balance = Balance(self.task, data, self._losses)
            steps = settings.epochs * -(-len(data) // settings.batch_size) if left is None else left
            taken = itertools.count()
            for epoch in range(settings.epochs) if left is None else itertools.count():
                order = balance.order(epoch, seed, shuffle)
                rows = torch.split(order, settings.batch_size)[:left]
                for batch in batches(data, rows, self.device, Use(seed.to_bytes(8), epoch)):
                    self.reporter.at("training", next(taken) / max(1, steps))
                    batch = balance.changed(batch, noise)
                    for step, optimizer in zip(self.task.steps, optimizers, strict=True):
                        self.step(step, optimizer, given(self.task.spec, step, batch, noise), correct)
                if left is not None and (left := left - len(rows)) == 0:
                    break
        return read_parameters(self.model, self.layout) - start

    def _losses(self, batch: Batch) -> torch.Tensor:
        """Return the losses of the present model in the first step of the task."""
        self.reporter.goes_on()
        return self.task.losses(self.model, batch.to(self.device), self.task.steps[0])

    def step(
        self, step: Step, optimizer: torch.optim.Optimizer, batch: Batch, correct: Callable[[], None] | None = None
    ) -> None:
        """Take one step of the task, without clipping, with all that it may see.

        Args:
            correct: changes the gradients by public numbers, see `LocalRule`; None for nothing.
        """
        optimizer.zero_grad(set_to_none=True)
        with stepping(self.model, step):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.performance.mixed_precision):
                losses = self.task.losses(self.model, batch, step)
            losses.mean().backward()  # type: ignore[no-untyped-call]
        if correct is not None:
            correct()
        optimizer.step()

    def evaluate(self, parameters: FloatVector, data: TensorSet, groups: GroupSums | None = None) -> Totals:
        """Return the summed rows of the model with these parameters over all samples.

        Args:
            groups: to which the rows are added, too.
        """
        write_parameters(self.model, self.layout, parameters)
        self.model.eval()
        totals = np.zeros(self.task.statistics_size)
        size = min(EVALUATION_BATCH, 4 * self.job.training.batch_size)  # no more memory than a step of training takes
        size = max(1, min(size, LARGEST_ROWS // self.task.statistics_size))
        noise = torch.Generator().manual_seed(0)  # one draw for all rounds, so that their metrics can be compared
        with torch.inference_mode():
            for number, rows in enumerate(data.parts(torch.arange(len(data)), size)):
                self.reporter.at("evaluating", number * size / len(data))
                batch = with_noise(data.batch(rows).to(self.device), self.task.spec, noise)
                found = self.task.rows(self.task.infer(self.model, batch), batch)
                totals += found.sum(dim=0).numpy()
                if groups is not None:
                    groups.add(found, data.places(rows))
        return totals


def training_seed(job: Job, site: int, round_: int, secret: bytes = b"") -> int:
    """Return the seed of one site's one round, which decides the order of its images: different for every site and round.

    Args:
        secret: of the site. Whoever knows the order can make each update mostly one known patient's (a batch of one and a
            large weight decay) and solve the sums of many rounds for single images. Empty in simulations, which are repeated.

    With a secret, each job document draws anew: otherwise two jobs that differ in the chance of a flip alone would differ in
    the few images whose draw lies between the two chances.
    """
    mine = hash_parts("salus/training-secret", secret, job.digest()) if secret else b""
    return int.from_bytes(hash_parts("salus/train", u64(job.job.seed), u32(site), u32(round_), mine)[:8], "big") >> 1

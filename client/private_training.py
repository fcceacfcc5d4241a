"""Local training with a guarantee for each patient: sample patients, clip each one's gradient once, add noise once per step.

Everything drawn at random here comes from the operating system's generator; a guarantee must not depend on a seed that
somebody else knows, least of all on one that is the same at every site.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from salus.client.data.loading import TensorSet
from salus.client.training import EVALUATION_BATCH, Trainer, make_optimizer
from salus.common.errors import DataError
from salus.common.vectors import FloatVector, read_parameters, write_parameters
from salus.privacy.dp.checks import checked_clipper
from salus.privacy.dp.gaussian import noised
from salus.privacy.dp.patients import Patients
from salus.privacy.dp.plan import Plan, sensitivity_l2
from salus.privacy.dp.randomness import Random, Stream
from salus.privacy.dp.sampling import capped, poisson_sample

UNREADABLE = (DataError, OSError)
Batch = tuple[torch.Tensor, torch.Tensor, Patients]
DoubleVector = npt.NDArray[np.float64]


class PrivateTrainer:
    """Trains a job's network under its plan.

    Args:
        trainer: the network, task and device of the job.
        random: source of cryptographic randomness.

    Raises:
        ProtectionError: the network or loss cannot be trained with differential privacy, see `checks`.
    """

    def __init__(self, trainer: Trainer, plan: Plan, random: Random) -> None:
        self._trainer, self._plan, self._random = trainer, plan, random
        self._privacy = trainer.job.privacy
        torch.backends.cudnn.allow_tf32 = False  # ten bits of mantissa are too few for a bound on a norm
        torch.backends.cuda.matmul.allow_tf32 = False
        self._clipper = checked_clipper(trainer.model, trainer.task)

    def train(self, start: FloatVector, data: TensorSet | None) -> FloatVector:
        """Return the update after the plan's steps from `start`; without data it is an update of noise alone.

        Guarantees: the update is differentially private for every patient in `data`, whoever sees it; each step adds noise
        of standard deviation noise multiplier times clip norm, and divides by a public number of patients.
        """
        from salus.privacy.dp.optimizer import PatientOptimizer

        trainer = self._trainer
        write_parameters(trainer.model, trainer.layout, start)
        trainer.model.train()
        stream = Stream(self._random)
        optimizer = PatientOptimizer(
            # One step is sent as it is: its size, momentum and decay are the server's, as in distributed mode.
            torch.optim.SGD(trainer.model.parameters(), 1.0)
            if self._plan.steps == 1
            else make_optimizer(trainer.model, trainer.job.training),
            noise_multiplier=self._plan.noise_multiplier
            * sensitivity_l2(trainer.job, "train")
            / self._privacy.clip_norm_l2,
            clip_norm_l2=self._privacy.clip_norm_l2,
            expected_patients=self._plan.sampling_rate * self._privacy.patients_per_site,
            stream=stream,
        )
        with self._dropout_seeded(stream):
            for _ in range(self._plan.steps):
                optimizer.zero_grad(set_to_none=True)
                for batch in self._sampled(data, stream):
                    for p, gradient in zip(trainer.model.parameters(), self._clipped(batch), strict=True):
                        p.grad = gradient
                    optimizer.accumulate()
                optimizer.step()
        return read_parameters(trainer.model, trainer.layout) - start

    def direction(self, start: FloatVector, data: TensorSet | None) -> DoubleVector:
        """Return minus the sum of clipped gradients over one sample of patients, without noise: for distributed noise,
        where the protection adds this site's share; float64."""
        trainer = self._trainer
        write_parameters(trainer.model, trainer.layout, start)
        trainer.model.train()
        stream = Stream(self._random)
        total = [torch.zeros_like(p, dtype=torch.float64) for p in trainer.model.parameters()]
        with self._dropout_seeded(stream):
            for batch in self._sampled(data, stream):
                for place, gradient in zip(total, self._clipped(batch), strict=True):
                    place -= gradient
        direction: DoubleVector = torch.cat([part.detach().flatten() for part in total]).cpu().numpy()
        return direction

    def statistics(self, parameters: FloatVector, data: TensorSet | None) -> FloatVector:
        """Return the summed private statistics, each patient the mean of its images, with local noise in local mode."""
        trainer = self._trainer
        task = trainer.task
        total = torch.zeros(task.private_statistics_size, dtype=torch.float64)
        write_parameters(trainer.model, trainer.layout, parameters)
        trainer.model.eval()
        with torch.inference_mode():
            for images in data.by_patient() if data is not None else []:
                try:
                    rows = [self._rows(data, part) for part in torch.split(torch.tensor(images), EVALUATION_BATCH)]
                except UNREADABLE:
                    continue
                mean = torch.nan_to_num(torch.cat(rows).mean(dim=0), 0.0, 0.0, 0.0)
                total += mean / max(1.0, float(mean.norm()))
        if self._plan.mode == "local":
            sigma = self._plan.evaluation_noise_multiplier * sensitivity_l2(trainer.job, "evaluate")
            total = noised(total, sigma, Stream(self._random))
        return total.numpy().astype(np.float32)

    def _rows(self, data: TensorSet | None, images: torch.Tensor) -> torch.Tensor:
        assert data is not None  # Safe because rows are only asked for of a data set's patients.
        inputs, targets = data.batch(images)
        return self._trainer.task.private_statistics(self._trainer.model(inputs.to(self._trainer.device)), targets)

    def _sampled(self, data: TensorSet | None, stream: Stream) -> Iterator[Batch]:
        """Yield one Poisson sample of patients in micro-batches; a patient is never cut in two."""
        if data is None:
            return
        by_patient = data.by_patient()
        waiting: list[list[int]] = []
        for patient in poisson_sample(len(by_patient), self._plan.sampling_rate, stream).tolist():
            images = capped(by_patient[patient], self._privacy.images_per_patient, stream)
            full = sum(map(len, waiting)) + len(images) > self._trainer.job.training.batch_size
            if waiting and full:
                yield from self._batch(data, waiting)
                waiting = []
            waiting.append(images)
        if waiting:
            yield from self._batch(data, waiting)

    def _readable(self, data: TensorSet, patients: list[list[int]]) -> list[list[int]]:
        """Return the patients whose images can all be read: one that cannot must not take the others with it."""
        readable = []
        for images in patients:
            try:
                data.batch(torch.tensor(images))
            except UNREADABLE:
                continue
            readable.append(images)
        return readable

    def _batch(self, data: TensorSet, patients: list[list[int]]) -> Iterator[Batch]:
        try:
            inputs, targets = data.batch(torch.tensor([image for images in patients for image in images]))
        except UNREADABLE:
            readable = self._readable(data, patients)
            if readable and len(readable) < len(patients):
                yield from self._batch(data, readable)
            return
        numbers = torch.tensor([number for number, images in enumerate(patients) for _ in images])
        device = self._trainer.device
        yield inputs.to(device), targets.to(device), Patients(numbers.to(device), len(patients))

    def _clipped(self, batch: Batch) -> list[torch.Tensor]:
        return self._clipper.clipped_sum(*batch, self._privacy.clip_norm_l2).gradients

    @contextlib.contextmanager
    def _dropout_seeded(self, stream: Stream) -> Iterator[None]:
        """Seed torch's own generator, which dropout uses, from the stream, and put it back afterwards."""
        device = self._trainer.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(stream.words64(1)[0]) >> 1)
            yield

"""Local training with a guarantee for each patient: sample patients, clip each patient's gradient once, add noise once per step.

Everything drawn at random here comes from the operating system's generator; a guarantee must not depend on a seed that
somebody else knows, let alone one that is the same at every site.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from salus.client.correction import Correction
from salus.client.data.tensors import TensorSet, Use
from salus.client.grouping import patient_vector
from salus.client.sampling import draws_in_steps, mixed_within
from salus.client.training import EVALUATION_BATCH, Trainer
from salus.common.batch import Batch
from salus.common.errors import UnreadableImage, WireError
from salus.common.job import Job
from salus.common.optimizers import make_optimizer
from salus.common.strategies.base import PLAIN, LocalRule
from salus.common.subgroups import groups_of
from salus.common.subgroups.base import Groups
from salus.common.tasks.steps import noise_alone, stepping, trained_by, with_noise
from salus.common.vectors import LARGEST_PARAMETER, FloatVector, read_parameters, write_parameters
from salus.privacy.dp.calls import OtherCalls
from salus.privacy.dp.checks import checked_clipper, steps_under_noise
from salus.privacy.dp.clipped import LARGEST_NORM
from salus.privacy.dp.gaussian import noised
from salus.privacy.dp.patients import Patients, alone, grid, places_of
from salus.privacy.dp.plan import Plan, sensitivity_l2
from salus.privacy.dp.rows import independent_rows
from salus.privacy.dp.sampling import capped, poisson_sample
from salus.privacy.randomness import Random, Stream

MOST_ROWS, MOST_ROWS_CPU = 64, 16  # more rows per pass save little time, and unused rows cost time
Grid = tuple[Batch, Patients]
MOST_KNOWN = 256  # a process for work may see many jobs
_INDEPENDENT: dict[tuple[str, str, int, int, str], bool] = {}  # by what it depends on, for all jobs of this process
SECRET_BYTES = 32  # from which the random transforms of one step follow
DoubleVector = npt.NDArray[np.float64]


class PrivateTrainer:
    """Trains a job's network under its plan.

    Args:
        trainer: the network, task and device of the job.
        random: source of cryptographic randomness.

    ``left_out`` counts, for the operator, the patients that added nothing in the last call, once for each step, by reason.

    Raises:
        ProtectionError: the network or loss cannot be trained with differential privacy, see `checks`.
    """

    def __init__(self, trainer: Trainer, plan: Plan, random: Random) -> None:
        self._trainer, self._plan, self._random = trainer, plan, random
        self._privacy = trainer.job.privacy
        torch.backends.cudnn.allow_tf32 = False  # ten bits of mantissa are too few for a bound on a norm
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.benchmark = False  # algorithms chosen by timing would differ from step to step
        torch.backends.cudnn.deterministic = True
        self._step, self._free = steps_under_noise(trainer.task, plan)
        with stepping(trainer.model, self._step):
            self._clipper = checked_clipper(trainer.model, trainer.task, self._step)
        self._rows: dict[int, int] = {}
        self.left_out: Counter[str] = Counter()

    def check(self, parameters: FloatVector) -> None:
        """Raise WireError for parameters that no trained network has; they are public, so a refusal reveals no patient.

        The clipping does not depend on this; it holds for any parameters.
        """
        if parameters.size and not float(np.abs(parameters).max()) <= LARGEST_PARAMETER:
            raise WireError(
                f"Expected model parameters between {-LARGEST_PARAMETER:g} and {LARGEST_PARAMETER:g}.",
                remedy="Training has diverged, or the model was crafted to reveal patients. Cancel the job.",
            )

    def train(self, start: FloatVector, data: TensorSet | None, rule: LocalRule = PLAIN) -> FloatVector:
        """Return the update after the plan's steps from `start`; without data the update is noise alone.

        Args:
            rule: how steps are corrected, after the noise; its number of steps is not used.

        Guarantees: the update is differentially private for every patient in `data`, whoever sees it; each step adds noise
        of standard deviation noise multiplier times clip norm, and divides by a public number of patients.
        """
        from salus.privacy.dp.optimizer import PatientOptimizer

        trainer = self._trainer
        self.left_out.clear()
        write_parameters(trainer.model, trainer.layout, start)
        trainer.model.train()
        stream = Stream(self._random)
        parameters = trained_by(trainer.model, self._step)
        optimizer = PatientOptimizer(
            # A single step is sent unscaled: the server applies step size, momentum and decay, as in distributed mode.
            torch.optim.SGD(parameters, 1.0)
            if self._plan.steps == 1
            else make_optimizer(parameters, trainer.job.training),
            noise_multiplier=self._plan.noise_multiplier
            * sensitivity_l2(trainer.job, "train")
            / self._privacy.clip_norm_l2,
            clip_norm_l2=self._privacy.clip_norm_l2,
            expected_patients=self._plan.sampling_rate * self._privacy.patients_per_site,
            stream=stream,
            correct=Correction(trainer.model, rule, trainer.layout),
        )
        free = [(step, make_optimizer(trained_by(trainer.model, step), trainer.job.training)) for step in self._free]
        noise = self._noise(stream)
        with self._dropout_seeded(stream):
            for number in range(self._plan.steps):
                trainer.reporter.at("training", number / self._plan.steps)
                optimizer.zero_grad(set_to_none=True)
                with stepping(trainer.model, self._step):
                    for batch in self._sampled(data, stream, noise):
                        optimizer.accumulate(self._clipped(*batch))
                    optimizer.step()
                for step, its_own in free:
                    made = noise_alone(trainer.task.spec, trainer.job.training.batch_size, noise, trainer.device)
                    trainer.step(step, its_own, made)
        return read_parameters(trainer.model, trainer.layout) - start

    def direction(self, start: FloatVector, data: TensorSet | None) -> DoubleVector:
        """Return minus the sum of clipped gradients over one sample of patients, without noise: for distributed noise,
        where the protection adds this site's share; float64."""
        trainer = self._trainer
        self.left_out.clear()
        write_parameters(trainer.model, trainer.layout, start)
        trainer.model.train()
        stream = Stream(self._random)
        total = [torch.zeros_like(p, dtype=torch.float64) for p in trained_by(trainer.model, self._step)]
        noise = self._noise(stream)
        with self._dropout_seeded(stream), stepping(trainer.model, self._step):
            for batch in self._sampled(data, stream, noise):
                for place, gradient in zip(total, self._clipped(*batch), strict=True):
                    place -= gradient
        direction: DoubleVector = torch.cat([part.detach().flatten() for part in total]).cpu().numpy()
        return direction

    def statistics(self, parameters: FloatVector, data: TensorSet | None) -> DoubleVector:
        """Return the sum of all patients' private statistics, each the mean of its images, see `patient_vector`; float64.

        In local mode with local noise. Rounding a large sum in single precision could change it by more than the noise covers
        for one patient.
        """
        trainer = self._trainer
        task = trainer.task
        groups = groups_of(trainer.job)
        total = torch.zeros(task.private_statistics_size * (1 + groups.count), dtype=torch.float64)
        self.left_out.clear()
        write_parameters(trainer.model, trainer.layout, parameters)
        trainer.model.eval()
        with torch.inference_mode():
            for images in data.by_patient() if data is not None else []:
                try:
                    total += self._patient(data, torch.tensor(images), groups)
                except Exception as problem:
                    self._without(problem)
        if self._plan.mode == "local":
            sigma = self._plan.evaluation_noise_multiplier * sensitivity_l2(trainer.job, "evaluate")
            total = noised(total, sigma, Stream(self._random))
        result: DoubleVector = total.numpy()
        return result

    def _patient(self, data: TensorSet | None, images: torch.Tensor, groups: Groups) -> torch.Tensor:
        assert data is not None  # Safe because only a data set's patients are asked for.
        rows, places = torch.cat(list(self._rows_of(data, images))), data.places(images)
        return patient_vector(rows, places, groups)

    def _rows_of(self, data: TensorSet, images: torch.Tensor) -> Iterator[torch.Tensor]:
        task, noise = self._trainer.task, torch.Generator().manual_seed(0)
        for rows in data.parts(images, EVALUATION_BATCH):
            batch = with_noise(data.batch(rows).to(self._trainer.device), task.spec, noise)
            yield task.private_rows(task.infer(self._trainer.model, batch), batch)

    def _noise(self, stream: Stream) -> torch.Generator:
        """Return the generator of the task's noise fields and of mixup; nothing is drawn for a task without them."""
        generator = torch.Generator()
        return (
            generator.manual_seed(int(stream.words64(1)[0]) >> 1) if draws_in_steps(self._trainer.task) else generator
        )

    def _sampled(self, data: TensorSet | None, stream: Stream, noise: torch.Generator) -> Iterator[Grid]:
        """Yield one Poisson sample of patients in batches of public sizes, see `patients`; a patient is never split."""
        if data is None:
            return
        by_patient = data.by_patient()
        use = Use(self._random(SECRET_BYTES)) if data.random else None
        waiting: dict[int, list[Batch]] = {}
        for patient in poisson_sample(len(by_patient), self._plan.sampling_rate, stream).tolist():
            images = capped(by_patient[patient], self._privacy.images_per_patient, stream)
            try:
                part = with_noise(data.batch(torch.tensor(images), use), self._trainer.task.spec, noise)
            except Exception as problem:
                self._without(problem)  # an unreadable patient must not affect the others
                continue
            part = mixed_within(self._trainer.task, part, noise)
            places = places_of(len(part), self._privacy.images_per_patient * data.copies)
            mine = waiting.setdefault(places, [])
            mine.append(part)
            if len(mine) == self.rows_for(places):
                yield self._batch(mine, places)
                del waiting[places]
        for places, parts in waiting.items():
            yield self._batch(parts, places)

    def _batch(self, parts: Sequence[Batch], places: int) -> Grid:
        self._trainer.reporter.goes_on()
        batch, patients = grid(parts, self.rows_for(places), places)
        return batch.to(self._trainer.device), patients.to(self._trainer.device)

    def rows_for(self, places: int) -> int:
        """Return how many patients with this many rows share a batch, from public numbers and this machine."""
        if places not in self._rows:
            most = most_rows(self._trainer.job, self._trainer.device) // places
            rows = max(1, batch_rows(self._trainer.job, self._trainer.device) // places)
            # Where some rows depend on each other, larger batches often have none that do; their free rows cost some time.
            while rows > 1 and not self._independent(rows, places):
                rows = 2 * rows if 2 * rows <= most else 1
            self._rows[places] = rows
        return self._rows[places]

    def _independent(self, rows: int, places: int) -> bool:
        trainer = self._trainer
        where = f"{trainer.device} {torch.get_num_threads()}"
        size = (trainer.job.task.model_dump_json(), type(self._clipper).__name__, rows, places, where)
        if size not in _INDEPENDENT:
            if len(_INDEPENDENT) >= MOST_KNOWN:
                _INDEPENDENT.clear()
            with torch.random.fork_rng(devices=[]), stepping(trainer.model, self._step):
                try:
                    found = independent_rows(self._clipper, trainer.model, trainer.task, rows, places, trainer.device)
                except OtherCalls:  # the inputs to the network are other ones, in the last bits, for a single image
                    found = False
            _INDEPENDENT[size] = found
        return _INDEPENDENT[size]

    def clipped(self, batch: Batch, patients: Patients) -> list[torch.Tensor]:
        """Return the clipped sum of a batch, to time it; nothing of it may leave the site without noise."""
        with stepping(self._trainer.model, self._step):
            return self._clipped(batch, patients)

    def _clipped(self, batch: Batch, patients: Patients) -> list[torch.Tensor]:
        """Return the clipped sum of a batch; if that fails, the sum over those patients for whom it succeeds."""
        try:
            found = self._clipper.clipped_sum(batch, patients, self._privacy.clip_norm_l2)
        except Exception as problem:
            rows = torch.arange(patients.count, device=patients.images.device)
            present = rows[patients.present].tolist()
            if len(present) == 1:
                self._without(problem)
                return [torch.zeros_like(p, dtype=torch.float64) for p in trained_by(self._trainer.model, self._step)]
            # The same batch size and row, so that each patient contributes the same as together with the others.
            sums = [self._clipped(*alone(batch, patients, row)) for row in present]
            return [torch.stack(parts).sum(0) for parts in zip(*sums, strict=True)]
        broken = int((~(found.norms_l2 <= LARGEST_NORM)).sum())
        if broken:
            self.left_out["gradient-not-finite"] += broken
        return found.gradients

    def _without(self, problem: Exception) -> None:
        """Count a patient that adds nothing to this step, for the operator."""
        self.left_out[problem.reason if isinstance(problem, UnreadableImage) else type(problem).__name__] += 1

    @contextlib.contextmanager
    def _dropout_seeded(self, stream: Stream) -> Iterator[None]:
        """Seed torch's own generator, which dropout uses, from the stream, and restore it afterwards."""
        device = self._trainer.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(stream.words64(1)[0]) >> 1)
            yield


def batch_rows(job: Job, device: torch.device) -> int:
    """Return how many images share a pass through the network: about a quarter of an expected sample, so that few rows stay
    free, at most the job's batch, and no more than the device computes efficiently."""
    expected = job.privacy.sampling_rate * job.privacy.patients_per_site
    return min(most_rows(job, device), 1 << max(0, round(math.log2(max(1.0, expected / 4)))))


def most_rows(job: Job, device: torch.device) -> int:
    """Return how many images may share a pass: the job's batch, and what the device computes efficiently."""
    return min(job.training.batch_size, MOST_ROWS_CPU if device.type == "cpu" else MOST_ROWS)

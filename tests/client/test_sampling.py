"""Balanced and hard sampling, and the site's counts of labels."""

from typing import Any

import torch

from salus.client.sampling import Balance, mixed_within
from salus.common.batch import Batch
from salus.common.job import TaskSettings
from salus.common.tasks import make_task
from salus.common.tasks.mixing import COUNTS, OTHER

LABELS = torch.tensor([0] * 95 + [1] * 5)


class Items:
    """Items whose image is their number."""

    def __init__(self, labels: torch.Tensor) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def targets(self) -> torch.Tensor:
        return self.labels

    def parts(self, rows: torch.Tensor, most: int) -> tuple[torch.Tensor, ...]:
        return torch.split(rows, most)

    def batch(self, rows: torch.Tensor, use: object = None) -> Batch:
        image = rows.float().reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)
        return Batch({"image": image, "label": self.labels[rows]})


def balance(labels: torch.Tensor = LABELS, kind: str = "classification", **keys: Any) -> Balance:
    settings = TaskSettings(kind=kind, model="cnn", dataset="d", classes=("a", "b"), shape=(4, 4), **keys)
    return Balance(make_task(settings), Items(labels), lambda batch: batch["image"][:, 0, 0, 0])  # type: ignore[arg-type]


def order(made: Balance, seed: int = 1) -> torch.Tensor:
    return made.order(0, seed, torch.Generator().manual_seed(seed))


def test_without_settings_an_epoch_is_the_permutation_of_before() -> None:
    assert torch.equal(order(balance()), torch.randperm(100, generator=torch.Generator().manual_seed(1)))
    batch = Items(LABELS).batch(torch.arange(3))
    assert balance().changed(batch, torch.Generator()) is batch


def test_balanced_sampling_draws_classes_alike() -> None:
    """Of 4000 draws half are of the rare class, within five standard deviations; of the shuffled order 5 % are."""
    made = balance(sampling="balanced")
    drawn = torch.cat([LABELS[order(made, seed)] for seed in range(40)])
    assert len(drawn) == 4000
    assert abs(int(drawn.sum()) - 2000) < 5 * 1000**0.5
    assert int(LABELS[order(balance())].sum()) == 5


def test_balanced_sampling_of_findings_draws_rare_ones_more_often() -> None:
    findings = torch.zeros(100, 2, dtype=torch.int64)
    findings[:4, 0] = 1
    findings[:50, 1] = 1
    made = balance(findings, kind="multilabel", sampling="balanced")
    drawn = torch.cat([findings[order(made, seed)] for seed in range(20)]).double().mean(dim=0)
    assert float(drawn[0]) > 0.2
    assert 0.4 < float(drawn[1]) < 0.8


def test_a_site_with_one_class_is_sampled_too() -> None:
    assert len(order(balance(torch.zeros(7, dtype=torch.int64), sampling="balanced"))) == 7
    assert len(order(balance(torch.zeros(0, dtype=torch.int64), sampling="balanced"))) == 0


def test_hard_sampling_follows_the_losses() -> None:
    made = balance(sampling="hard")
    drawn = torch.cat([order(made, seed) for seed in range(20)]).double()  # the loss of item i is i
    assert abs(float(drawn.mean()) - 66) < 3  # of a density that grows linearly to 99; of a uniform one 49.5
    assert len(order(balance(torch.zeros(1, dtype=torch.int64), sampling="hard"))) == 1


def test_the_sites_counts_reach_the_loss_that_asks_for_them() -> None:
    batch = Items(LABELS).batch(torch.arange(3))
    found = balance(class_loss="site-calibrated").changed(batch, torch.Generator())
    assert found[COUNTS].tolist() == [[95.0, 5.0]] * 3


def test_under_noise_only_a_patients_own_items_are_mixed() -> None:
    settings = TaskSettings(
        kind="classification", model="cnn", dataset="d", classes=("a", "b"), shape=(4, 4), mixup=1.0
    )
    task, own = make_task(settings), Items(LABELS).batch(torch.tensor([10, 12]))
    found = mixed_within(task, own, torch.Generator().manual_seed(0))
    assert OTHER in found
    assert bool(((found["image"] >= 10) & (found["image"] <= 12)).all())

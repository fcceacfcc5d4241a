"""Mixup: items, labels and losses are mixed alike."""

import torch

from salus.common.batch import Batch
from salus.common.job import TaskSettings
from salus.common.tasks import make_task
from salus.common.tasks.base import ONE_STEP
from salus.common.tasks.mixing import OTHER, SHARE, mixed

SETTINGS = TaskSettings(kind="classification", model="cnn", dataset="d", classes=("a", "b"), shape=(4, 4), mixup=0.4)
BATCH = Batch(
    {"image": torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 1, 4, 4), "label": torch.tensor([0, 1, 0, 1, 1])}
)


def test_an_item_lies_between_two_of_the_batch_with_their_labels() -> None:
    found = mixed(BATCH, "image", 0.4, torch.Generator().manual_seed(1))
    partner = torch.randperm(5, generator=torch.Generator().manual_seed(1))
    share = found[SHARE]
    assert bool(((share >= 0.5) & (share <= 1)).all())
    assert len(set(share.tolist())) == 5
    assert torch.equal(found["label"], BATCH["label"])
    assert torch.equal(found[OTHER], BATCH["label"][partner])
    wanted = share * torch.arange(5.0) + (1 - share) * partner
    assert torch.allclose(found["image"][:, 0, 0, 0], wanted)


def test_the_loss_is_mixed_by_the_same_shares() -> None:
    task = make_task(SETTINGS)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    found = mixed(BATCH, "image", 0.4, torch.Generator().manual_seed(1))
    log_p = torch.log_softmax(model(found["image"]), dim=1)
    rows, share = torch.arange(5), found[SHARE]
    wanted = -share * log_p[rows, found["label"]] - (1 - share) * log_p[rows, found[OTHER]]
    assert torch.allclose(task.losses(model, found, ONE_STEP[0]), wanted)


def test_shares_follow_the_beta_distribution() -> None:
    """The mean of max(share, 1 - share) of Beta(1, 1) is 3/4; fixed seed, five standard errors."""
    many = Batch({"image": torch.zeros(20000, 1), "label": torch.zeros(20000, dtype=torch.int64)})
    mean = float(mixed(many, "image", 1.0, torch.Generator().manual_seed(2))[SHARE].mean())
    error = 5 * (1 / 48 / 20000) ** 0.5
    assert abs(mean - 0.75) < error
    other = float(mixed(many, "image", 0.2, torch.Generator().manual_seed(2))[SHARE].mean())
    assert abs(other - 0.75) > error  # another distribution is told apart

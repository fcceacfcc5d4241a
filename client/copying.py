"""Generated images against a site's own training and held-out images, for its operator; nothing of it leaves the site."""

from collections.abc import Mapping

import torch

from salus.client.data.catalogue import Catalogue
from salus.client.data.preparing import Item, Preparer, target_for
from salus.client.predicting.model import FinishedModel
from salus.common.errors import DataError
from salus.common.job import Job
from salus.common.metrics.copies import FEWEST, averaged, copying
from salus.common.tasks import make_task
from salus.common.tasks.generation import Generating
from salus.common.vocabulary import OTHER


def copies(
    catalogue: Catalogue, name: str, job: Job, model: FinishedModel, count: int, seed: int
) -> Mapping[str, float]:
    """Return what `copying` says of `count` images of each class, with the numbers of images.

    Args:
        name: of the data set with which this site took part in the job.
        seed: as for `salus generate`.

    Raises:
        DataError: an unknown data set, or too few training or held-out images in it.
        UnfitError: the data set is not approved.
    """
    task = make_task(job.task)
    assert isinstance(task, Generating)  # Safe because `generate` has looked.
    catalogue.approvals.require(name)
    preparer = Preparer(catalogue.source(name), task)
    splits = catalogue.splits(name, job.training.validation_fraction)
    real: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for image, fact in zip(catalogue.images(name), catalogue.facts(name), strict=True):
        target = target_for(task, image.label)
        if target is None:
            continue
        item = Item(image, target, str(fact.info.get("vendor", OTHER)))
        try:
            fields = preparer.evaluated(item, [preparer.prefix(item)])
        except DataError:
            continue  # as in training
        small = averaged(fields["image"][None])[0]  # at once: a site may have more images than memory
        real[splits[image.patient] == "train"].append(small)
    training, held_out = real[True], real[False]
    if not training or len(held_out) < FEWEST:
        raise DataError(
            f"Expected training images and at least {FEWEST} held-out ones in the data set {name!r}, "
            f"found {len(training)} and {len(held_out)}.",
            remedy="Compare with a larger data set, or a larger validation_fraction in the job.",
        )
    labels = torch.arange(len(job.task.classes)).repeat_interleave(count)
    made = task.generated(model.network, labels, seed)
    found = copying(made, torch.stack(training), torch.stack(held_out))
    return {**found, "generated": len(made), "training": len(training), "held_out": len(held_out)}

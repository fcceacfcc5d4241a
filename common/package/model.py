"""The trained parameters in a package, compared with the network of its job before a number is read."""

import hashlib
import tempfile
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from salus.common.errors import PackageError, StartError
from salus.common.job_start import Start
from salus.common.models import build_model
from salus.common.models.lora import merged
from salus.common.optional_torch import nn
from salus.common.package.checking import Package
from salus.common.package.files import changed
from salus.common.package.layout import MODEL, START
from salus.common.start.applying import stored_layout, taken_by
from salus.common.start.weights import PREFIX, Weights, hash_of, read_list, weights_of
from salus.common.strategies.wire import encode_model
from salus.common.vectors import FloatVector, Layout, layout_of, write_parameters
from salus.common.versions import check_model_format


def network_of(package: Package) -> nn.Module:
    """Return the network of a package with its trained parameters, adapters added to their layers, in evaluation mode.

    Raises:
        PackageError: the parameters are not those of the job's network.
    """
    network = build_model(package.job.task, package.job.job.seed)
    layout = stored_layout(package.job, network)
    write_parameters(network, layout, parameters_of(package, layout))
    return merged(network).eval()


def parameters_of(package: Package, layout: Layout) -> FloatVector:
    """Return the parameters of a package; errors as in `network_of`.

    Args:
        layout: see `stored_layout`.
    """
    wanted = {spec.name: spec.shape for spec in layout.specs}
    with tempfile.TemporaryDirectory(prefix="salus-") as folder:
        path = package.write_file(MODEL, Path(folder) / MODEL)
        try:
            with safe_open(path, framework="numpy") as file:
                check_model_format(file.metadata(), MODEL, error=PackageError)
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
                found = {name: tuple(part.get_shape()) for name, part in slices.items()}
                kinds = {part.get_dtype() for part in slices.values()}
                if found != wanted or kinds - {"F32"}:
                    raise changed(f"{MODEL} does not have the parameters of the job's network")
                values = {name: np.asarray(file.get_tensor(name)) for name in slices}
        except SafetensorError:
            raise changed(f"{MODEL} is not a safetensors file") from None
    vector = layout.flatten(values)
    if not np.isfinite(vector).all():
        raise changed(f"{MODEL} has parameters that are not finite")
    return vector


def sent_hash(package: Package) -> bytes:
    """Return SHA-256 of the form in which the sites receive a model to evaluate; errors as in `network_of`."""
    network = build_model(package.job.task, package.job.job.seed)
    stored, layout = stored_layout(package.job, network), layout_of(network)
    values = stored.unflatten(parameters_of(package, stored))
    return hashlib.sha256(encode_model(layout, layout.flatten(values), {})).digest()


def weights_in(package: Package) -> Weights:
    """Return the weights of a package as the start of another job.

    Raises:
        StartError: a model from sums, which is no network, or one that is too large.
        PackageError: as in `network_of`.
    """
    if package.job.statistics is not None:
        raise StartError(
            f"The package is of a model from sums ({package.job.statistics.kind}), which is no network.",
            remedy="Start from the package of a training job.",
        )
    return weights_of(network_of(package))


def start_in(package: Package, start: Start) -> Weights:
    """Return the weights of the package from which a job starts.

    Raises:
        StartError: another package than the job names, or other weights.
        PackageError: as in `network_of`.
    """
    if PREFIX + package.sha256 != start.package:
        raise StartError(
            f"The package has the hash {PREFIX}{package.sha256}, the job starts from {start.package}.",
            remedy="Give the package that the job names; salus model start prints its hashes.",
        )
    weights = weights_in(package)
    if weights.digest != start.weights:
        raise StartError(
            f"The package's weights have the hash {weights.digest}, the job names {start.weights}.",
            remedy="Copy both hashes from: salus model start PACKAGE",
        )
    return weights


def check_start(package: Package) -> None:
    """Check that what a package's model did not train is what its start has; errors as in `network_of`."""
    start = package.job.start
    if start is None:
        if package.has(START):
            raise changed(f"{START} is of no use to a job without a start")
        return
    network = build_model(package.job.task, package.job.job.seed)
    try:
        known = {line.name: line for line in read_list(package.read(START), start.weights)}
        names = taken_by(package.job, network, tuple(known.values()))
    except StartError as problem:
        raise changed(f"{START}: {problem.problem.rstrip('.')}") from None
    stored, trained = stored_layout(package.job, network), {spec.name for spec in layout_of(network).specs}
    values = stored.unflatten(parameters_of(package, stored))
    for name in names:
        if name not in trained and hash_of(values[name]) != known[name].sha256:
            raise changed(f"{MODEL} has another {name!r} than the job's start, although the job does not train it")

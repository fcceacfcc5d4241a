"""The trained parameters in a package, compared with the network of its job before a number is read."""

import hashlib
import tempfile
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import nn

from salus.common.errors import PackageError
from salus.common.models import build_model
from salus.common.package.checking import Package
from salus.common.package.files import changed
from salus.common.package.layout import MODEL
from salus.common.strategies.wire import encode_model
from salus.common.vectors import FloatVector, Layout, layout_of, write_parameters
from salus.common.versions import check_model_format


def network_of(package: Package) -> nn.Module:
    """Return the network of a package with its trained parameters, in evaluation mode.

    Raises:
        PackageError: the parameters are not those of the job's network.
    """
    network = build_model(package.job.task, package.job.job.seed)
    layout = layout_of(network)
    write_parameters(network, layout, parameters_of(package, layout))
    return network.eval()


def parameters_of(package: Package, layout: Layout) -> FloatVector:
    """Return the trained parameters of a package; errors as in `network_of`."""
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
    layout = layout_of(build_model(package.job.task, package.job.job.seed))
    return hashlib.sha256(encode_model(layout, parameters_of(package, layout), {})).digest()

"""A model as a bundle of MONAI: metadata and an inference configuration that ``python -m monai.bundle run`` executes.

Nothing of Salus is needed to run it. The network is the ONNX graph, which onnxruntime runs, because weights in a bundle's usual
form are a pickle. Images go through MONAI's own transforms; a step of the job's chain that has no equal there is refused by name.
"""

from importlib import metadata
from typing import Any

from salus import __version__
from salus.common.errors import JobError
from salus.common.job import Job
from salus.common.strict import Strict
from salus.common.tasks import make_task
from salus.common.tasks.segmentation import Segmentation
from salus.common.transforms.intensity import Normalize, Percentiles, Rescale, Window
from salus.common.transforms.resizing import Resize
from salus.server.packaging.graph import Graph

IMAGE = "image"
GREY = 255  # the largest value of a picture of eight bits
SAVE = (
    "$(lambda items, inferer, network, folder: [numpy.save(pathlib.Path(folder) / (pathlib.Path(item['name']).name + '.npy'), "
    "numpy.asarray(inferer(torch.as_tensor(item['image'])[None].contiguous(), network)[0])) for item in items])"
    "(@dataset, @inferer, @network_def, @output_dir)"
)
NETWORK = (
    "$(lambda session: lambda x: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]))"
    "(@session)"
)


def bundle_of(job: Job, graph: Graph) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the contents of ``configs/metadata.json`` and ``configs/inference.json``.

    Args:
        graph: the network, see `to_onnx`.

    Raises:
        JobError: the task's input is not one image, or a step has no equal in MONAI; the message names it.
    """
    inputs = graph.facts["inputs"]
    if [one["name"] for one in inputs] != [IMAGE] or len(graph.facts["outputs"]) != 1:
        raise _refused(f"the task {job.task.kind!r} takes more or other than one image")
    if len(job.task.shape) == 3 and job.task.channels != 1:
        raise _refused("its volumes have several channels, whose files MONAI would not know to join")
    inference = _inference(job)
    return _metadata(job, graph), inference


def _inference(job: Job) -> dict[str, Any]:
    return {
        "imports": ["$import numpy", "$import onnxruntime", "$import pathlib", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/outputs'",
        "session": "$onnxruntime.InferenceSession(@bundle_root + '/models/model.onnx', providers=['CPUExecutionProvider'])",
        "network_def": NETWORK,
        "inferer": _inferer(job),
        "preprocessing": {"_target_": "Compose", "transforms": [*_reading(job), *_chain(job)]},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': str(path), 'name': str(path)} for path in sorted(pathlib.Path(@dataset_dir).iterdir())]",
            "transform": "@preprocessing",
        },
        "run": ["$pathlib.Path(@output_dir).mkdir(parents=True, exist_ok=True)", SAVE],
    }


def _inferer(job: Job) -> dict[str, Any]:
    task = make_task(job.task)
    if not isinstance(task, Segmentation):
        return {"_target_": "SimpleInferer"}
    if getattr(job.task, "test_flips", False):
        raise _refused("its predictions are means over flipped images")
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": list(job.task.shape),
        "sw_batch_size": 1,
        "overlap": getattr(job.task, "window_overlap", 0.25),
        "mode": "gaussian",
    }


def _reading(job: Job) -> list[dict[str, Any]]:
    """Return the steps up to the image as Salus reads it: pictures of 8 bits as grey values, NIfTI along head, back, left."""
    measured = make_task(job.task).chain.measured
    if len(job.task.shape) == 2:
        return [
            {"_target_": "LoadImaged", "keys": IMAGE, "reader": "PILReader", "reverse_indexing": False},
            {"_target_": "EnsureChannelFirstd", "keys": IMAGE},
            _lambda(f"lambda x: x.float() / {GREY}"),
        ]
    turned: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": IMAGE, "reader": "NibabelReader"},
        {"_target_": "EnsureChannelFirstd", "keys": IMAGE},
        {"_target_": "Orientationd", "keys": IMAGE, "axcodes": "LPS", "labels": None},
        _lambda("lambda x: torch.as_tensor(x).float().permute(0, 3, 2, 1)"),
    ]
    if measured:
        return turned
    return [*turned, {"_target_": "ScaleIntensityd", "keys": IMAGE, "minv": 0.0, "maxv": 1.0, "channel_wise": True}]


def _chain(job: Job) -> list[dict[str, Any]]:
    chain = make_task(job.task).chain
    steps = zip(chain.kinds, chain.steps, chain.entries, strict=True)
    return [_step(job, kind, entry) for kind, step, entry in steps if not step.random]


def _step(job: Job, kind: str, entry: Strict) -> dict[str, Any]:
    """Return one step of the chain in MONAI's words."""
    if isinstance(entry, Resize.Settings):
        return _resized(list(entry.size or job.task.shape), area=entry.mode == "area")
    if isinstance(entry, Rescale.Settings | Window.Settings) and not entry.fields:
        return {
            "_target_": "ScaleIntensityRanged", "keys": IMAGE, "a_min": entry.low, "a_max": entry.high,
            "b_min": entry.to_low, "b_max": entry.to_high, "clip": isinstance(entry, Window.Settings),
        }  # fmt: skip
    if isinstance(entry, Percentiles.Settings) and not entry.fields and not entry.nonzero:
        return {
            "_target_": "ScaleIntensityRangePercentilesd", "keys": IMAGE, "lower": entry.low, "upper": entry.high,
            "b_min": entry.to_low, "b_max": entry.to_high, "clip": True,
        }  # fmt: skip
    if isinstance(entry, Normalize.Settings) and not entry.fields and not entry.limit:
        return {
            "_target_": "NormalizeIntensityd", "keys": IMAGE, "nonzero": entry.nonzero, "channel_wise": entry.channel_wise,
        }  # fmt: skip
    raise _refused(f"the transform {kind!r}, as this job sets it, has no equal in MONAI")


def _resized(size: list[int], *, area: bool) -> dict[str, Any]:
    how = "'area'" if area else "'bilinear', antialias=True" if len(size) == 2 else "'trilinear'"
    same = f"lambda x: x if list(x.shape[1:]) == {size} else "
    return _lambda(f"{same}torch.nn.functional.interpolate(torch.as_tensor(x)[None], size={size}, mode={how})[0]")


def _lambda(text: str) -> dict[str, Any]:
    return {"_target_": "Lambdad", "keys": IMAGE, "func": f"${text}"}


def _metadata(job: Job, graph: Graph) -> dict[str, Any]:
    task = job.task
    (given,), (found,) = graph.facts["inputs"], graph.facts["outputs"]
    kind = "8-bit pictures" if len(task.shape) == 2 else "NIfTI volumes"
    return {
        "version": "1",
        "changelog": {"1": "as trained"},
        "monai_version": metadata.version("monai"),
        "pytorch_version": metadata.version("torch"),
        "numpy_version": metadata.version("numpy"),
        "required_packages_version": {"onnxruntime": metadata.version("onnxruntime")},
        "task": task.kind,
        "description": f"{task.model} for {task.kind}, trained by Salus {__version__} in the job {job.job.name}",
        "intended_use": "research use",
        "network_data_format": {
            "inputs": {
                IMAGE: {
                    "type": "image",
                    "format": kind,
                    "modality": task.modality or "any",
                    "num_channels": task.channels,
                    "spatial_shape": list(task.shape),  # to which the preprocessing brings every image, or of a window
                    "dtype": given["dtype"],
                    "is_patch_data": False,
                }
            },
            "outputs": {
                "pred": {
                    "type": "logits",
                    "shape": found["shape"],
                    "dtype": found["dtype"],
                    "channel_def": {str(number): name for number, name in enumerate(_channels(job))},
                }
            },
        },
    }


def _channels(job: Job) -> list[str]:
    alone = make_task(job.task)
    if isinstance(alone, Segmentation) and not getattr(job.task, "multi_label", False):
        return ["background", *job.task.classes]
    return list(job.task.classes)


def _refused(why: str) -> JobError:
    return JobError(
        f"The model cannot be written as a bundle of MONAI: {why}.", remedy="Leave out --bundle; --onnx may work."
    )

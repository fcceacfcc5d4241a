"""`salus simulate`, `salus demo`, `salus phantoms` and `salus bench`."""

import inspect
import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salus.client.commands.source_options import (
    AgeColumn,
    Columns,
    EventColumn,
    Images,
    LabelColumn,
    LabelFile,
    Masks,
    Missing,
    Numbers,
    PatientColumn,
    PositiveAbove,
    Row,
    Series,
    SexColumn,
    Structures,
    Text,
)
from salus.common.console import emit_json, err, example, out, shown, table
from salus.common.errors import ConfigError
from salus.common.estimates import from_plain, metric_text
from salus.common.help import DICOM
from salus.common.outputs import Output
from salus.server.commands.arguments import StartOption
from salus.simulations.workplace import workplace

if TYPE_CHECKING:
    from salus.common.job import Job
    from salus.simulations.simulate import SimulationResult


# Those of `samples.KINDS`, which is not imported for a help text; a test compares them.
PHANTOMS = (
    "npz", "dicom", "nifti", "masks", "findings", "fusion", "visits", "bags", "survival", "cells", "clips", "boxes",
    "imbalance", "lesions",
)  # fmt: skip


PartitionOption = Annotated[
    str, typer.Option(help="How patients are divided: iid, dirichlet:0.5, quantity:1 or group.")
]
VolumesOption = Annotated[bool, typer.Option(help="Read each DICOM series as one 3-D image.", rich_help_panel=DICOM)]


def simulate(
    job: Annotated[Path, typer.Argument(help="A job file.")],
    data: Annotated[
        Path, typer.Option(help="An npz file, a CSV file, or a folder of DICOM, NIfTI, image or CSV files.")
    ],
    sites: Annotated[int, typer.Option(min=1, max=1000, help="Number of virtual hospitals.")],
    partition: PartitionOption = "iid",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the partition.")] = 0,
    json_out: Annotated[
        str, typer.Option("--json", help="Write the result as JSON to this file; - for standard output.")
    ] = "",
    start: StartOption = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for model, catalogues and logs; without it, none is kept.")
    ] = None,
    labels: LabelFile = "",
    label_column: LabelColumn = "",
    volumes: VolumesOption = False,
    columns: Columns = "",
    missing: Missing = "",
    positive_above: PositiveAbove = None,
    numbers: Numbers = "",
    row: Row = "",
    text: Text = "",
    series: Series = "",
    patient_column: PatientColumn = "",
    sex_column: SexColumn = "",
    age_column: AgeColumn = "",
    event_column: EventColumn = "",
    masks: Masks = "",
    images: Images = "",
    structures: Structures = "",
    workers: Annotated[int, typer.Option(min=0, help="Number of processes; 0 for one per CPU core.")] = 0,
    mixed_precision: Annotated[bool, typer.Option(help="Use bfloat16 if the device supports it.")] = False,
) -> None:
    """Run a job over virtual hospitals on this machine, with the same rounds and code but without a network."""
    from salus.client.data.sources.settings import SourceOptions, markers
    from salus.client.performance import Performance
    from salus.common.job import load_job
    from salus.common.package.starting import start_from
    from salus.server.exactness import exactness
    from salus.simulations.simulate import simulate as run

    options = SourceOptions.asked(
        labels=labels, label_column=label_column, patient_column=patient_column,
        sex_column=sex_column, age_column=age_column, event_column=event_column,
        volumes=volumes, masks=masks, images=images, structures=tuple(filter(None, _parts(structures))),
        numbers=tuple(filter(None, _parts(numbers))), row=tuple(filter(None, _parts(row))), text=text, series=series,
        columns=tuple(filter(None, _parts(columns))), missing=markers(missing), positive_above=positive_above,
    )  # fmt: skip
    loaded = load_job(job)
    if not data.exists():
        raise ConfigError(f"Expected data at {data.name!r}, but the path does not exist.", remedy="Check --data.")
    weights = start_from(loaded, start)
    if sentence := exactness(loaded, sites):
        err.print(sentence, soft_wrap=True)
    with _opened(json_out) as target, workplace(output) as folder, _Follow(loaded.job.rounds) as follow:
        result = run(
            loaded, data, sites=sites, partition=partition, seed=seed, folder=folder, options=options,
            performance=Performance(mixed_precision=mixed_precision), workers=workers, listener=follow, start=weights,
        )  # fmt: skip
        values = _values(loaded, result, kept=output is not None)
        if target is not None:
            target.write(json.dumps(values, indent=1, allow_nan=False) + "\n")
    emit_json(values) if json_out == "-" else _show(result, kept=output is not None)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _opened(path: str) -> AbstractContextManager[Output | None]:
    """Open a file for the result before the work begins; a null context for standard output."""
    return Output(Path(path)) if path not in ("", "-") else nullcontext()


def _values(job: "Job", result: "SimulationResult", *, kept: bool) -> dict[str, object]:
    values = result.to_json()
    if not kept:
        del values["model"]
    if job.statistics is not None:
        shown = {"statistics": result.statistics, "transforms": result.transforms, "seconds": values["seconds"]}
        if result.metrics or result.evaluation:
            names = "metrics", "sites", "evaluation", "subgroups"
            shown |= {name: values[name] for name in names if values.get(name)}
        if kept and result.model.exists():
            shown |= {"model": values["model"], "signed_by": result.signed_by}
        return shown
    return values


def _show(result: "SimulationResult", *, kept: bool) -> None:
    _show_values(result)
    if not kept:
        out.print("The model was not kept; add --output FOLDER to keep it, with the catalogues and logs.")
    elif result.model.exists():
        out.print(f"Model: {shown(result.model)}", soft_wrap=True)
        if result.statistics:
            out.print(f"Signed by: {result.signed_by}", markup=False, soft_wrap=True)


def _show_values(result: "SimulationResult") -> None:
    from salus.simulations.testing import MEAN

    if result.statistics:
        from salus.server.commands.statistics import show

        show(result.statistics)
        out.print(result.transforms, markup=False, soft_wrap=True)
    if result.metrics:
        table(
            "Final model on the test split",
            ["", ""],
            [(name, metric_text(value)) for name, value in result.metrics.items()],
        )
    if result.sites:
        means = [name.removesuffix(MEAN) for name in result.metrics if name.endswith(MEAN)]
        rows = [(site, *(_known(found.get(name)) for name in means)) for site, found in result.sites.items()]
        table("Each hospital's test patients", ["", *means], rows)
    if result.evaluation:
        rows = [(name, metric_text(value)) for name, value in result.evaluation.items()]
        table("Final model on the sites' validation patients", ["", ""], rows)
    if result.subgroups:
        from salus.common.subgroups.printing import show_subgroups

        show_subgroups("Final model by subgroup of the sites' validation patients", result.subgroups)
    if result.statistics:
        return
    out.print(f"Time: {result.seconds:.1f} s. Peak memory: {result.peak_rss_mb:.0f} MB.")
    if result.quarantined:
        unused = ", ".join(f"{count} {reason}" for reason, count in sorted(result.quarantined.items()))
        out.print(f"Files not used: {shown(unused)}")


def _known(value: float | None) -> str:
    return "-" if value is None else metric_text(value)


class _Follow:
    """Shows the rounds of a simulation on standard error."""

    def __init__(self, rounds: int) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=err
        )
        self._bar = self._progress.add_task("reading data and starting virtual hospitals", total=rounds)

    def __enter__(self) -> "_Follow":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, event: object) -> None:
        from salus.common.events import Event

        if isinstance(event, Event) and event.kind == "round":
            metrics = from_plain(event.fields["metrics"])
            text = ", ".join(f"{k} {metric_text(metrics[k])}" for k in ("auc", "accuracy", "loss") if k in metrics)
            self._progress.update(self._bar, advance=1, description=f"round {event.fields['round']}  {text}")
        elif isinstance(event, Event) and event.kind in ("left-out", "abandoned"):
            self._progress.console.print(f"{event.kind}: {event.fields.get('text', '')}", markup=False)


def demo(
    folder: Annotated[Path, typer.Option(help="Folder for all files; an old demo in it is removed first.")] = Path(
        "salus-demo"
    ),
    rounds: Annotated[int, typer.Option(min=1, max=200, help="Number of training rounds.")] = 30,
    sites: Annotated[
        int, typer.Option(min=5, max=8, help="Number of phantom hospitals; a masked sum needs at least five.")
    ] = 5,
) -> None:
    """Run a whole federation on this machine: a coordinator and phantom hospitals with DICOM files, as processes over TLS."""
    from salus.simulations.demo import run_demo

    run_demo(folder, rounds=rounds, sites=sites)


def phantoms(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(PHANTOMS)}; may be repeated. Without it the first three."),
    ] = None,
    patients: Annotated[
        int,
        typer.Option(min=20, max=100_000, help="Number of patients of each kind but dicom, which has a fixed size."),
    ] = 600,
    side: Annotated[int, typer.Option(min=8, max=512, help="Side length of an image, in pixels.")] = 48,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the images.")] = 0,
) -> None:
    """Write small synthetic data sets to try Salus with: MedMNIST arrays, DICOM folders, NIfTI volumes with masks."""
    from salus.simulations.samples import USUAL, write_samples

    with err.status("Drawing phantoms ..."):
        written = write_samples(folder, tuple(kind or USUAL), patients=patients, seed=seed, side=side)
    table("Phantoms (synthetic; no patient data)", ["kind", "where"], [(k, str(p)) for k, p in written.items()])
    if "npz" in written:
        out.print("Try: salus simulate simulations/jobs/phantom-lesion.toml --sites 5 --data", end=" ", soft_wrap=True)
        out.print(str(written["npz"]), markup=False, soft_wrap=True)


def bench(
    name: Annotated[str, typer.Argument(help="Name of the benchmark, one of those above.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quick: Annotated[bool, typer.Option(help="Fewer repetitions and no peer, to try the command.")] = False,
    params: Annotated[int, typer.Option(min=0, help="Length of the vector; 0 for the default.")] = 0,
    sites: Annotated[int, typer.Option(min=0, help="Number of sites; 0 for the default.")] = 0,
    net: Annotated[str, typer.Option(help="For dp: resnet18, cnn, unet, unet-3d or another network.")] = "",
    every: Annotated[bool, typer.Option("--all", help="For dp: all networks, with fewer repetitions.")] = False,
    data: Annotated[Path | None, typer.Option(help="For privacy: PneumoniaMNIST, its folder or file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="For privacy: also write the table as an SVG image to this file.")
    ] = None,
) -> None:
    """Compare Salus with a peer or a lower bound in the same run: cache, device, dp, encryption, evaluation,
    harmonisation, importing, link, masking, memory, privacy, scale, text."""
    from salus.simulations.benchmarks import BENCHMARKS

    options = {"parameters": params, "sites": sites, "net": net, "every": every, "data": data}
    chosen = {name: value for name, value in options.items() if value}
    benchmark = BENCHMARKS.get(name)
    unknown = set(chosen) - set(inspect.signature(benchmark).parameters)
    if unknown:
        raise ConfigError(
            f"The benchmark {name!r} does not have the option {', '.join(sorted(unknown))}.", remedy="Omit it."
        )
    with _opened(str(plot or "")) as picture:
        measured = benchmark(quick=quick, **chosen)
        if picture is not None:
            from salus.simulations.benchmarks.privacy import plot as draw

            picture.write(draw(measured))
    if as_json:
        emit_json(measured)
    else:
        table(name, ["", ""], measured.items())


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command(
        epilog=example("salus simulate simulations/jobs/phantom-lesion.toml --sites 5 --data phantoms/npz/phantoms.npz")
    )(simulate)
    app.command(epilog=example("salus demo"))(demo)
    app.command(epilog=example("salus phantoms phantoms"))(phantoms)
    app.command(epilog=example("salus bench link --json"))(bench)

"""`salus simulate`, `salus demo`, `salus phantoms` and `salus bench`."""

import inspect
import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salus.common.console import emit_json, err, example, out, shown, table
from salus.common.errors import ConfigError
from salus.common.estimates import from_plain, metric_text
from salus.common.outputs import Output
from salus.simulations.workplace import workplace

if TYPE_CHECKING:
    from salus.common.job import Job
    from salus.simulations.simulate import SimulationResult


def simulate(
    job: Annotated[Path, typer.Argument(help="A job file.")],
    data: Annotated[Path, typer.Option(help="An npz, a CSV, or a folder of DICOM, images or tables.")],
    sites: Annotated[int, typer.Option(min=1, max=1000, help="Virtual hospitals.")],
    partition: Annotated[str, typer.Option(help="iid, dirichlet:0.5, quantity:1 or group.")] = "iid",
    seed: Annotated[int, typer.Option(min=0, help="Of the partition.")] = 0,
    json_out: Annotated[str, typer.Option("--json", help="Write the result to this file; - for standard output.")] = "",
    output: Annotated[Path | None, typer.Option(help="Keep the model, catalogues and logs here.")] = None,
    labels: Annotated[str, typer.Option(help="CSV of labels, relative to the data folder.")] = "",
    label_column: Annotated[str, typer.Option(help="Its column of labels.")] = "label",
    volumes: Annotated[bool, typer.Option(help="Take each DICOM series as one 3-D image.")] = False,
    columns: Annotated[str, typer.Option(help="Columns of a table without a header, separated by commas.")] = "",
    missing: Annotated[
        str, typer.Option(help="What stands for a missing value in a table, by commas.")
    ] = "?,NA,NaN,nan",
    positive_above: Annotated[float | None, typer.Option(help="Make a table's label 1 above this number.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 for one per core.")] = 0,
    mixed_precision: Annotated[bool, typer.Option(help="bfloat16 where the device has it.")] = False,
) -> None:
    """Run a job over virtual hospitals on this machine: the same rounds and code, without a network."""
    from salus.client.data.sources.base import SourceOptions
    from salus.client.performance import Performance
    from salus.common.job import load_job
    from salus.server.exactness import exactness
    from salus.simulations.simulate import simulate as run

    options = SourceOptions(
        labels=labels,
        label_column=label_column,
        volumes=volumes,
        columns=tuple(column.strip() for column in columns.split(",") if column.strip()),
        missing=("", *(code.strip() for code in missing.split(","))),
        positive_above=positive_above,
    )
    loaded = load_job(job)
    if not data.exists():
        raise ConfigError(f"Expected data at {data.name!r}, but there is nothing.", remedy="Check --data.")
    if sentence := exactness(loaded, sites):
        err.print(sentence, soft_wrap=True)
    with _opened(json_out) as target, workplace(output) as folder, _Follow(loaded.job.rounds) as follow:
        result = run(
            loaded,
            data,
            sites=sites,
            partition=partition,
            seed=seed,
            folder=folder,
            options=options,
            performance=Performance(mixed_precision=mixed_precision),
            workers=workers,
            listener=follow,
        )
        values = _values(loaded, result, kept=output is not None)
        if target is not None:
            target.write(json.dumps(values, indent=1, allow_nan=False) + "\n")
    if json_out == "-":
        emit_json(values)
    else:
        _show(result)


def _opened(path: str) -> AbstractContextManager[Output | None]:
    """Open a file for the result before the work begins; nothing to open for standard output."""
    return Output(Path(path)) if path not in ("", "-") else nullcontext()


def _values(job: "Job", result: "SimulationResult", *, kept: bool) -> dict[str, object]:
    values = result.to_json()
    if not kept:
        del values["model"]
    if job.statistics is not None:
        return {"statistics": result.statistics, "harmonise": result.harmonise, "seconds": values["seconds"]}
    return values


def _show(result: "SimulationResult") -> None:
    if result.statistics:
        from salus.server.commands.statistics import show

        show(result.statistics)
        out.print(result.harmonise, markup=False, soft_wrap=True)
        return
    if result.metrics:
        table(
            "Final model on the test split",
            ["", ""],
            [(name, metric_text(value)) for name, value in result.metrics.items()],
        )
    if result.evaluation:
        rows = [(name, metric_text(value)) for name, value in result.evaluation.items()]
        table("Final model on the sites' validation patients", ["", ""], rows)
    out.print(f"Time: {result.seconds:.1f} s. Peak memory: {result.peak_rss_mb:.0f} MB.")
    if result.quarantined:
        out.print(f"Files not used: {shown(result.quarantined)}")


class _Follow:
    """Shows the rounds of a simulation on standard error."""

    def __init__(self, rounds: int) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=err
        )
        self._bar = self._progress.add_task("reading data, starting virtual hospitals", total=rounds)

    def __enter__(self) -> "_Follow":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, event: object) -> None:
        from salus.common.events import Event

        if isinstance(event, Event) and event.kind == "round":
            text = ", ".join(f"{k} {metric_text(v)}" for k, v in from_plain(event.fields["metrics"]).items())
            self._progress.update(self._bar, advance=1, description=f"round {event.fields['round']}  {text[:70]}")
        elif isinstance(event, Event) and event.kind in ("left-out", "abandoned"):
            self._progress.console.print(f"{event.kind}: {event.fields.get('text', '')}", markup=False)


def demo(
    folder: Annotated[
        Path, typer.Option(help="Where everything is written; emptied first if it is an old demo.")
    ] = Path("salus-demo"),
    rounds: Annotated[int, typer.Option(min=1, max=50, help="Rounds to train.")] = 5,
    sites: Annotated[int, typer.Option(min=5, max=8, help="Phantom hospitals; a masked sum needs five.")] = 5,
) -> None:
    """Run a whole federation on this machine: a coordinator and phantom hospitals as processes over TLS, DICOM in, model out."""
    from salus.simulations.demo import run_demo

    run_demo(folder, rounds=rounds, sites=sites)


def phantoms(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    kind: Annotated[list[str] | None, typer.Option(help="npz, dicom or nifti; may be given several times.")] = None,
    patients: Annotated[int, typer.Option(min=20, max=100_000, help="Patients of the npz and NIfTI sets.")] = 600,
    side: Annotated[int, typer.Option(min=8, max=512, help="Pixels of an image's side.")] = 48,
    seed: Annotated[int, typer.Option(min=0, help="Of the pictures.")] = 0,
) -> None:
    """Write small synthetic data sets to try Salus with: MedMNIST arrays, DICOM folders, NIfTI volumes with masks."""
    from salus.simulations.samples import KINDS, write_samples

    with err.status("Drawing phantoms ..."):
        written = write_samples(folder, tuple(kind or KINDS), patients=patients, seed=seed, side=side)
    table("Phantoms: drawn, not measured, and nobody's", ["kind", "where"], [(k, str(p)) for k, p in written.items()])
    if "npz" in written:
        out.print("Try: salus simulate simulations/jobs/phantom-lesion.toml --sites 5 --data", end=" ", soft_wrap=True)
        out.print(str(written["npz"]), markup=False, soft_wrap=True)


def bench(
    name: Annotated[str, typer.Argument(help="Which benchmark; see `salus bench --help`.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quick: Annotated[bool, typer.Option(help="Fewer repetitions and no peer; for trying the command.")] = False,
    params: Annotated[int, typer.Option(min=0, help="Length of the vector, where there is one; 0 for the usual.")] = 0,
    sites: Annotated[int, typer.Option(min=0, help="Sites, where they can be chosen; 0 for the usual.")] = 0,
    net: Annotated[str, typer.Option(help="For dp: resnet18, unet or cnn.")] = "",
    data: Annotated[Path | None, typer.Option(help="For privacy: the folder of PneumoniaMNIST.")] = None,
    plot: Annotated[Path | None, typer.Option(help="For privacy: write the table as an SVG picture.")] = None,
) -> None:
    """Measure ourselves against a peer or a floor in the same run: cache, dp, encryption, evaluation,
    harmonisation, importing, link, masking, memory, privacy."""
    from salus.simulations.benchmarks import BENCHMARKS

    options = {"parameters": params, "sites": sites, "net": net, "data": data}
    chosen = {name: value for name, value in options.items() if value}
    benchmark = BENCHMARKS.get(name)
    unknown = set(chosen) - set(inspect.signature(benchmark).parameters)
    if unknown:
        raise ConfigError(
            f"The benchmark {name!r} has no choice of {', '.join(sorted(unknown))}.", remedy="Leave it out."
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


def verify(
    transcript: Annotated[Path, typer.Argument(help="A transcript, from the coordinator's folder transcripts/.")],
    kit: Annotated[Path, typer.Option(help="A kit of the consortium, of any date: its key says which roster counts.")],
    as_json: Annotated[bool, typer.Option("--json", help="For a machine.")] = False,
) -> None:
    """Check a transcript of protected sums as a third party, with the roster with which its job began: signatures,
    thresholds, cohorts, ledgers. Print the privacy that each site has spent; exit code 41 if it does not hold."""
    from salus.common.identity import unhex
    from salus.common.kit import read_kit
    from salus.privacy.protection import protection_of
    from salus.server.card import privacy_card
    from salus.server.transcripts import verify_file

    checked = verify_file(transcript, unhex(read_kit(kit).consortium_key))
    verified, roster = checked.verified, checked.roster
    counted = protection_of(verified.job).transcript
    card = privacy_card(verified.job, verified.sent if counted else None, roster.names())
    if as_json:
        named = {"serial": roster.serial, "valid_until": roster.valid_until.isoformat(), "sites": roster.names()}
        emit_json(
            {
                "sums": verified.sums,
                "privacy": card.model_dump(mode="json"),
                "roster": named,
                "not_shown": list(checked.unproven),
            }
        )
        return
    out.print(
        f"The transcript holds. Roster {roster.serial} of [bold]{shown(roster.consortium)}[/], {len(roster.sites)} sites, "
        f"valid from {roster.valid_from:%Y-%m-%d} to {roster.valid_until:%Y-%m-%d}."
    )
    table(
        f"{len(verified.sums)} sums, all allowed",
        ["round", "attempt", "kind", "sites", "consents"],
        [(s["round"], s["attempt"], s["kind"], s["sites"], s["consents"]) for s in verified.sums],
    )
    table(
        f"Privacy: {card.statement}",
        ["site", "attempts", "epsilon", "delta"],
        [
            (row.name, row.attempts, "none" if row.epsilon is None else f"{row.epsilon:.3f}", row.delta)
            for row in card.sites
        ],
    )
    out.print("A transcript cannot show:")
    for sentence in checked.unproven:
        out.print(f"- {sentence}", markup=False)


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command(
        epilog=example(
            "salus simulate simulations/jobs/pneumonia.toml --data ../shared/data/pneumoniamnist --sites 8 "
            "--partition dirichlet:0.5"
        )
    )(simulate)
    app.command(epilog=example("salus demo"))(demo)
    app.command(epilog=example("salus phantoms phantoms"))(phantoms)
    app.command(epilog=example("salus bench link --json"))(bench)
    app.command(epilog=example("salus verify coordinator/transcripts/job-0001.jsonl --kit kits/site-1.kit"))(verify)

"""`salus explain`: why a finished model says what it says about a site's own images; the work is in `explaining`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from salus.common.console import emit_json, err, example, out, shown, table

if TYPE_CHECKING:
    from salus.client.explaining.reading import Known
    from salus.client.explaining.run import Finished, Wanted
    from salus.client.predicting.from_sums import SumsModelFile
    from salus.client.predicting.model import FinishedModel
    from salus.common.job import Job


def explain(
    model: Annotated[Path, typer.Argument(help="A package, or with --job a model's file, which salus job show names.")],
    data: Annotated[
        str,
        typer.Argument(help="A folder of DICOM, NIfTI or image files, a CSV; with --site the name of a data set."),
    ] = "",
    cases: Annotated[int, typer.Option(min=1, max=200, help="How many images or rows are explained.")] = 8,
    folder: Annotated[Path, typer.Option("--output", "--out", help="Where the page and the JSON go.")] = Path(
        "explanations"
    ),
    methods: Annotated[
        str, typer.Option(help="Methods, separated by commas; all that the model bears if not given.")
    ] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of a method, such as occlusion.windows=12.")
    ] = None,
    compared: Annotated[
        int, typer.Option(min=1, max=5000, help="Images or rows among which cases and counterexamples are found.")
    ] = 500,
    job: Annotated[Path | None, typer.Option(help="The job file of a model's file; a package has its job.")] = None,
    site: Annotated[Path | None, typer.Option(help="A site's folder, for one of its registered data sets.")] = None,
    dataset: Annotated[str, typer.Option(help="The data set, if it is not given as DATA.")] = "",
    kind: Annotated[str, typer.Option(help="dicom, nifti, images, medmnist or table; guessed if not given.")] = "",
    options: Annotated[
        list[str] | None,
        typer.Option("--option", help="How the data are read, such as label_column=num or annotations=Annotations."),
    ] = None,
    signed_by: Annotated[
        str,
        typer.Option(help="For a JSON model: a site's or coordinator's folder with its key, or the key; else --site."),
    ] = "",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Explain a model's answers on a site's own images: a page of maps with their checks, truth and counterexamples.

    Nothing leaves this machine. Images that do not fit the model are left out and listed.
    """
    from salus.client.explaining.choosing import chosen_methods
    from salus.client.explaining.report import check_folder, write_report
    from salus.client.explaining.run import Wanted, check_job
    from salus.client.performance import Performance
    from salus.client.predicting.given import given_model
    from salus.common.errors import ConfigError
    from salus.common.strict import validate

    device_ = validate(Performance, {"device": device}, error=ConfigError, what="choice of a device").torch_device()
    check_folder(folder)
    with given_model(model, job, site, signed_by) as given:
        check_job(given.job)
        found, missing = chosen_methods(methods, settings or [])
        loaded = given.load()
    known = _known(data, site, dataset, kind, options or [], given.job)
    finished = _explained(given.job, loaded, known, Wanted(cases, compared, found, device_))
    summary = write_report(folder, given.job, loaded.sha256, finished, found, missing)
    if as_json:
        emit_json(summary)
        return
    _show(summary, folder)


def _explained(job: "Job", model: "FinishedModel | SumsModelFile", known: "Known", wanted: "Wanted") -> "Finished":
    """Explain with a bar of progress."""
    from rich.progress import Progress

    from salus.client.explaining.run import explain as explained

    with Progress(console=err, transient=True) as bar:
        work = bar.add_task("Comparing ...", total=None)

        def tell(what: str, done: int, of: int) -> None:
            bar.update(work, description=what, completed=done, total=of)

        return explained(job, model, known, wanted, tell)


def _known(data: str, site: Path | None, dataset: str, kind: str, options: list[str], job: "Job") -> "Known":
    """Return the images to explain, with their labels."""
    from salus.client.config import open_catalogue
    from salus.client.data.sources import guess_kind
    from salus.client.data.sources.settings import SourceOptions, options_in
    from salus.client.explaining.reading import known_dataset, known_folder
    from salus.common.errors import ConfigError, DataError

    if site is not None and bool(data) != bool(dataset):
        return known_dataset(open_catalogue(site), data or dataset)
    if site is not None or dataset or not data:
        raise ConfigError(
            "Expected either a folder or file of data, or --site with the name of a data set.",
            remedy="Give one of the two.",
        )
    root = Path(data)
    if not root.exists():
        raise DataError(f"Expected data at {root.name!r}, found nothing.", remedy="Check the path.")
    chosen = kind or guess_kind(root)
    asked = SourceOptions(**options_in(chosen, options))
    return known_folder(root, chosen, asked, volumes=len(job.task.shape) == 3)


def _show(summary: dict[str, Any], folder: Path) -> None:
    rows = []
    for name, values in summary["methods"].items():
        random, game = values["random_weights"], values["pointing_game"]
        rows.append((
            name, f"{values['deletion']:.2f} ({values['random_deletion']:.2f})",
            f"{values['insertion']:.2f} ({values['random_insertion']:.2f})",
            "" if random is None else f"{random:.2f}", "" if game is None else f"{game:.2f}",
        ))  # fmt: skip
    heads = ["method", "deletion (random)", "insertion (random)", "random weights", "pointing game"]
    table(f"{len(summary['cases'])} of {summary['images']} explained", heads, rows)
    if summary["labels_not_used"]:
        out.print(f"The label file was not used. {summary['labels_not_used']}", markup=False, soft_wrap=True)
    for name, reason in summary["not_applied"].items():
        out.print(f"{name} was not applied: {reason}.", markup=False, soft_wrap=True)
    if summary["refused"]:
        first = summary["refused"][0]
        out.print(
            f"{len(summary['refused'])} left out; the first is {first['item']!r}: {first['detail']}.",
            markup=False,
            soft_wrap=True,
        )
    out.print(f"Page: {shown(folder / 'explain.html')}", soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=example("salus explain ./package.zip ./scans --cases 8"))(explain)

"""`salus dataset evaluate`: a finished model on the site's own held-out patients."""

from pathlib import Path
from typing import Annotated

import typer

from salus.client.commands.intake import Folder
from salus.common.console import emit_json, err, example, out, shown, table


def evaluate(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="The data set.")],
    model: Annotated[Path, typer.Argument(help="A package, or with --job a model's file.")],
    job: Annotated[Path | None, typer.Option(help="The job file of a model's file; a package has its job.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    report: Annotated[Path | None, typer.Option(help="Where to write the page; default: the site's folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Evaluate a model on this site's held-out patients: metrics, and a page with the worst cases that stays here."""
    from rich.progress import Progress

    from salus.client.config import open_catalogue
    from salus.client.data.catalogue import check_name
    from salus.client.performance import Performance
    from salus.client.predicting.evaluation import evaluate as evaluated
    from salus.client.predicting.given import given_model
    from salus.common.errors import ConfigError
    from salus.common.pages import write_page
    from salus.common.strict import validate

    chosen = validate(Performance, {"device": device}, error=ConfigError, what="choice of a device").torch_device()
    catalogue = open_catalogue(folder)
    check_name(name)  # it names a page
    with given_model(model, job, folder) as given:
        settings, loaded = given.job, given.network()
    with Progress(console=err, transient=True) as bar:
        work = bar.add_task("Evaluating ...", total=None)
        found = evaluated(
            catalogue, name, settings, loaded, chosen, lambda done, of: bar.update(work, completed=done, total=of)
        )
    page = report or folder / "reports" / f"evaluation-{name}-{settings.job.name}.html"
    lead = (
        f"{found.images} images of {found.patients} held-out patients; model {loaded.sha256[:16]}. For this site only."
    )
    write_page(page, f"{settings.job.name} on {name}", lead, found.sections)
    if as_json:
        plain = {
            "patients": found.patients,
            "images": found.images,
            "left_out": found.left_out,
            "metrics": found.metrics,
        }
        emit_json({**plain, "job": settings.job.name, "model_sha256": loaded.sha256})
        return
    table(
        f"{found.patients} held-out patients",
        ["metric", "value"],
        [(key, f"{value:.4g}") for key, value in found.metrics.items()],
    )
    for reason, count in sorted(found.left_out.items()):
        out.print(f"not used: {count} {reason}", markup=False)
    out.print(f"Page: {shown(page)}", soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=example("salus dataset evaluate ./site chest-xray ./package.zip"))(evaluate)

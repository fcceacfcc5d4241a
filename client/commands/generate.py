"""`salus generate`: synthetic images from a finished model."""

from pathlib import Path
from typing import Annotated

import typer

from salus.common.console import emit_json, example, out, shown, table

SUSPECT = 3.0  # standard errors


def generate(
    model: Annotated[Path, typer.Argument(help="A package, or with --job a model's file, which salus job show names.")],
    folder: Annotated[Path, typer.Option("--output", "--out", help="A new folder for the images.")] = Path("generated"),
    job: Annotated[Path | None, typer.Option(help="The job file of a model's file; a package has its job.")] = None,
    count: Annotated[int, typer.Option(min=1, max=1000, help="Images of each class.")] = 16,
    named: Annotated[
        list[str] | None, typer.Option("--class", help="A class to generate; may be repeated. All if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="The same seed gives the same images.")] = 0,
    site: Annotated[
        Path | None, typer.Option(help="A site's folder: also look for copies of its training images.")
    ] = None,
    dataset: Annotated[str, typer.Option(help="With --site: the data set with which it took part.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the files by class as JSON.")] = False,
) -> None:
    """Generate synthetic images of a class: PNG for pictures, NIfTI for volumes, and a page of them.

    Each file says in its name and in its metadata that it is synthetic. A model may have learned single patients by
    heart, above all one that was trained without noise: treat its images like patients' data until you have checked.
    """
    from salus.client.config import open_catalogue
    from salus.client.copying import copies
    from salus.client.generating import generate as generated
    from salus.client.predicting.given import given_model
    from salus.common.errors import ConfigError

    if (site is None) == bool(dataset):
        raise ConfigError("Expected --site together with --dataset.", remedy="Give both, or none of the two.")
    with given_model(model, job, site) as given:
        settings, loaded = given.job, given.network()
    classes = list(dict.fromkeys(named or settings.task.classes))
    found = generated(settings, loaded, classes, count, seed, folder)
    compared = {} if site is None else dict(copies(open_catalogue(site), dataset, settings, loaded, count, seed))
    if as_json:
        emit_json({"files": found, "copies": compared} if compared else found)
        return
    out.print(f"{sum(map(len, found.values()))} synthetic images: {shown(folder)}", soft_wrap=True)
    out.print(f"Page: {shown(folder / 'generated.html')}", soft_wrap=True)
    if compared:
        table("Copies of training images", ["", ""], [(name, f"{value:.3g}") for name, value in compared.items()])
        out.print(
            "The nearest real image is a training image more often than expected: treat the images like patients' data."
            if compared["standard_errors"] > SUSPECT
            else "No sign that images are copies of this site's training images; other sites' images were not compared.",
            soft_wrap=True,
        )


def register(app: typer.Typer) -> None:
    """Add the command."""
    words = "salus generate ./package.zip --class pneumonia --count 16 --output ./generated"
    app.command(epilog=example(words))(generate)

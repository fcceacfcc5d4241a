"""`salus generate`: synthetic images from a finished model."""

from pathlib import Path
from typing import Annotated

import typer

from salus.common.console import emit_json, example, out, shown


def generate(
    model: Annotated[Path, typer.Argument(help="The finished model, a safetensors file; salus job show names it.")],
    job: Annotated[Path, typer.Argument(help="The job file with which it was trained.")],
    folder: Annotated[Path, typer.Option("--out", help="A new folder for the images.")] = Path("generated"),
    count: Annotated[int, typer.Option(min=1, max=1000, help="Images of each class.")] = 16,
    named: Annotated[
        list[str] | None, typer.Option("--class", help="A class to generate; may be repeated. All if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="The same seed gives the same images.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files by class as JSON.")] = False,
) -> None:
    """Generate synthetic images of a class: PNG for pictures, NIfTI for volumes, and a page of them.

    Each file says in its name and in its metadata that it is synthetic. A model may have learned single patients by
    heart, above all one that was trained without noise: treat its images like patients' data until you have checked.
    """
    from salus.client.generating import generate as generated
    from salus.client.predicting.model import load_model
    from salus.common.job import load_job

    settings = load_job(job)
    classes = list(dict.fromkeys(named or settings.task.classes))
    found = generated(settings, load_model(model, settings), classes, count, seed, folder)
    if as_json:
        emit_json(found)
        return
    out.print(f"{sum(map(len, found.values()))} synthetic images: {shown(folder)}", soft_wrap=True)
    out.print(f"Page: {shown(folder / 'generated.html')}", soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command."""
    words = "salus generate model.safetensors job.toml --class pneumonia --count 16 --out ./generated"
    app.command(epilog=example(words))(generate)

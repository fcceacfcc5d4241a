"""`salus process`: a chain of transforms over a site's images, without training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salus.common.console import emit_json, err, example, out, shown, table
from salus.common.errors import ConfigError, DataError

if TYPE_CHECKING:
    from salus.client.processing.run import Finished


def process(
    data: Annotated[Path | None, typer.Argument(help="A folder of DICOM, NIfTI or image files.")] = None,
    folder: Annotated[Path, typer.Option("--out", help="A new folder for the results.")] = Path("processed"),
    step: Annotated[
        list[str] | None,
        typer.Option(help="A step as KIND or KIND:KEY=VALUE,..., such as median:radius=2; may be repeated."),
    ] = None,
    steps: Annotated[Path | None, typer.Option(help="A TOML file with tables [[transforms]] instead.")] = None,
    job: Annotated[Path | None, typer.Option(help="A job file whose transforms are applied instead.")] = None,
    site: Annotated[Path | None, typer.Option(help="A site's folder, together with --dataset.")] = None,
    dataset: Annotated[str, typer.Option(help="A registered data set of the site, in place of a folder.")] = "",
    kind: Annotated[str, typer.Option(help="dicom, nifti, images or medmnist; guessed if not given.")] = "",
    volumes: Annotated[bool, typer.Option(help="Read each DICOM series as one volume.")] = False,
    images: Annotated[str, typer.Option(help="For NIfTI: a pattern of the images' names, such as *_T1w.nii.gz.")] = "",
    dicom: Annotated[
        bool, typer.Option("--dicom", help="Also write DICOM objects, derived from DICOM images whose grid is kept.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Apply transforms to images: filters, edges, contrast, bias field, morphology, resampling, compression.

    Writes each image as NIfTI in the modality's units, derived DICOM objects on request, a table of how much each
    changed, and a page of before and after. Images that do not fit are refused, each with its reason; all others are
    processed, and the exit code is 20. docs/transforms.md lists the steps.
    """
    from rich.progress import Progress

    from salus.client.commands.predict import inputs_of
    from salus.client.data.sources.settings import SourceOptions
    from salus.client.processing import run
    from salus.client.processing import steps as chosen
    from salus.client.processing.report import summary_of, write_before_after

    if [bool(step), steps is not None, job is not None].count(True) != 1:
        raise ConfigError("Expected steps in one way.", remedy="Give --step (as often as needed), --steps or --job.")
    entries = chosen.from_words(step) if step else chosen.from_file(steps) if steps else chosen.from_job(_given(job))
    with Progress(console=err, transient=True) as bar:
        reading = bar.add_task("Reading ...", total=None)
        options = SourceOptions.asked(images=images)
        inputs = inputs_of(
            data, site, dataset, kind, options, volumes, lambda count: bar.update(reading, completed=count)
        )
        work = bar.add_task("Processing ...", total=len(inputs.found))
        finished = run.process(
            entries, inputs, folder, dicom=dicom, tell=lambda done, of: bar.update(work, completed=done, total=of)
        )
    run.write_list(folder, finished)
    write_before_after(folder / "processed.html", f"Processed images: {data.name if data else dataset}", finished)
    if as_json:
        emit_json(summary_of(finished))
    else:
        _show(finished, folder)
    if finished.refused:
        first = finished.refused[0]
        raise DataError(
            f"{len(finished.refused)} of {len(finished.refused) + len(finished.images)} images were not processed; the "
            f"first is {first.item!r} ({first.reason}: {first.detail}).",
            remedy=first.remedy,
        )


def _given(job: Path | None) -> Path:
    assert job is not None  # Safe because one of the three was given.
    return job


def _show(finished: "Finished", folder: Path) -> None:
    written = sum(one.left_out == "" for one in finished.images)
    rows = [("processed", len(finished.images)), ("refused", len(finished.refused))]
    if any(one.left_out for one in finished.images):
        reasons = ", ".join(sorted({one.left_out for one in finished.images if one.left_out}))
        rows.append((f"without DICOM objects ({reasons})", len(finished.images) - written))
    table("Processed images", ["", ""], rows)
    out.print(f"Files: {shown(folder / 'nifti')}", soft_wrap=True)
    out.print(f"Page: {shown(folder / 'processed.html')}", soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command."""
    words = "salus process phantoms/nifti/images --step median:radius=1 --step n4 --out ./processed"
    app.command(epilog=example(words))(process)

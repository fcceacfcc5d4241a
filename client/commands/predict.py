"""`salus predict` and `salus send`: their options, and what they show; the work is in `predicting` and `outgoing`."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salus.client.commands.intake import Authority, Certificate, Key, Trusted
from salus.common.console import emit_json, err, example, out, shown, table

if TYPE_CHECKING:
    from salus.client.data.sources.settings import SourceOptions
    from salus.client.predicting.inputs import Inputs
    from salus.client.predicting.run import Finished


NOT_WRITTEN = {
    "not-dicom": "a DICOM object refers to DICOM images, and these are of another format; their masks are in the folder masks",
    "several-frames": "the image is a file with several frames",
    "no-position": "the image has no position in the patient",
    "no-volume": "its volume in millilitres is not known, which is what a report of a segmentation says",
}


def predict(
    model: Annotated[Path, typer.Argument(help="A package, or with --job a model's file, which salus job show names.")],
    data: Annotated[Path | None, typer.Argument(help="A folder of DICOM, NIfTI or image files, or a CSV.")] = None,
    folder: Annotated[
        Path, typer.Option("--output", "--out", help="Where the results go; a stopped run continues there.")
    ] = Path("predictions"),
    job: Annotated[Path | None, typer.Option(help="The job file of a model's file; a package has its job.")] = None,
    site: Annotated[Path | None, typer.Option(help="A site's folder, together with --dataset.")] = None,
    dataset: Annotated[str, typer.Option(help="A registered data set of the site, in place of a folder.")] = "",
    kind: Annotated[str, typer.Option(help="dicom, nifti, images, medmnist or table; guessed if not given.")] = "",
    columns: Annotated[str, typer.Option(help="Columns of a table without a header, separated by commas.")] = "",
    images: Annotated[str, typer.Option(help="For NIfTI: a pattern of the images' names, such as *_T1w.nii.gz.")] = "",
    signed_by: Annotated[
        str,
        typer.Option(help="For a JSON model: a site's or coordinator's folder with its key, or the key; else --site."),
    ] = "",
    seg: Annotated[bool, typer.Option("--seg", help="Also write DICOM segmentations.")] = False,
    sr: Annotated[bool, typer.Option("--sr", help="Also write DICOM structured reports.")] = False,
    sc: Annotated[bool, typer.Option("--sc", help="Also write DICOM pictures (secondary capture).")] = False,
    most_oblique: Annotated[
        float, typer.Option(min=0, max=55, help="Degrees by which a volume may be turned against the patient's axes.")
    ] = 30.0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Apply a finished model to images: masks as NIfTI and DICOM SEG, labels as CSV and DICOM SR, a page of overlays.

    Images that do not fit the model are refused, each with its reason; all others are predicted on, and the exit code is 20.
    """
    from rich.progress import Progress

    from salus.client.commands.declaring import words as listed
    from salus.client.data.sources.settings import SourceOptions
    from salus.client.performance import Performance
    from salus.client.predicting.given import given_model
    from salus.client.predicting.outputs import kinds_of
    from salus.client.predicting.report import refusal_of, write_report
    from salus.client.predicting.run import Wanted, check_wanted
    from salus.client.predicting.run import predict as predicted
    from salus.common.errors import ConfigError
    from salus.common.strict import validate

    kinds = kinds_of(seg=seg, sr=sr, sc=sc)
    chosen = validate(Performance, {"device": device}, error=ConfigError, what="choice of a device").torch_device()
    with given_model(model, job, site, signed_by) as given:
        settings = given.job
        check_wanted(settings, kinds)
        loaded = given.load()
    with Progress(console=err, transient=True) as bar:
        reading = bar.add_task("Reading ...", total=None)
        options = SourceOptions.asked(columns=listed(columns), images=images)
        source = (data, site, dataset, kind, options, len(settings.task.shape) == 3)
        inputs = inputs_of(*source, lambda count: bar.update(reading, completed=count))
        work = bar.add_task("Predicting ...", total=len(inputs.found))
        wanted = Wanted(folder, kinds, most_oblique, chosen)
        finished = predicted(
            settings, loaded, inputs, wanted, lambda done, of: bar.update(work, completed=done, total=of)
        )
    summary = write_report(folder, settings, loaded.sha256, finished)
    if as_json:
        emit_json(summary)
    else:
        _show(finished, folder)
    refusal = refusal_of(finished)
    if refusal is not None:
        raise refusal


def _show(finished: "Finished", folder: Path) -> None:
    rows = [
        ("predicted on", len(finished.outcomes)),
        ("of these in an earlier, stopped run", finished.continued),
        ("refused", sum(one.files for one in finished.refused)),
    ]
    table("Predictions", ["", ""], rows)
    if finished.refused:
        listed = [(one.item, one.files, one.reason, one.detail, one.remedy) for one in finished.refused]
        table("Refused", ["file", "files", "reason", "what was found", "what to do"], listed)
    for (kind, reason), count in Counter(
        left_out for one in finished.outcomes.values() for left_out in one.left_out.items()
    ).items():
        meaning = NOT_WRITTEN.get(reason, "it cannot be derived from this image")
        out.print(
            f"--{kind} wrote nothing for {count} of {len(finished.outcomes)} images ({reason}): {meaning}.",
            markup=False,
            soft_wrap=True,
        )
    out.print(f"Table: {shown(folder / 'predictions.csv')}", soft_wrap=True)
    out.print(f"Page: {shown(folder / 'predictions.html')}", soft_wrap=True)


def inputs_of(
    data: Path | None,
    site: Path | None,
    dataset: str,
    kind: str,
    options: "SourceOptions",
    volumes: bool,
    tell: Callable[[int], None],
) -> "Inputs":
    """Return the images to work on: a folder, decoded as at a site, or a registered data set."""
    from salus.client.data.dicom.isolation import Decoding
    from salus.client.predicting.inputs import from_dataset, from_folder
    from salus.common.errors import ConfigError

    if (data is None) == (not dataset) or bool(dataset) != (site is not None):
        raise ConfigError(
            "Expected either a folder or file of data, or --site with --dataset.", remedy="Give one of the two."
        )
    if data is None:
        from salus.client.config import open_catalogue

        assert site is not None  # Safe because it was checked just above.
        return from_dataset(open_catalogue(site), dataset)
    return from_folder(data, kind, options, Decoding(), tell, volumes=volumes)


def send(
    folder: Annotated[Path, typer.Argument(help="A folder of predictions with DICOM objects.")],
    pacs: Annotated[str, typer.Option(help="https://host/dicom-web, or dicom://TITLE@host:port for C-STORE.")],
    user: Annotated[str, typer.Option(help="DICOMweb user; the password is read from SALUS_PACS_PASSWORD.")] = "",
    title: Annotated[str, typer.Option(help="Our AE title, as the PACS knows it.")] = "SALUS",
    authority: Authority = "",
    certificate: Certificate = "",
    key: Key = "",
    trusted_network: Trusted = False,
) -> None:
    """Send the DICOM segmentations, reports and pictures of a prediction to a PACS; what it has already is not stored twice."""
    from rich.progress import Progress

    from salus.client.commands.importing import Tls, sender_of
    from salus.client.outgoing.sending import objects_of

    paths = objects_of(folder)
    store = sender_of(pacs, user, title, Tls(authority, certificate, key, trusted_network))
    with Progress(console=err, transient=True) as bar:
        work = bar.add_task("Sending ...", total=len(paths))
        count = store(paths, lambda done, of: bar.update(work, completed=done, total=of))
    out.print(f"Sent {count} objects.", markup=False)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=example("salus predict ./package.zip ./scans --output ./predictions"))(predict)
    app.command(epilog=example("salus send ./predictions --pacs dicom://PACS@127.0.0.1:4242"))(send)

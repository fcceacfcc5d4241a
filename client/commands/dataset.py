"""`salus dataset`: register a site's data and look at what was registered."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salus.client.commands import approving, evaluating, intake, patients, refused, withdrawing
from salus.client.commands.intake import Channels, Folder, Frames, Include, Name, Suv, Volumes, Yes, ZeroPad
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
from salus.common.console import emit_json, err, example, group, out, shown, table
from salus.common.help import MASKS

if TYPE_CHECKING:
    from salus.client.data.catalogue import Catalogue
    from salus.client.data.sources.settings import SourceOptions

app = group("The hospital's data: register, list, inspect, check.")


@app.command(epilog=example("salus dataset add ./site chest-xray ./dicom --labels labels.csv"))
def add(
    folder: Folder,
    name: Name,
    path: Annotated[Path, typer.Argument(help="A folder of DICOM or image files, an npz, or a CSV.")],
    kind: Annotated[str, typer.Option(help="dicom, nifti, images, medmnist or table; guessed if not given.")] = "",
    labels: LabelFile = "",
    label_column: LabelColumn = "",
    volumes: Volumes = False,
    channels: Channels = "",
    include: Include = "",
    frames: Frames = "",
    suv: Suv = False,
    zero_pad_ids: ZeroPad = 0,
    columns: Columns = "",
    missing: Missing = "",
    positive_above: PositiveAbove = None,
    masks: Masks = "",
    images: Images = "",
    structures: Structures = "",
    annotations: Annotated[
        str,
        typer.Option(
            help="For images: folder of VOC's XML files, or a COCO file; the usual names are found.",
            rich_help_panel=MASKS,
        ),
    ] = "",
    numbers: Numbers = "",
    row: Row = "",
    text: Text = "",
    series: Series = "",
    patient_column: PatientColumn = "",
    sex_column: SexColumn = "",
    age_column: AgeColumn = "",
    event_column: EventColumn = "",
    option: Annotated[
        list[str] | None, typer.Option(help="An option of a plug-in's kind, as key=value; may be repeated.")
    ] = None,
    yes: Yes = False,
) -> None:
    """Read a source, register what can be used, count what cannot, and show what will be public about it."""
    from salus.client.commands.declaring import declare as declared
    from salus.client.commands.declaring import words
    from salus.client.commands.summaries import show_summary
    from salus.client.config import open_catalogue
    from salus.client.data.catalogue import check_name
    from salus.client.data.sources.settings import SourceOptions, markers, options_in

    options = SourceOptions.asked(
        labels=labels, label_column=label_column, patient_column=patient_column, sex_column=sex_column, age_column=age_column,
        event_column=event_column,
        volumes=volumes, channels=channels, include=words(include), frames=frames, suv=suv,
        zero_pad_ids=zero_pad_ids or None, masks=masks, images=images,
        structures=words(structures), annotations=annotations, columns=words(columns), missing=markers(missing),
        positive_above=positive_above, numbers=words(numbers), row=words(row), text=text, series=series,
    )  # fmt: skip
    kind = kind or _guessed(path)
    options = options.changed(**options_in(kind, option or ()))
    catalogue = open_catalogue(folder)
    check_name(name)
    _read(catalogue, name, kind, path, options)
    show_summary(catalogue.summary(name), as_json=False)
    declared(folder, catalogue, name, yes=yes)


def _guessed(path: Path) -> str:
    """Return the kind of data at a path."""
    from salus.client.data.sources import guess_kind
    from salus.common.errors import DataError

    if not path.exists():
        raise DataError(f"Expected data at {path.name!r}, found nothing.", remedy="Check the path.")
    return guess_kind(path)


def _read(catalogue: "Catalogue", name: str, kind: str, path: Path, options: "SourceOptions") -> None:
    """Register what a source holds, with progress."""
    from salus.client.data.records import ImageRecord, Quarantined
    from salus.client.data.sources import open_source

    with err.status("Reading ...") as progress:

        def counted() -> Iterator[ImageRecord | Quarantined]:
            for number, item in enumerate(open_source(kind, path, options, catalogue.decoding).everything(), start=1):
                if number % 20 == 0:
                    progress.update(f"Reading ... {number} files")
                yield item

        catalogue.add_records(name, kind, path, options, counted(), declare=False)


@app.command(epilog=example("salus dataset declare ./site chest-xray --classes normal,pneumonia --min-patients 500"))
def declare(
    folder: Folder,
    name: Name,
    classes: Annotated[str, typer.Option(help="All labels that a job may use, spelt as in the data.")] = "",
    min_patients: Annotated[int, typer.Option(min=0, help="Lower bound on the number of patients.")] = 0,
    units: Annotated[str, typer.Option(help="Units of a table's columns, such as age=years,chol=mg/dl.")] = "",
    modalities: Annotated[str, typer.Option(help="Modalities of the images, such as CT,MR.")] = "",
    show: Annotated[bool, typer.Option("--show", help="Only show what is declared.")] = False,
    yes: Yes = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the declaration as JSON, and change nothing.")] = False,
) -> None:
    """Declare what is public about a data set; jobs are matched against the declaration, never against the data."""
    from salus.client.commands.declaring import Edits, show_declaration, words
    from salus.client.commands.declaring import declare as declared
    from salus.client.commands.declaring import units as parsed_units
    from salus.client.config import open_catalogue

    catalogue = open_catalogue(folder)
    known = catalogue.declarations.all().get(name)
    if as_json:
        emit_json(None if known is None else known.model_dump(mode="json"))
    elif show and known is not None:
        show_declaration(name, known, catalogue.propose(name))
    else:
        edits = Edits(words(classes), min_patients, parsed_units(units), words(modalities))
        declared(folder, catalogue, name, yes=yes and not show, edits=edits)


@app.command(epilog=example("salus dataset labels ./reports labels.csv --name Lesion --above 0.5"))
def labels(
    source: Annotated[Path, typer.Argument(help="A folder with DICOM SEG, RTSTRUCT and SR objects.")],
    output: Annotated[Path, typer.Argument(help="The label file to write.")],
    name: Annotated[str, typer.Option(help="The segment's label or the measured concept.")],
    above: Annotated[float | None, typer.Option(help="Write 1 above this number and 0 otherwise.")] = None,
) -> None:
    """Write a label file, one row per study: volumes of segmentations and structure sets in ml, measurements of reports."""
    from salus.client.commands.labels import write_labels

    counts = write_labels(source, output, name, above)
    table("Labels", ["", ""], list(counts.items()))


@app.command("list", epilog=example("salus dataset list ./site"))
def list_(folder: Folder, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the registered data sets."""
    from dataclasses import asdict

    from salus.client.config import open_catalogue

    catalogue = open_catalogue(folder)
    summaries = [catalogue.summary(name) for name in catalogue.names()]
    if as_json:
        emit_json([asdict(summary) for summary in summaries])
        return
    table(
        "",
        ["name", "kind", "patients", "studies", "images", "not used"],
        [(s.name, s.kind, s.patients, s.studies, s.images, sum(s.quarantined.values())) for s in summaries],
    )


@app.command(epilog=example("salus dataset show ./site chest-xray"))
def show(
    folder: Folder, name: Name, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Show the counts of one data set, and what is public about it."""
    from salus.client.commands.declaring import show_declaration
    from salus.client.commands.summaries import show_summary
    from salus.client.config import open_catalogue

    catalogue = open_catalogue(folder)
    show_summary(catalogue.summary(name), as_json=as_json)
    known = catalogue.declarations.all()[name]
    if known is not None and not as_json:
        show_declaration(name, known, catalogue.propose(name))
    elif not as_json:
        out.print(
            f"Not declared: jobs are refused until you run: salus dataset declare {shown(folder)} {shown(name)}",
            style="yellow",
        )


@app.command(epilog=example("salus dataset check ./site chest-xray"))
def check(
    folder: Folder,
    name: Name,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    report: Annotated[Path | None, typer.Option(help="Where to write the page; default: the site's folder.")] = None,
) -> None:
    """Read every registered image again and report what is missing or needs attention; exit code 20 if one is missing."""
    from salus.client.config import open_catalogue
    from salus.client.data.catalogue import check_name
    from salus.client.data.readiness import check as checked
    from salus.client.data.readiness_page import sections_of
    from salus.common.errors import DataError
    from salus.common.pages import write_page

    catalogue = open_catalogue(folder)
    check_name(name)  # it names a page
    with err.status("Checking ...") as progress:
        found = checked(
            catalogue,
            name,
            lambda done, of: progress.update(f"Checking ... {done} of {of}") if done % 50 == 0 else None,
        )
    page = report or folder / "reports" / f"{name}.html"
    lead = "For this site only: this page shows images of its patients."
    write_page(page, f"Data set {name}", lead, sections_of(found))
    if as_json:
        emit_json(found.to_json())
    else:
        for section in sections_of(found):
            if section.rows:
                table(section.title, section.columns or ["", ""], section.rows)
        for warning in found.warnings:
            out.print(warning, style="yellow", markup=False)
        for target in found.targets.values():
            for share, key in sorted(target.worst, reverse=True):
                out.print(f"{share:.0%} outside the image: {key}", markup=False, soft_wrap=True)
        out.print(f"Page: {shown(page)}", soft_wrap=True)
    if found.unreadable:
        if not as_json:
            table("No longer readable", ["file", "reason"], found.unreadable)
        raise DataError(
            f"{len(found.unreadable)} registered samples can no longer be read.",
            remedy="Restore them, or register the data set again.",
        )


intake.register(app)
evaluating.register(app)
patients.register(app)
refused.register(app)
approving.register(app)
withdrawing.register(app)


@app.command(epilog=example("salus dataset remove ./site chest-xray"))
def remove(folder: Folder, name: Name) -> None:
    """Remove a data set from the catalogue; its files are not touched."""
    import shutil

    from salus.client.config import CACHE, open_catalogue

    open_catalogue(folder).remove(name)
    # The cache is shared by all data sets, so all of it is cleared; samples are prepared again when needed.
    shutil.rmtree(folder / CACHE, ignore_errors=True)
    out.print(f"Removed {shown(name)}.")


@app.command(epilog=example("salus dataset cache ./site --clear"))
def cache(folder: Folder, clear: Annotated[bool, typer.Option(help="Remove all prepared samples.")] = False) -> None:
    """Show the disk space that prepared samples use, and the limit; removed ones are prepared again when needed."""
    import shutil

    from salus.client.config import CACHE, SiteConfig
    from salus.client.data.cache import size_of
    from salus.common.errors import ConfigError
    from salus.common.strict import load_toml

    config = load_toml(SiteConfig, folder / "site.toml", error=ConfigError, what="site file")
    if clear:
        shutil.rmtree(folder / CACHE, ignore_errors=True)
    used = size_of(folder / CACHE) if (folder / CACHE).exists() else 0
    limit = config.performance.disk_cache_mb
    table(
        "", ["", ""], [("on disk", f"{used / 2**20:,.1f} MB"), ("limit", f"{limit:,} MB (disk_cache_mb in site.toml)")]
    )

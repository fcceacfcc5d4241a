"""`salus dataset`: register a site's data and look at what was registered."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from salus.common.console import emit_json, err, example, group, out, table

app = group("The hospital's data: register, list, look, check.")
Folder = Annotated[Path, typer.Argument(help="The site's folder.")]
Name = Annotated[str, typer.Argument(help="The name under which jobs ask for this data set.")]


@app.command(epilog=example("salus dataset add ./site chest-xray ./dicom --labels labels.csv"))
def add(
    folder: Folder,
    name: Name,
    path: Annotated[Path, typer.Argument(help="A folder of DICOM or image files, an npz, or a CSV.")],
    kind: Annotated[str, typer.Option(help="dicom, nifti, images, medmnist or table; guessed if not given.")] = "",
    labels: Annotated[str, typer.Option(help="CSV of labels, relative to the data folder.")] = "",
    label_column: Annotated[str, typer.Option(help="Its column of labels.")] = "label",
    volumes: Annotated[bool, typer.Option(help="Take each DICOM series as one 3-D image.")] = False,
    columns: Annotated[str, typer.Option(help="Columns of a table, separated by commas.")] = "",
    missing: Annotated[
        str, typer.Option(help="What stands for a missing value in a table, by commas.")
    ] = "?,NA,NaN,nan",
    positive_above: Annotated[float | None, typer.Option(help="Make a label 1 above this number, else 0.")] = None,
    masks: Annotated[str, typer.Option(help="For NIfTI: the folder of masks; the label is their volume in ml.")] = "",
) -> None:
    """Read a source, register what can be used, and count what cannot."""
    from salus.client.config import open_catalogue
    from salus.client.data.records import ImageRecord, Quarantined
    from salus.client.data.sources import guess_kind, open_source
    from salus.client.data.sources.base import SourceOptions

    options = SourceOptions(
        labels=labels,
        label_column=label_column,
        volumes=volumes,
        columns=tuple(column.strip() for column in columns.split(",") if column.strip()),
        missing=("", *(code.strip() for code in missing.split(","))),
        positive_above=positive_above,
        masks=masks,
    )
    catalogue = open_catalogue(folder)
    if not path.exists():
        from salus.common.errors import DataError

        raise DataError(f"Expected data at {path.name!r}, but there is nothing.", remedy="Check the path.")
    chosen = kind or guess_kind(path)
    with err.status("Reading ...") as progress:

        def counted() -> Iterator[ImageRecord | Quarantined]:
            for number, item in enumerate(open_source(chosen, path, options, isolated=True).scan(), start=1):
                if number % 20 == 0:
                    progress.update(f"Reading ... {number} files")
                yield item

        catalogue.add_records(name, chosen, path, options, counted())
    _show(catalogue.summary(name), as_json=False)


@app.command(epilog=example("salus dataset labels ./reports labels.csv --name Lesion --above 0.5"))
def labels(
    source: Annotated[Path, typer.Argument(help="A folder with DICOM SEG and SR objects.")],
    output: Annotated[Path, typer.Argument(help="The label file to write.")],
    name: Annotated[str, typer.Option(help="The segment's label or the measured concept.")],
    above: Annotated[float | None, typer.Option(help="Write 1 above this number and 0 otherwise.")] = None,
) -> None:
    """Make a label file by study from segmentations (volume in ml) and measurements in structured reports."""
    from salus.client.commands.labels import write_labels

    counts = write_labels(source, output, name, above)
    table("Labels", ["", ""], list(counts.items()))


@app.command("list", epilog=example("salus dataset list ./site"))
def list_(folder: Folder, as_json: Annotated[bool, typer.Option("--json", help="For a machine.")] = False) -> None:
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
        ["name", "kind", "patients", "studies", "images", "quarantined"],
        [(s.name, s.kind, s.patients, s.studies, s.images, sum(s.quarantined.values())) for s in summaries],
    )


@app.command(epilog=example("salus dataset show ./site chest-xray"))
def show(
    folder: Folder, name: Name, as_json: Annotated[bool, typer.Option("--json", help="For a machine.")] = False
) -> None:
    """Show one data set in counts."""
    from salus.client.config import open_catalogue

    _show(open_catalogue(folder).summary(name), as_json=as_json)


@app.command(epilog=example("salus dataset check ./site chest-xray"))
def check(
    folder: Folder,
    name: Name,
    as_json: Annotated[bool, typer.Option("--json", help="For a machine.")] = False,
    report: Annotated[Path | None, typer.Option(help="Where to write the page; else the site's folder.")] = None,
) -> None:
    """Read every registered image again; show what is there, what is not and what to look at; exit code 20 if one is gone."""
    from salus.client.config import open_catalogue
    from salus.client.data.readiness import check as checked
    from salus.client.data.readiness import sections_of
    from salus.common.errors import DataError
    from salus.common.pages import write_page

    catalogue = open_catalogue(folder)
    with err.status("Checking ...") as progress:
        found = checked(
            catalogue,
            name,
            lambda done, of: progress.update(f"Checking ... {done} of {of}") if done % 50 == 0 else None,
        )
    page = report or folder / "reports" / f"{name}.html"
    lead = "For this site only: it shows pictures of its patients."
    write_page(page, f"Data set {name}", lead, sections_of(found))
    if as_json:
        emit_json(found.to_json())
    else:
        for section in sections_of(found):
            if section.rows:
                table(section.title, section.columns or ["", ""], section.rows)
        for warning in found.warnings:
            out.print(warning, style="yellow", markup=False)
        for bad in catalogue.quarantined(name):
            out.print(f"not registered: {bad.key}: {bad.reason}", markup=False, soft_wrap=True)
        out.print(f"Page: {page}", soft_wrap=True)
    if found.unreadable:
        if not as_json:
            table("No longer readable", ["file", "reason"], found.unreadable)
        raise DataError(
            f"{len(found.unreadable)} registered samples cannot be read any more.",
            remedy="Restore them, or register anew.",
        )


LabelFile = Annotated[Path, typer.Option(help="CSV of labels by file, StudyInstanceUID or PatientID.")]
LabelColumn = Annotated[str, typer.Option(help="Its column of labels.")]
Volumes = Annotated[bool, typer.Option(help="Take each DICOM series as one 3-D image.")]
Masks = Annotated[
    list[str] | None, typer.Option(help="Where a device burns in text: GE:480x640:0,0,40,640; may be repeated.")
]
Listen = Annotated[str, typer.Option(help="Our title, address and port, as the PACS knows them.")]
Authority = Annotated[str, typer.Option(help="Certificate authority of the PACS, a PEM file.")]
Certificate = Annotated[str, typer.Option(help="Our certificate for classic DICOM over TLS, a PEM file.")]
Key = Annotated[str, typer.Option(help="Its key, a PEM file.")]
Trusted = Annotated[bool, typer.Option(help="The network to the PACS is secured by other means; do without TLS.")]
HERE = "SALUS@127.0.0.1:11112"


@app.command(name="import", epilog=example("salus dataset import ./site chest-xray ./export.zip --labels labels.csv"))
def import_(
    folder: Folder,
    name: Name,
    labels: LabelFile,
    source: Annotated[Path | None, typer.Argument(help="A folder of DICOM files or a zip.")] = None,
    pacs: Annotated[
        str, typer.Option(help="Instead of a folder: https://host/dicom-web, or dicom://TITLE@host:port for C-MOVE.")
    ] = "",
    query: Annotated[str, typer.Option(help="Such as ModalitiesInStudy=CT,StudyDate=20200101-20201231.")] = "",
    user: Annotated[str, typer.Option(help="For DICOMweb; the password is read from SALUS_PACS_PASSWORD.")] = "",
    listen: Listen = HERE,
    authority: Authority = "",
    certificate: Certificate = "",
    key: Key = "",
    trusted_network: Trusted = False,
    label_column: LabelColumn = "label",
    volumes: Volumes = False,
    mask: Masks = None,
) -> None:
    """De-identify DICOM from a folder, a zip or a PACS into the site's own store, and register it; goes on where it was."""
    from salus.client.commands.importing import Target, Tls, local_files, pacs_files, run_import
    from salus.common.errors import ConfigError

    if (source is None) == (not pacs):
        raise ConfigError("Expected a folder or zip, or --pacs, and not both.", remedy="Give one of them.")
    tls = Tls(authority, certificate, key, trusted_network)
    files = local_files(source) if source is not None else pacs_files(pacs, query, user, listen, tls)
    _imported(run_import(Target(folder, name, labels, label_column, volumes, tuple(mask or ())), files))


@app.command(epilog=example("salus dataset receive ./site chest-xray --labels labels.csv --sender MODALITY1"))
def receive(
    folder: Folder,
    name: Name,
    labels: LabelFile,
    sender: Annotated[str, typer.Option(help="The title of the PACS or modality that may send.")],
    idle_s: Annotated[float, typer.Option(min=1, help="End when nothing has come for so long.")] = 60.0,
    listen: Listen = HERE,
    authority: Authority = "",
    certificate: Certificate = "",
    key: Key = "",
    trusted_network: Trusted = False,
    label_column: LabelColumn = "label",
    volumes: Volumes = False,
    mask: Masks = None,
) -> None:
    """Take what a PACS or modality pushes (C-STORE), de-identify it into the site's own store, and register it."""
    from salus.client.commands.importing import Target, Tls, pushed_files, run_import

    files = pushed_files(sender, listen, idle_s, Tls(authority, certificate, key, trusted_network))
    _imported(run_import(Target(folder, name, labels, label_column, volumes, tuple(mask or ())), files))


def _imported(report: dict[str, object]) -> None:
    rows = [(key, value) for key, value in report.items() if not isinstance(value, dict)]
    rows += [
        (f"{key}: {inner}", n) for key, value in report.items() if isinstance(value, dict) for inner, n in value.items()
    ]
    table("Import", ["", ""], rows)


@app.command(epilog=example("salus dataset remove ./site chest-xray"))
def remove(folder: Folder, name: Name) -> None:
    """Forget a data set; its files stay where they are."""
    import shutil

    from salus.client.config import CACHE, open_catalogue

    open_catalogue(folder).remove(name)
    # Its tensors are among those of other data sets; all are made again.
    shutil.rmtree(folder / CACHE, ignore_errors=True)
    out.print(f"Removed {name}.")


@app.command(epilog=example("salus dataset patient ./site 0123456789abcdef0123456789abcdef"))
def patient(folder: Folder, pseudonym: Annotated[str, typer.Argument(help="As the catalogue has it.")]) -> None:
    """Tell the hospital's own identifier of an imported patient: for a finding, or for a patient who withdraws."""
    from salus.client.config import open_catalogue
    from salus.client.data.patient_map import PatientMap

    open_catalogue(folder)  # says so if this is no site's folder
    secret = (folder / "keys" / "pseudonym.key").read_bytes()
    out.print(PatientMap(folder / "keys").find(pseudonym, secret), markup=False)


@app.command(epilog=example("salus dataset cache ./site --clear"))
def cache(folder: Folder, clear: Annotated[bool, typer.Option(help="Remove all prepared samples.")] = False) -> None:
    """Show what prepared samples take on disk, and the limit; they are made again when they are needed."""
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


def _show(summary: object, *, as_json: bool) -> None:
    from dataclasses import asdict

    from salus.client.data.catalogue import DatasetSummary

    assert isinstance(summary, DatasetSummary)  # Safe because both callers pass a summary.
    if as_json:
        emit_json(asdict(summary))
        return
    rows = [
        ("kind", summary.kind),
        ("patients", summary.patients),
        ("studies", summary.studies),
        ("images", summary.images),
        ("same pixels more than once", summary.duplicates),
        *((f"label {label}", count) for label, count in summary.labels.items()),
        *((f"not used: {reason}", count) for reason, count in summary.quarantined.items()),
    ]
    table(summary.name, ["", ""], rows)

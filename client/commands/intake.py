"""`salus dataset import` and `receive`: options of both, and what they print; the work is in `importing`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from salus.common.console import example, out, shown, table
from salus.common.help import DICOM, LABELS, PACS

Folder = Annotated[Path, typer.Argument(help="The site's folder.")]
Name = Annotated[str, typer.Argument(help="The name by which jobs refer to this data set.")]
Yes = Annotated[bool, typer.Option("--yes", help="Confirm the declaration as shown, without asking.")]
LabelFile = Annotated[
    Path | None, typer.Option(help="CSV of labels by file, StudyInstanceUID or PatientID.", rich_help_panel=LABELS)
]
ZeroPad = Annotated[
    int,
    typer.Option(
        min=0,
        max=64,
        help="Give the label file's patient identifiers leading zeros up to this length.",
        rich_help_panel=LABELS,
    ),
]
Structures = Annotated[
    str,
    typer.Option(
        help="Labels of segments to keep, separated by commas; no label file is needed.", rich_help_panel=DICOM
    ),
]
LabelColumn = Annotated[str, typer.Option(help="The column of labels in that CSV.", rich_help_panel=LABELS)]
Volumes = Annotated[
    bool,
    typer.Option(
        help="Take DICOM series as 3-D images: one for each echo, time, b-value or other state of a series.",
        rich_help_panel=DICOM,
    ),
]
Channels = Annotated[
    str,
    typer.Option(
        help="What becomes channels of one 3-D image instead: echo, b-value, time, phase, kind ...",
        rich_help_panel=DICOM,
    ),
]
Frames = Annotated[
    str,
    typer.Option(
        help="Of clips: first or each takes the first or every frame as an image of its own.", rich_help_panel=DICOM
    ),
]
Suv = Annotated[
    bool,
    typer.Option(
        "--suv",
        help="Take PET in standardised uptake values by body weight; all other images are refused.",
        rich_help_panel=DICOM,
    ),
]
Include = Annotated[
    str,
    typer.Option(
        help="Objects to take although they are no usual training pictures: localizer, secondary-capture, screen-capture.",
        rich_help_panel=DICOM,
    ),
]
Masks = Annotated[
    list[str] | None,
    typer.Option(
        help="Where a device burns in text, such as GE:480x640:0,0,40,640; may be repeated.", rich_help_panel=DICOM
    ),
]
Listen = Annotated[
    str, typer.Option(help="Our AE title, address and port, as the PACS knows them.", rich_help_panel=PACS)
]
Authority = Annotated[str, typer.Option(help="Certificate authority of the PACS, a PEM file.", rich_help_panel=PACS)]
Certificate = Annotated[
    str, typer.Option(help="Our certificate for classic DICOM over TLS, a PEM file.", rich_help_panel=PACS)
]
Key = Annotated[str, typer.Option(help="Private key of our certificate, a PEM file.", rich_help_panel=PACS)]
Trusted = Annotated[
    bool,
    typer.Option(help="Connect without TLS; the network to the PACS is secured by other means.", rich_help_panel=PACS),
]
AllowMissing = Annotated[
    bool,
    typer.Option(
        "--allow-missing",
        help="Succeed although the PACS did not deliver everything that it lists.",
        rich_help_panel=PACS,
    ),
]
HERE = "SALUS@127.0.0.1:11112"


def import_(
    folder: Folder,
    name: Name,
    labels: LabelFile = None,
    source: Annotated[Path | None, typer.Argument(help="A folder of DICOM files or a zip.")] = None,
    pacs: Annotated[
        str,
        typer.Option(
            help="Instead of a folder: https://host/dicom-web, or dicom://TITLE@host:port for C-MOVE.",
            rich_help_panel=PACS,
        ),
    ] = "",
    query: Annotated[
        str,
        typer.Option(
            help="Query, such as StudyDate=20200101-20201231; several are separated by commas.", rich_help_panel=PACS
        ),
    ] = "",
    user: Annotated[
        str, typer.Option(help="DICOMweb user; the password is read from SALUS_PACS_PASSWORD.", rich_help_panel=PACS)
    ] = "",
    listen: Listen = HERE,
    authority: Authority = "",
    certificate: Certificate = "",
    key: Key = "",
    trusted_network: Trusted = False,
    label_column: LabelColumn = "label",
    volumes: Volumes = False,
    channels: Channels = "",
    include: Include = "",
    frames: Frames = "",
    suv: Suv = False,
    zero_pad_ids: ZeroPad = 0,
    structures: Structures = "",
    mask: Masks = None,
    allow_missing: AllowMissing = False,
    yes: Yes = False,
) -> None:
    """De-identify DICOM from a folder, a zip or a PACS into the site's own store, and register it; run it again to resume."""
    from salus.client.commands.declaring import words
    from salus.client.commands.importing import Target, Tls, local_files, pacs_files, run_import
    from salus.common.errors import ConfigError

    if (source is None) == (not pacs):
        raise ConfigError("Expected either a folder or zip, or --pacs.", remedy="Give one of them.")
    tls = Tls(authority, certificate, key, trusted_network)
    files = local_files(source) if source is not None else pacs_files(pacs, query, user, listen, tls)
    target = Target(
        folder, name, labels, label_column=label_column, volumes=volumes, masks=tuple(mask or ()), declare=False,
        structures=words(structures), channels=channels, include=words(include), frames=frames, zero_pad_ids=zero_pad_ids,
        suv=suv,
    )  # fmt: skip
    _imported(run_import(target, files), folder, name, yes, allow_missing)


def receive(
    folder: Folder,
    name: Name,
    labels: LabelFile = None,
    *,
    sender: Annotated[str, typer.Option(help="AE title of the PACS or modality that may send.", rich_help_panel=PACS)],
    idle_s: Annotated[
        float, typer.Option(min=1, help="Stop when nothing has arrived for this many seconds.", rich_help_panel=PACS)
    ] = 60.0,
    listen: Listen = HERE,
    authority: Authority = "",
    certificate: Certificate = "",
    key: Key = "",
    trusted_network: Trusted = False,
    label_column: LabelColumn = "label",
    volumes: Volumes = False,
    channels: Channels = "",
    include: Include = "",
    frames: Frames = "",
    suv: Suv = False,
    zero_pad_ids: ZeroPad = 0,
    structures: Structures = "",
    mask: Masks = None,
    yes: Yes = False,
) -> None:
    """Receive what a PACS or modality pushes (C-STORE), de-identify it into the site's own store, and register it."""
    from salus.client.commands.declaring import words
    from salus.client.commands.importing import Target, Tls, pushed_files, run_import

    files = pushed_files(sender, listen, idle_s, Tls(authority, certificate, key, trusted_network))
    target = Target(
        folder, name, labels, label_column=label_column, volumes=volumes, masks=tuple(mask or ()), declare=False,
        structures=words(structures), channels=channels, include=words(include), frames=frames, zero_pad_ids=zero_pad_ids,
        suv=suv,
    )  # fmt: skip
    _imported(run_import(target, files), folder, name, yes)


def _imported(report: dict[str, object], folder: Path, name: str, yes: bool, allow_missing: bool = True) -> None:
    from salus.client.commands.declaring import declare as declared
    from salus.client.commands.importing import complete_or_raise
    from salus.client.config import open_catalogue

    pages = report["approval_pages"]
    assert isinstance(pages, list)  # Safe because `run_import` made it.
    table("Import", ["", ""], _rows({key: value for key, value in report.items() if key != "approval_pages"}))
    declared(folder, open_catalogue(folder), name, yes=yes)
    if pages:
        out.print(
            f"Text was searched for and blanked in images of {name}. Every job on it is refused until you have looked at the "
            f"pages and run: salus dataset approve {folder} {name}",
            style="yellow",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        for page in pages:
            out.print(f"Page: {shown(page)}", soft_wrap=True)
    if not allow_missing:
        complete_or_raise(report)


ROWS = {
    "found": "files found",
    "images": "new images",
    "segmentations": "new segmentations",
    "duplicates": "stored before, or found twice",
    "label_rows_without_image": "rows of the label file without an image",
    "stored": "images in the data set now",
    "left_out": "not looked at",
    "pacs": "PACS",
}


def _rows(report: Mapping[str, object]) -> list[tuple[str, object]]:
    """Return an import's counts as rows of a table for people."""
    rows = [(ROWS.get(key, key), value) for key, value in report.items() if not isinstance(value, dict)]
    return rows + [
        (f"{ROWS.get(key, key)}: {inner.replace('_', ' ')}", count)
        for key, value in report.items()
        if isinstance(value, dict)
        for inner, count in value.items()
    ]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        name="import", epilog=example("salus dataset import ./site chest-xray ./export.zip --labels labels.csv")
    )(import_)
    app.command(epilog=example("salus dataset receive ./site chest-xray --labels labels.csv --sender MODALITY1"))(
        receive
    )

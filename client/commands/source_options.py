"""Options of `salus dataset add` and `salus simulate` that say how a folder or table is read."""

from typing import Annotated

import typer

from salus.common.help import LABELS, MASKS, TABLES

LabelFile = Annotated[str, typer.Option(help="CSV of labels, relative to the data folder.", rich_help_panel=LABELS)]
LabelColumn = Annotated[
    str, typer.Option(help="The column of labels in that CSV; default: label.", rich_help_panel=LABELS)
]
PositiveAbove = Annotated[
    float | None, typer.Option(help="Turn numeric labels into 1 above this number, else 0.", rich_help_panel=LABELS)
]
Numbers = Annotated[
    str, typer.Option(help="Columns of the label file with numbers to predict.", rich_help_panel=LABELS)
]
Row = Annotated[
    str, typer.Option(help="Columns of the label file that a model gets beside the image.", rich_help_panel=LABELS)
]
Text = Annotated[str, typer.Option(help="A column of the label file with a text.", rich_help_panel=LABELS)]
Series = Annotated[
    str, typer.Option(help="A column of the label file that names a CSV of a time series.", rich_help_panel=LABELS)
]
PatientColumn = Annotated[
    str, typer.Option(help="The column that identifies patients, if not PatientID.", rich_help_panel=LABELS)
]
SexColumn = Annotated[
    str, typer.Option(help="Column of the label file or table with the patient's sex.", rich_help_panel=LABELS)
]
AgeColumn = Annotated[
    str, typer.Option(help="Column of the label file or table with the age in years.", rich_help_panel=LABELS)
]
EventColumn = Annotated[
    str,
    typer.Option(
        help="For survival, with times as labels: column of 1 (event) or 0 (censored).", rich_help_panel=LABELS
    ),
]
Masks = Annotated[
    str, typer.Option(help="Folder of masks; found by itself for the usual conventions.", rich_help_panel=MASKS)
]
Images = Annotated[
    str, typer.Option(help="For NIfTI: pattern of image file names, such as '*_T1w.nii.gz'.", rich_help_panel=MASKS)
]
Structures = Annotated[
    str,
    typer.Option(
        help="Names of a mask's numbers 1, 2 ..., or which of its named structures to use.", rich_help_panel=MASKS
    ),
]
Columns = Annotated[
    str,
    typer.Option(help="Column names of a table without a header, separated by commas.", rich_help_panel=TABLES),
]
Missing = Annotated[
    str,
    typer.Option(
        help="Texts that mean a missing value, separated by commas; default: ?,NA,NaN,nan.", rich_help_panel=TABLES
    ),
]

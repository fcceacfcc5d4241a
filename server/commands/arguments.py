"""Arguments that several commands of the coordinator share."""

from pathlib import Path
from typing import Annotated

import typer

StartOption = Annotated[
    Path | None, typer.Option(help="The package with whose weights the job starts, if it has a section start.")
]
OutlineOption = Annotated[
    Path | None, typer.Option(help="What `salus job outline` wrote, for a coordinator without torch.")
]
JobFile = Annotated[Path, typer.Argument(help="A job file.")]
Folder = Annotated[Path, typer.Argument(help="The coordinator's folder.")]
JobId = Annotated[str, typer.Argument(help="The job's id, as printed by `salus job submit`.")]

"""Arguments that several commands of the coordinator share."""

from pathlib import Path
from typing import Annotated

import typer

JobFile = Annotated[Path, typer.Argument(help="A job file.")]
Folder = Annotated[Path, typer.Argument(help="The coordinator's folder.")]
JobId = Annotated[str, typer.Argument(help="The job's id, as printed by `salus job submit`.")]

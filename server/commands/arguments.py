"""Arguments that several commands of the coordinator share."""

from pathlib import Path
from typing import Annotated

import typer

JobFile = Annotated[Path, typer.Argument(help="A job file.")]
Folder = Annotated[Path, typer.Argument(help="The coordinator's folder.")]
JobId = Annotated[str, typer.Argument(help="The id that `salus job submit` printed.")]

"""`salus job preview`: pictures of what a job's transforms do to some images."""

from pathlib import Path
from typing import Annotated

import typer

from salus.common.console import err, example, out
from salus.common.errors import ConfigError, DataError


def preview(
    job: Annotated[Path, typer.Argument(help="A job file.")],
    data: Annotated[Path, typer.Argument(help="An npz file, or a folder with DICOM, NIfTI or image files.")],
    output: Annotated[Path, typer.Option(help="The page that is written.")] = Path("preview.html"),
    images: Annotated[int, typer.Option(min=1, max=100, help="Number of images, spread over the data.")] = 4,
    copies: Annotated[int, typer.Option(min=0, max=20, help="Augmented copies of each image.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random transforms.")] = 0,
    labels: Annotated[str, typer.Option(help="CSV file with labels, relative to the data folder.")] = "",
    volumes: Annotated[bool, typer.Option(help="Read each DICOM series as one 3-D image.")] = False,
    masks: Annotated[str, typer.Option(help="Folder of masks; found by itself for the usual conventions.")] = "",
    structures: Annotated[
        str, typer.Option(help="Names of a mask's numbers 1, 2 ..., or which of its named structures to use.")
    ] = "",
) -> None:
    """Show what a job's transforms do: some images before and after each step, and augmented copies, as one page.

    The page holds images. It is readable by its owner only, and stays with the data.
    """
    from salus.client.data.sources.settings import SourceOptions
    from salus.client.previewing import chosen, write_preview
    from salus.common.job import load_job
    from salus.common.tasks import make_task
    from salus.common.transforms.checks import check_chain

    loaded = load_job(job)
    if loaded.statistics is not None:
        raise ConfigError("A statistics job has no transforms.", remedy="Give a training job.")
    if not data.exists():
        raise ConfigError(f"Expected data at {data.name!r}, but the path does not exist.", remedy="Check the path.")
    task = make_task(loaded.task)
    check_chain(task)
    names = tuple(name for name in (part.strip() for part in structures.split(",")) if name)
    options = SourceOptions.asked(labels=labels, volumes=volumes, masks=masks, structures=names)
    with err.status("Reading images ..."):
        examples = chosen(data, options, task, images)
        if not examples:
            raise DataError("No image fits the job.", remedy="Check the path, and the job's shape and channels.")
        drawn = task.settings.classes if "mask" in task.spec else ()
        write_preview(
            output, f"Transforms of {loaded.job.name}", task.chain, examples, copies=copies, seed=seed, names=drawn
        )
    out.print(f"Page: {output.name}", markup=False)


def register(group: typer.Typer) -> None:
    """Add the command to the group `salus job`."""
    words = "salus job preview simulations/jobs/phantom-lesion.toml phantoms/npz/phantoms.npz"
    group.command(epilog=example(words))(preview)

"""`salus job new`, `schema` and `outline`: help for whoever writes a job file."""

from pathlib import Path
from typing import Annotated

import typer

from salus.common.console import emit_json, example, out, shown
from salus.common.errors import JobError
from salus.server.commands.arguments import JobFile, StartOption


def register(app: typer.Typer) -> None:
    """Add the commands to `salus job`."""
    app.command(epilog=example("salus job new --task classification --output job.toml"))(new)
    app.command(epilog=example("salus job schema"))(schema)
    app.command(epilog=example("salus job outline simulations/jobs/pneumonia.toml --output pneumonia.outline"))(outline)


def new(
    task: Annotated[str, typer.Option(help="Kind of task to train, such as classification.")] = "",
    statistics: Annotated[str, typer.Option(help="Kind of statistics to measure, instead of --task.")] = "",
    model: Annotated[str, typer.Option(help="Model to train; the first that fits the task if omitted.")] = "",
    optimizer: Annotated[str, typer.Option(help="Optimizer of the sites.")] = "",
    strategy: Annotated[str, typer.Option(help="Strategy of the coordinator.")] = "",
    protection: Annotated[str, typer.Option(help="Protection of the updates.")] = "",
    noise: Annotated[str, typer.Option(help="Where noise is added: local, distributed or none.")] = "",
    output: Annotated[Path | None, typer.Option(help="File to write; printed if omitted.")] = None,
) -> None:
    """Write a commented job file with every key that counts, its default and the reason for it."""
    from salus.server.job_template import new_job

    if bool(task) == bool(statistics):
        raise JobError(
            "Expected either --task or --statistics.", remedy="Name one kind, such as --task classification."
        )
    choices = {
        "task": {"model": model},
        "training": {"optimizer": optimizer},
        "aggregation": {"strategy": strategy, "protection": protection},
        "privacy": {"noise": noise},
    }
    stated = {name: {key: value for key, value in keys.items() if value} for name, keys in choices.items()}
    text = new_job(task, statistics, {name: keys for name, keys in stated.items() if keys})
    if output is None:
        out.print(text, markup=False, highlight=False, soft_wrap=True, end="")
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise JobError(
            f"The file {output.name!r} exists and is not overwritten.", remedy="Choose another name."
        ) from None
    out.print(
        f'Wrote {shown(output)}. Fill in the lines marked "change this", then: salus job validate {shown(output)}'
    )


def schema() -> None:
    """Print the JSON Schema of job files, for editors; it covers every plug-in that is installed."""
    from salus.common.job_schema import job_schema

    emit_json(job_schema())


def outline(
    path: JobFile,
    output: Annotated[Path, typer.Option(help="File to write.")],
    start: StartOption = None,
) -> None:
    """Check a job's network and write its names, shapes and first numbers, for a coordinator that has no torch."""
    from salus.common.files import write_whole
    from salus.common.package.starting import start_from
    from salus.common.strict import read_text
    from salus.server.checks import check_network
    from salus.server.outline import outline_of
    from salus.server.submission import job_in

    job = job_in(read_text(path, error=JobError, what="job file"))
    if job.statistics is not None:
        raise JobError("A job with statistics has no network.", remedy="Submit it without an outline.")
    check_network(job)
    found = outline_of(job, start_from(job, start))
    write_whole(output, found.encode(job))
    out.print(
        f"Wrote {shown(output)}, {found.layout.size:,} trained parameters. Submit the same job file with it: "
        f"salus job submit FOLDER {shown(path)} --outline {shown(output)}",
        soft_wrap=True,
    )

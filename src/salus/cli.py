"""The command line: one program for site operators, coordinators and researchers."""

from typing import Annotated

import typer

from salus import __version__
from salus.client.commands import (
    client,
    dataset,
    endorsing,
    explain,
    generate,
    ledger,
    predict,
    process,
    serve,
    stopping,
    withdrawing,
)
from salus.common import signals
from salus.common.console import out, run
from salus.common.doctor import command as doctor
from salus.common.process import protect_memory
from salus.server.commands import consortium, job, model, release, server, statistics, verify
from salus.simulations import audit_command, preview
from salus.simulations import commands as simulations

app = typer.Typer(
    help="Salus: hospitals train one model together, and their data never leave the hospitals.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
simulations.register(app)
statistics.register(app)
predict.register(app)
explain.register(app)
audit_command.register(app)
process.register(app)
generate.register(app)
verify.register(app)
doctor.register(app, {"site.toml": "salus.client.doctor", "server.toml": "salus.server.doctor"})
release.register(app)
preview.register(job.app)
endorsing.register(client.app)
stopping.register(client.app)
withdrawing.register_site(client.app)
app.add_typer(job.app, name="job")
app.add_typer(model.app, name="model")
app.add_typer(server.app, name="server")
app.add_typer(client.app, name="client")
app.add_typer(dataset.app, name="dataset")
app.add_typer(serve.app, name="serve")
app.add_typer(ledger.app, name="ledger")
app.add_typer(consortium.app, name="consortium")


def _version(wanted: bool) -> None:
    if wanted:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


def main() -> None:
    """Run the command line; it writes no core file, and no other process may read its memory."""
    protect_memory()
    signals.leave_at_once()  # before and after `run`, which handles signals itself
    run(app)


if __name__ == "__main__":
    main()

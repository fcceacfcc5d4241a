"""The coordinator's rounds as a Flower `ServerApp`; the daemon, the simulation and Flower's own engines call this one object."""

from collections.abc import Callable, Mapping

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from salus.common.progress import Seen, nobody
from salus.server.federation import Federation, GridFederation, introduce

Directory = Callable[[], Mapping[int, int]]


def make_server_app(
    work: Callable[[Federation], None],
    directory: Directory | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Callable[[], Mapping[int, Seen]] = nobody,
) -> ServerApp:
    """Return the app.

    Args:
        work: what to run on the federation, usually `JobRun.run`.
        directory: returns the node of each site; without it, every node is asked once for its site id.
        progress: returns what each site said last about its work.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        if directory is not None:
            work(GridFederation(grid, directory, cancelled, progress=progress))
        else:
            nodes = introduce(grid)
            work(GridFederation(grid, lambda: nodes, cancelled))

    return app

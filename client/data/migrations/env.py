"""What alembic runs: the pending versions, over the connection that `migrate` has opened."""

from alembic import context


def run() -> None:
    """Run the pending versions; `migrate` commits."""
    context.configure(connection=context.config.attributes["connection"], transactional_ddl=False)
    context.run_migrations()


run()

"""Entry point: handles Ctrl-C and SIGTERM before anything large is imported."""

from salus.common import signals


def main() -> None:
    """Run the command line."""
    signals.leave_at_once()
    from salus.cli import main as run

    run()


if __name__ == "__main__":
    main()

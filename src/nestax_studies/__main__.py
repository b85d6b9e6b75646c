"""The command `nestax`, also `python -m nestax_studies`."""

import sys

from . import interrupts


def main() -> None:
    """Runs the command line, or says what it needs."""
    try:
        _run()
    except SystemExit as error:
        interrupts.leave(error.code)
    except KeyboardInterrupt:  # before the command, or once more while it ended
        print("nestax: interrupted", file=sys.stderr)
        interrupts.leave(interrupts.INTERRUPTED)
    interrupts.leave(0)


def _run() -> None:
    try:
        from .cli import main as run
    except ModuleNotFoundError as error:
        sys.exit(
            f"nestax: the command line needs the package {error.name}; "
            'install it with: pip install "nestax[studies]"'
        )
    interrupts.install()
    run()


if __name__ == "__main__":
    main()

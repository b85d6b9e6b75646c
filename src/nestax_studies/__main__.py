"""The command `nestax`, also `python -m nestax_studies`."""

import sys

from . import interrupts


def main() -> None:
    """Runs the command line."""
    try:
        _run()
    except SystemExit as error:
        interrupts.leave(error.code)
    except KeyboardInterrupt:  # before the command, or once more while it ended
        print("nestax: interrupted", file=sys.stderr)
        interrupts.leave(interrupts.INTERRUPTED)
    interrupts.leave(0)


def _run() -> None:
    from .cli import main as run

    interrupts.install()
    run()


if __name__ == "__main__":
    main()

"""The command `nestax`, also `python -m nestax_studies`."""

import os
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
    except BrokenPipeError:  # nobody reads on, as in `nestax compare ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        interrupts.leave(1)
    interrupts.leave(0)


def _run() -> None:
    from .cli import main as run

    interrupts.install()
    run()


if __name__ == "__main__":
    main()

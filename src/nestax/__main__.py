"""The command `nestax`, also `python -m nestax`."""

import os
import sys
import threading


def main() -> None:
    """Runs the command line, or says what it needs."""
    try:
        _run()
    except SystemExit as error:
        _leave(error.code)
    except KeyboardInterrupt:  # before the command, or once more while it ended
        print("nestax: interrupted", file=sys.stderr)
        _leave(130)
    _leave(0)


def _run() -> None:
    try:
        from .cli import main as run
    except ModuleNotFoundError as error:
        sys.exit(
            f"nestax: the command line needs the package {error.name}; "
            'install it with: pip install "nestax[experiments]"'
        )
    run()


def _leave(code: object) -> None:
    """Ends the process.

    Python ends a thread that still compiles by unwinding it, which C++ answers with an abort
    (SIGABRT). Nothing that such a thread does is needed any more, so the process ends at once.
    """
    others = [thread for thread in threading.enumerate() if thread.daemon]
    if others and (code is None or isinstance(code, int)):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    sys.exit(code)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()

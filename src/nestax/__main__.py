"""The command `nestax`, also `python -m nestax`."""

import sys


def main() -> None:
    """Runs the command line, or says what it needs."""
    try:
        from .cli import main as run
    except ModuleNotFoundError as error:
        sys.exit(
            f"nestax: the command line needs the package {error.name}; "
            'install it with: pip install "nestax[experiments]"'
        )
    run()


if __name__ == "__main__":
    main()

"""The numbers of a run, handed to a logger beside the run's folder."""

import contextlib
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import numpy as np

from nestax.runs import RunError, RunFolder, to_writer

_PACKAGES = {
    "tensorboard": ("torch.utils.tensorboard", "tensorboardX", "tensorboard.summary"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
}


def check(kind: str) -> Any:
    """The module that logs.

    Args:
        kind: tensorboard, wandb or trackio.

    Raises:
        RunError: its package is not installed.
    """
    for name in _PACKAGES[kind]:
        with contextlib.suppress(ImportError):
            return import_module(name)
    raise RunError(
        f"--log {kind} needs the package {kind}; install it with: pip install {kind}"
        + (" (tensorboardX and torch have such a writer too)" if kind == "tensorboard" else "")
    )


@contextlib.contextmanager
def opened(kind: str, folder: RunFolder) -> Iterator["Log"]:
    """A logger for one run, closed in the end.

    Raises:
        RunError: its package is not installed.
    """
    module = check(kind)
    if kind == "tensorboard":
        make = getattr(module, "SummaryWriter", None) or module.Writer
        writer, close = make(str(folder.path / "tensorboard")), "close"
    else:
        more = {"dir": str(folder.path)} if kind == "wandb" else {}
        writer = module.init(
            project="nestax",
            name=f"{folder.experiment} {folder.path.name}",
            config={"study": folder.experiment, **folder.settings},
            **more,
        )
        close = "finish"
    try:
        yield Log(writer)
    finally:
        getattr(writer, close)()


class Log:
    """A logger as stages use it.

    Attributes:
        writer: with `add_scalar`, as TensorBoard's writers have it, or with `log`.
    """

    def __init__(self, writer: Any):
        self.writer = writer

    def of(self, stage: str) -> Any:
        """What `Nest.run(..., watch=...)` is given beside a `Watch`: hands on a stage's numbers,
        under the stage's name."""
        return to_writer(_Stage(self.writer, stage))

    def record(self, stage: str, number: int, record: Mapping[str, Any]) -> None:
        """Hands on what a finished stage has measured: its numbers, and medians of those that it
        has one of for each seed.

        Args:
            stage: its name.
            number: of the stage, from 0.
            record: what it left.
        """
        told = _Stage(self.writer, stage)
        flat = dict(_numbers(record))
        for name, value in flat.items():
            if told.scalars:
                told.add_scalar(name, value, number)
        if flat and not told.scalars:
            told.log(flat, step=number)


class _Stage:
    """A writer for one stage, whose steps begin at 0 as those of every other."""

    def __init__(self, writer: Any, stage: str):
        self.scalars = callable(getattr(writer, "add_scalar", None))
        self._writer, self._stage = writer, stage.replace(" ", "/")
        if hasattr(writer, "define_metric"):
            writer.define_metric(f"{self._stage}/*", step_metric=f"{self._stage}/step")
        if self.scalars:
            self.add_scalar = self._add_scalar

    def _add_scalar(self, name: str, number: float, step: int) -> None:
        self._writer.add_scalar(f"{self._stage}/{name}", number, step)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        # Such loggers want steps that never fall, so it is one of the numbers.
        told = {f"{self._stage}/{name}": number for name, number in numbers.items()}
        self._writer.log({**told, f"{self._stage}/step": step})


def _numbers(record: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(record, Mapping):
        for key, value in record.items():
            yield from _numbers(value, f"{name}/{key}" if name else str(key))
    elif isinstance(record, (int, float)):
        yield name, float(record)
    elif isinstance(record, (list, tuple)) and record and all(map(_is_value, record)):
        yield name, float(np.median([np.nan if v is None else v for v in record]))


def _is_value(thing: Any) -> bool:
    return thing is None or isinstance(thing, (int, float))

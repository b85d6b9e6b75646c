"""The numbers of a run, handed to a logger beside the run's folder."""

import contextlib
from collections.abc import Iterator, Mapping
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np

from nestax.runs import RunError, RunFolder, to_writer

_PACKAGES = {
    "tensorboard": ("torch.utils.tensorboard", "tensorboardX", "tensorboard.summary"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
}
_MAKERS = {"SummaryWriter", "Writer", "init"}  # which a folder of that name, imported, lacks
_VALUES = {int, float, bool, type(None)}


def check(kind: str) -> Any:
    """The module that logs to tensorboard, wandb or trackio.

    Raises:
        RunError: its package is not installed.
    """
    for name in _PACKAGES[kind]:
        with contextlib.suppress(ImportError):
            if _MAKERS & set(dir(module := import_module(name))):
                return module
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
        name = f"{folder.experiment} {folder.path.name}"
        config = {"study": folder.experiment, **folder.settings}
        writer, close = module.init(project="nestax", name=name, config=config, **more), "finish"
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
        return to_writer(_of_stage(self.writer, stage))

    def record(self, stage: str, number: int, record: Mapping[str, Any]) -> None:
        """Hands on what a finished stage has measured: its numbers, and medians of those that it
        has one of for each seed.

        Args:
            stage: its name.
            number: of the stage, from 0.
            record: what it left.
        """
        numbers = dict(_numbers(record))
        if numbers:
            _of_stage(self.writer, stage).log(numbers, number)


def _of_stage(writer: Any, stage: str) -> Any:
    """A logger for one stage, whose steps begin at 0 as those of every other."""
    stage = stage.replace(" ", "/")
    if hasattr(writer, "define_metric"):
        writer.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def log(numbers: Mapping[str, float], step: int) -> None:
        told = {f"{stage}/{name}": number for name, number in numbers.items()}
        if hasattr(writer, "add_scalar"):
            for name, number in told.items():
                writer.add_scalar(name, number, step)
        else:  # such loggers want steps that never fall, so it is one of the numbers
            writer.log({**told, f"{stage}/step": step})

    return SimpleNamespace(log=log)


def _numbers(record: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(record, Mapping):
        for key, value in record.items():
            yield from _numbers(value, f"{name}/{key}" if name else str(key))
    elif isinstance(record, (int, float)):
        yield name, float(record)
    elif isinstance(record, (list, tuple)) and record and set(map(type, record)) <= _VALUES:
        yield name, float(np.median(np.asarray(record, float)))

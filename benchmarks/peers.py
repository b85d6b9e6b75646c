"""The peers of the benchmarks, each in a virtual environment of its own.

    python benchmarks/peers.py [--peers .peers] [--checkout NAME=PATH ...] [NAME ...]

Builds what is named (default: all), pinned, and says of each whether it can be used; one that
cannot be installed is reported with the reason, here and by every benchmark that would use it.
nestax, plain JAX and the references run in the interpreter that runs the benchmark; the JAX peers
get the same version of JAX. `hypertorch`, `learn2learn` and `learned_optimization_head` need a
checkout of their repository: the first was never released (and its import name on the package index
is another project's), the release of the second does not build on Python 3.11, that of the third is
four years older than its repository (and is raced as `learned_optimization`). For learn2learn the
unpacked source archive of its release will do.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

WORKERS = Path(__file__).parent / "workers"
TORCH = ("torch==2.13.0", "numpy==2.4.6")


def _jax(*also: str) -> tuple[str, ...]:
    same = (f"{name}=={importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "numpy"))
    return (*also, *same)


@dataclasses.dataclass(frozen=True)
class Peer:
    """What to install, and how to know that it works.

    Attributes:
        requires: requirements, as pip takes them.
        imports: a statement that must run afterwards.
        options: for pip, where a package's own metadata forbids what works.
        checkout: name of a folder of sources inside the checkout, for what has no release.
        alone: what to install without its requirements, which can no longer be met together.
    """

    requires: tuple[str, ...]
    imports: str
    options: tuple[str, ...] = ()
    checkout: str = ""
    alone: tuple[str, ...] = ()


LEARNED = _jax(
    "flax==0.12.8",
    "optax==0.2.8",
    "dm-haiku==0.0.17",
    "chex==0.1.92",
    "gin-config==0.5.0",
    "absl-py==2.5.1",
    "tqdm==4.70.1",
    "tensorboard==2.21.0",
    "tensorflow==2.21.0",
    "tensorflow-datasets==4.9.10",
)

PEERS = {
    "jaxopt": Peer(_jax("jaxopt==0.8.5"), "import jaxopt"),
    "optimistix": Peer(
        _jax("optimistix==0.1.0", "lineax==0.1.1", "equinox==0.13.8"), "import optimistix, lineax"
    ),
    "torch": Peer(TORCH, "import torch"),
    "torchopt": Peer(("torchopt==0.7.3", *TORCH), "import torchopt"),
    "higher": Peer(("higher==0.2.1", *TORCH), "import higher"),
    # Its metadata asks for Python < 3.11, and pip would silently take an older release.
    "betty": Peer(
        ("betty-ml==0.2.1", *TORCH), "import betty.engine", ("--ignore-requires-python",)
    ),
    "hypertorch": Peer(TORCH, "import hypergrad", checkout="hypergrad"),
    "learn2learn": Peer(TORCH, "import torch", checkout="learn2learn"),
    # Imported under names that its worker puts back; alone, only the package can be found.
    "learned_optimization": Peer(
        LEARNED, "import learned_optimization", alone=("learned_optimization==0.0.1",)
    ),
    "learned_optimization_head": Peer(
        LEARNED,
        "from learned_optimization.outer_trainers import truncated_pes",
        checkout="learned_optimization",
    ),
}


class Environments:
    """The folder of the peers' environments."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder).resolve()

    def build(self, name: str, checkout: str | None = None) -> str:
        """Installs a peer unless it is there; returns why it cannot be used, or nothing."""
        peer, home = PEERS[name], self.folder / name
        record = {
            "requires": (*peer.requires, *peer.alone),
            "checkout": checkout and str(Path(checkout).resolve()),
        }
        if self._record(name) == json.loads(json.dumps(record)):
            return ""
        if peer.checkout and not checkout:
            return f"needs a checkout of its repository: --checkout {name}=PATH"
        if checkout and not (Path(checkout) / peer.checkout / "__init__.py").is_file():
            return f"no package {peer.checkout} in the checkout given"
        shutil.rmtree(home, ignore_errors=True)
        python, extra = home / "bin/python", checkout and str(Path(checkout).resolve())
        pip = [python, "-m", "pip", "install", "--quiet"]
        for command in (
            [sys.executable, "-m", "venv", home],
            [*pip, *peer.options, *peer.requires],
            *([[*pip, "--no-deps", *peer.alone]] if peer.alone else []),
            [python, "-c", peer.imports],
        ):
            environment = {**os.environ, **({"PYTHONPATH": extra} if extra else {})}
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                return self._fail(name, done.stderr or done.stdout)
        (home / "ready.json").write_text(json.dumps(record))
        return ""

    def _fail(self, name: str, text: str) -> str:
        lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
        errors = [line for line in lines if "rror" in line.split(" ")[0]]
        reason = (errors or lines)[-1][:300]
        (self.folder / name / "reason.txt").write_text(reason)
        return reason

    def _record(self, name: str) -> dict | None:
        stamp = self.folder / name / "ready.json"
        return json.loads(stamp.read_text()) if stamp.is_file() else None

    def missing(self, name: str) -> str:
        """Why the peer cannot be used, or nothing."""
        reason = self.folder / name / "reason.txt"
        if self._record(name) is not None:
            return ""
        if reason.is_file():
            return reason.read_text()
        return f"not installed; python benchmarks/peers.py {name}"

    def command(self, name: str, script: str) -> tuple[list[str], dict[str, str]]:
        """The command line that runs a worker in a peer's environment ("" is our own)."""
        environment = dict(os.environ)
        if not name:
            return [sys.executable, str(WORKERS / script)], environment
        environment.pop("PYTHONPATH", None)
        checkout = (self._record(name) or {}).get("checkout")
        if checkout:
            environment["PYTHONPATH"] = checkout
        return [str(self.folder / name / "bin/python"), str(WORKERS / script)], environment


def option(parser: argparse.ArgumentParser) -> None:
    default = Path(__file__).parent.parent / ".peers"
    parser.add_argument("--peers", default=default, help="folder of the peers' environments")


def main() -> None:
    parser = argparse.ArgumentParser(description="build the environments of the peers")
    option(parser)
    parser.add_argument("--checkout", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PEERS))
    options = parser.parse_args()
    checkouts = dict(given.split("=", 1) for given in options.checkout if "=" in given)
    for name in (*options.names, *checkouts):
        if name not in PEERS:
            raise SystemExit(f"no peer is named {name!r}; known: {', '.join(PEERS)}")
    environments = Environments(options.peers)
    for name in options.names or PEERS:
        reason = environments.build(name, checkouts.get(name))
        print(f"{name:12} {'cannot be used: ' + reason if reason else 'ready'}", flush=True)


if __name__ == "__main__":
    main()

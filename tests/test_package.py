"""What importing nestax costs and brings."""

import subprocess
import sys
from pathlib import Path

import nestax as nx

PROGRAM = """
import sys, time
import jax
began = time.process_time()
import nestax
took = time.process_time() - began
heavy = {"PIL", "equinox", "matplotlib", "orbax", "pooch", "rich", "scipy", "sklearn", "tqdm"}
heavy |= {"tyro"}
print(took, sorted(heavy & set(sys.modules) - before))
"""


def test_import_is_quick_and_brings_no_plotting_progress_or_cli_package():
    program = PROGRAM.replace("began =", "before = set(sys.modules)\nbegan =", 1)
    took, loaded = [], ""
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        seconds, loaded = done.stdout.split(" ", 1)
        took.append(float(seconds))
    assert loaded.strip() == "[]"
    assert min(took) < 1.0  # seconds of the processor: other processes may share it


def test_type_information_is_shipped():
    assert (Path(nx.__file__).parent / "py.typed").is_file()


def test_every_public_name_is_documented():
    rooms = ("flows", "information", "levels", "memory", "optim", "plots", "runs")
    for package in (nx, *(getattr(nx, room) for room in rooms)):
        for name, value in vars(package).items():
            if not name.startswith("_") and getattr(value, "__module__", "").startswith("nestax"):
                assert value.__doc__, f"{package.__name__}.{name}"

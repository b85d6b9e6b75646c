"""Strict by default: two devices, rank promotion and warnings are errors, types are checked."""

import functools
import gc
import os
import zlib
from importlib.metadata import version

import pytest

# Compilation is most of the suite's time. XLA compiles a program's functions in as many modules as
# it is told, 32 if nothing is said; for programs as small as ours, one takes less time.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_cpu_parallel_codegen_split_count=1"
)
if version("jaxlib") < "0.11":
    # A third of the time is spent in these emitters. Later versions do not know the flag, and end
    # the process over it.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

import jax

gc.set_threshold(200_000, 20, 100)  # tracing makes many objects, and little garbage in cycles

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)  # programs are many, and run once


def share_lowering_contexts():
    """JAX lowers each program in an MLIR context of its own, and to make one takes longer than to
    lower a small program: four of its fourteen milliseconds. One is kept for each module of tests.
    This reaches into JAX; where there is no such function, tests are slower and no different."""
    from jax._src.interpreters import mlir

    if not hasattr(mlir, "make_ir_context"):
        return lambda: None
    make = mlir.make_ir_context
    kept = functools.cache(make)
    # What is lowered while something else is would land in the other's module.
    mlir.make_ir_context = lambda: make() if mlir.ir.Context.current else kept()
    return kept.cache_clear


forget_contexts = share_lowering_contexts()


def pytest_addoption(parser):
    parser.addoption("--share", type=int, default=1, help="only one test in so many")
    parser.addoption("--turn", default="", help="which ones: any text, such as a commit")


def pytest_collection_modifyitems(config, items):
    """With `--share N` about one test in N, others at another turn: what is run again where little
    can be different takes a part of the time, and after many turns nothing was left out."""
    share, turn = config.getoption("share"), config.getoption("turn")
    if share < 1:
        raise pytest.UsageError(f"--share: one test in at least one, got {share}")
    mine, others = [], []
    for item in items:
        number = zlib.crc32(f"{turn} {item.nodeid}".encode())
        (others if number % share else mine).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = mine


@pytest.fixture
def x64():
    """Everything in the test is computed in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Each compiled program takes several of the 65,530 memory mappings that Linux gives a process;
    a worker that keeps those of all tests crashes."""
    yield
    jax.clear_caches()
    forget_contexts()


@pytest.fixture
def optimized():
    """Programs are compiled as users have them: where speed is what is tested."""
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", True)

"""Ctrl-C on the command line: exit code 130 and one line, whatever the process is doing."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nestax_studies import interrupts

posix = pytest.mark.skipif(os.name != "posix", reason="signals and pipes")
ENDED = (130, "", "nestax: interrupted\n")
PROGRAM = """
import gc, hashlib, os, signal, sys, threading, time, types
from nestax_studies import __main__, interrupts, registry

def collecting():
    def _xla_gc_callback(*args):  # Python drops what it raises
        if not sent:
            sent.append(0)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
    sent = []
    gc.callbacks.append(_xla_gc_callback)
    gc.collect()
    exec("time.sleep(60)")  # Python takes what passes through here for unhandled

def deaf():
    interrupts.says("interrupted, go on with: nestax resume runs/mine")
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    interrupts.PATIENCE = 0.3
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # as the compiler: no Python runs meanwhile

def importing():  # a study, when the command is running already
    with open(sys.argv[2] + "/slow.py", "w") as file:
        file.write("import os, signal, time\\ntry:\\n    os.kill(os.getpid(), signal.SIGINT)\\n"
                   "    time.sleep(60)\\nexcept BaseException:\\n    pass\\n")
    registry.__package__ = "lazily"
    package = types.ModuleType("lazily")
    package.__path__ = [sys.argv[2]]
    sys.modules["lazily"] = package
    try:
        time.sleep(0)
        registry.imported("slow")
    except BaseException:
        pass
    print("went on")

def imported():
    with interrupts.at_once():
        pass
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    except KeyboardInterrupt:
        print("raised")
        raise

def print_much():
    for _ in range(100000): print("a line")

sys.modules["nestax_studies.cli"] = types.SimpleNamespace(main=locals()[sys.argv[1]])
__main__.main()
"""


@pytest.fixture(autouse=True)
def interruptible():
    """Who runs tests in the background has told them, and what they begin, to ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def begun(*words, **more):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *words], text=True, **pipes, **more)


@posix
def test_ctrl_c_is_neither_lost_nor_waits_for_what_does_not_listen(tmp_path):
    """While a study is imported it ends the process; afterwards it raises again."""
    cases = {
        "collecting": ENDED,
        "deaf": (130, "", "nestax: interrupted, go on with: nestax resume runs/mine\n"),
        "importing": ENDED,
        "imported": (130, "raised\n", "nestax: interrupted\n"),
    }
    processes = [begun("-c", PROGRAM, case, str(tmp_path)) for case in cases]
    for process, wanted in zip(processes, cases.values(), strict=True):
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out, err) == wanted


@posix
def test_ctrl_c_while_packages_are_imported(tmp_path):
    """Those may drop an exception; a library has no signals of its own."""
    (tmp_path / "jax.py").write_text(
        "import os, signal, time\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
        "except BaseException as error:\n"
        "    print(repr(error), flush=True)\n"
        "    os._exit(7)\n"
    )
    paths = [str(tmp_path), str(Path(interrupts.__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    for words, wanted in (
        (["-m", "nestax_studies", "doctor"], ENDED),
        (["-m", "nestax_studies", "run", "recall", "--seeds", "3"], ENDED),
        (["-c", "import nestax"], (7, "KeyboardInterrupt()\n", "")),
    ):
        with begun(*words, env=environment) as process:
            out, err = process.communicate(timeout=120)
        assert (process.returncode, out, err) == wanted


@posix
def test_a_reader_that_stops_reading_is_no_error():
    with begun("-c", PROGRAM, "print_much") as process:
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (1, "")


def test_a_thread_that_still_compiles_does_not_outlive_the_command(monkeypatch):
    """It would be unwound, which aborts the process."""
    ended, done = [], threading.Event()
    monkeypatch.setattr(interrupts, "_end", ended.append)
    thread = threading.Thread(target=done.wait, daemon=True)
    thread.start()
    with pytest.raises(SystemExit):
        interrupts.leave(1)
    done.set()
    thread.join()
    assert ended == [1]

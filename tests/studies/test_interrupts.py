"""Ctrl-C on the command line: exit code 130 and one line, whatever the process is doing."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nestax_studies import interrupts

PROGRAM = """
import gc, hashlib, os, signal, sys, threading, time, types
from nestax_studies import __main__, interrupts

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

sys.modules["nestax_studies.cli"] = types.SimpleNamespace(main=locals()[sys.argv[1]])
__main__.main()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_is_neither_lost_nor_waits_for_what_does_not_listen():
    lines = {
        "collecting": "nestax: interrupted\n",
        "deaf": "nestax: interrupted, go on with: nestax resume runs/mine\n",
    }
    begun = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, what], stderr=subprocess.PIPE, text=True)
        for what in lines
    ]
    for process, line in zip(begun, lines.values(), strict=True):
        _, said = process.communicate(timeout=120)
        assert (process.returncode, said) == (130, line)


@pytest.mark.skipif(os.name != "posix", reason="signals")
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
    ended = (130, "", "nestax: interrupted\n")
    for words, wanted in (
        (["-m", "nestax_studies", "doctor"], ended),
        (["-m", "nestax_studies", "run", "recall", "--seeds", "3"], ended),
        (["-c", "import nestax"], (7, "KeyboardInterrupt()\n", "")),
    ):
        command = [sys.executable, *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == wanted


LAZY = """
import os, signal, sys, time, types
from nestax_studies import __main__, interrupts, registry

def begin():
    # As of a study that is imported when the command is running already.
    with open(sys.argv[1] + "/slow.py", "w") as file:
        file.write("import os, signal, time\\ntry:\\n    os.kill(os.getpid(), signal.SIGINT)\\n"
                   "    time.sleep(60)\\nexcept BaseException:\\n    pass\\n")
    registry.__package__ = "lazily"
    package = types.ModuleType("lazily")
    package.__path__ = [sys.argv[1]]
    sys.modules["lazily"] = package
    try:
        time.sleep(0)
        registry.imported("slow")
    except BaseException:
        pass
    print("went on")

def after():
    with interrupts.at_once():
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)

sys.modules["nestax_studies.cli"] = types.SimpleNamespace(main=locals()[sys.argv[2]])
__main__.main()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("what", ["begin", "after"])
def test_ctrl_c_while_a_study_is_imported(tmp_path, what):
    """It ends the process, whatever the import would make of it; afterwards it raises again."""
    command = [sys.executable, "-c", LAZY, str(tmp_path), what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "nestax: interrupted\n")


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_a_reader_that_stops_reading_is_no_error():
    program = (
        "import sys, types\n"
        "from nestax_studies import __main__\n"
        "def print_much():\n"
        "    for _ in range(100000): print('a line')\n"
        "sys.modules['nestax_studies.cli'] = types.SimpleNamespace(main=print_much)\n"
        "__main__.main()\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (1, b"")


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

"""Ctrl-C on the command line: never lost, and never waiting long."""

import _thread
import contextlib
import os
import select
import signal
import sys
import threading
import types
from collections.abc import Iterator

INTERRUPTED = 130  # the exit code
PATIENCE = 15.0  # seconds in which a run may keep what it has, before the process is ended
_DEAF = {"_xla_gc_callback", "__del__"}  # functions whose exceptions Python drops
_said = ["interrupted"]


def install() -> None:
    """Handles Ctrl-C from now on; to be called by the main thread of a process of its own.

    As Python does, it raises `KeyboardInterrupt`; but later, where Python would drop that, as in
    what JAX does at garbage collections. While the compiler or a compiled program runs, no Python
    does: if `PATIENCE` seconds later the process is still there, or Ctrl-C comes once more, it is
    ended. A run's folder is safe at every moment.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as for what a shell runs behind
        return
    if os.name == "posix":
        signal.signal(signal.SIGALRM, _raise)
        told, tell = os.pipe()
        os.set_blocking(tell, False)
        signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(told,), daemon=True, name=_watch.__name__).start()
    signal.signal(signal.SIGINT, _raise)


def _is_command() -> bool:
    """Whether this process is `nestax` or `python -m nestax_studies`; programs that import the
    library have signals of their own."""
    words = sys.orig_argv
    module = words[words.index("-m") + 1 :][:1] if "-m" in words else []
    return (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        and (
            os.path.basename("".join(sys.argv[:1])) in ("nestax", "nestax.exe")
            or (sys.argv[:1] == ["-m"] and module == ["nestax_studies"])
        )
    )


def _end_at_once(number: int, frame: types.FrameType | None) -> None:
    os.write(2, f"nestax: {_said[0]}\n".encode())
    os._exit(INTERRUPTED)


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """While something is imported, Ctrl-C ends the process: packages may drop an exception. Only
    where `install` has set how Ctrl-C is handled; other programs keep their own way."""
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is _raise
    )
    if ours:
        signal.signal(signal.SIGINT, _end_at_once)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, _raise)


def says(text: str) -> None:
    """What is said if the process must be ended."""
    _said[0] = text


def leave(code: object) -> None:
    """Ends the process: at once if it was interrupted, or if a thread still compiles.

    Such a thread would be unwound, which C++ answers with an abort (SIGABRT). And an interrupt that
    passed through an `exec` of a text, as in making a dataclass, Python remembers as one that
    nobody handled: it would end the process by a signal, whatever the code.
    """
    ours = (threading.main_thread().name, _watch.__name__)
    others = [thread for thread in threading.enumerate() if thread.name not in ours]
    busy = code == INTERRUPTED or any(thread.daemon for thread in others)
    if busy and (code is None or isinstance(code, int)):
        _end(code or 0)
    sys.exit(code)  # type: ignore[arg-type]


def _raise(number: int, frame: types.FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_name in _DEAF:
            if os.name == "posix":
                signal.setitimer(signal.ITIMER_REAL, 0.05)
            else:
                threading.Timer(0.05, _thread.interrupt_main).start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _watch(told: int) -> None:
    while os.read(told, 1) != bytes([signal.SIGINT]):
        pass
    while select.select([told], [], [], PATIENCE)[0]:
        if os.read(told, 1) == bytes([signal.SIGINT]):
            break
    if sys.stdout.isatty():
        os.write(1, b"\x1b[?25h\n")  # the cursor, which a live bar hides
    os.write(2, f"nestax: {_said[0]}\n".encode())
    os._exit(INTERRUPTED)


def _end(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if _is_command():  # nothing has begun; an exception may be dropped by what is imported
    signal.signal(signal.SIGINT, _end_at_once)

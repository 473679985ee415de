"""Repeated signals that stop a program: the exit code is that of the first signal."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
    import atexit, os, signal, sys, time
    from lrclr import _signals

    first, second, late = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "late"
    _signals._REPEATED = 600.0
    # Run after the callback of the block.
    atexit.register(lambda: os.kill(os.getpid(), second))
    try:
        with _signals.stop_signals_raise(), _signals.stop_signals_raise():
            os.kill(os.getpid(), first)
            time.sleep(60)
    except KeyboardInterrupt:
        code = 130
    except SystemExit as error:
        code = error.code
    os.kill(os.getpid(), second)
    if late:
        _signals._REPEATED = 0.0
        os.kill(os.getpid(), second)
    # A new block raises at once.
    try:
        with _signals.stop_signals_raise():
            os.kill(os.getpid(), first)
            time.sleep(60)
    except BaseException:
        os.kill(os.getpid(), second)
        sys.exit(code)
"""
INT, TERM = signal.SIGINT, signal.SIGTERM


@pytest.mark.parametrize(
    ("first", "second", "when", "code"),
    [
        (INT, INT, "at once", 130),
        (TERM, TERM, "at once", 143),
        (INT, TERM, "at once", 130),
        (TERM, INT, "at once", 143),
        (INT, TERM, "late", -TERM),
    ],
)
def test_a_repeated_signal_does_not_change_the_exit_code(first: int, second: int, when: str, code: int) -> None:
    """Later, the signal is handled independently, by its default."""
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(int(first)), str(int(second)), when]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (code, "")

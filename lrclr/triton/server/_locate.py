"""Finds the Triton server."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from lrclr.errors import ServerError

LOCAL = Path(".triton")
_LOCAL_SERVER = Path("pytriton/tritonserver/bin/tritonserver")


@dataclass(frozen=True)
class Installation:
    """A Triton server.

    Attributes:
        program: the executable file tritonserver.
        backends: the folder of its backends, if it needs that option.
        environment: environment variables.
    """

    program: Path
    backends: Path | None
    environment: dict[str, str]


def find_server(program: Path | None = None) -> Installation:
    """The given program, else the one on the PATH, as in the vendor's container, else that of `make triton`.

    Raises:
        ServerError: no server was found.
    """
    if program is not None:
        if not (program.is_file() and os.access(program, os.X_OK)):
            raise ServerError(f"{program} is not an executable file", fix="Give the path of tritonserver.")
        return _installation(program.absolute())
    on_path = shutil.which("tritonserver")
    if on_path:
        return _installation(Path(on_path))
    for root in dict.fromkeys((Path.cwd(), Path(__file__).parents[3])):
        if (root / LOCAL / _LOCAL_SERVER).is_file():
            return _installation(root / LOCAL / _LOCAL_SERVER)
    raise ServerError(
        "no Triton server was found",
        why=f"tritonserver is neither on the PATH nor in {LOCAL}",
        fix="Run `make triton`, or give its path with --server.",
    )


def _installation(program: Path) -> Installation:
    environment = dict(os.environ)
    backends = program.parent.parent / "backends"
    python = program.parents[len(_LOCAL_SERVER.parts) - 1] / "python" if len(program.parents) >= 4 else Path()
    if not (python / "bin" / "python").exists():
        return Installation(program, None, environment)
    # This installation finds its libraries and its Python by itself. These variables would change that.
    for name in ("LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME"):
        environment.pop(name, None)
    environment["PATH"] = f"{python / 'bin'}{os.pathsep}{environment.get('PATH', '')}"
    return Installation(program, backends, environment)

"""What the command lines of the benchmarks share."""

from __future__ import annotations

import sys
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec

from lrclr.errors import LrclrError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["reports_errors"]

Arguments = ParamSpec("Arguments")


def reports_errors(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """Print an `LrclrError` of a command as one line, and return its exit code."""

    @wraps(main)
    def run(*arguments: Arguments.args, **named: Arguments.kwargs) -> int:
        try:
            return main(*arguments, **named)
        except LrclrError as error:
            sys.stderr.write(f"error: {error}\n")
            return error.exit_code

    return run

"""`lrclr bench compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lrclr.cli._console import note, out, print_json, print_utf8
from lrclr.cli._extras import require
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from lrclr.bench import ResultComparison


def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="A result: bench.json, or the folder with it.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="The result to compare with A.")],
    threshold: Annotated[str, typer.Option("--threshold", help="How much worse a figure may become.")] = "5%",
    allow_other_machine: Annotated[
        bool, typer.Option("--allow-other-machine", help="Compare results of two machines.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare two results of one machine: how many times as fast is B?

    Exit code 3: a figure of B is worse by more than the threshold and its interval does not include 1, or answers
    of B are wrong. Exit code 2: the results cannot be compared.
    """
    if markdown and as_json:
        raise UsageError("--markdown and --json cannot be used together")
    require("bench")
    from lrclr.bench import compare_results, load_result

    limit = _percentage(threshold)
    found = compare_results(
        load_result(before), load_result(after), threshold=limit, allow_other_machine=allow_other_machine
    )
    if as_json:
        print_json(found.to_dict(), indent=1)
    elif markdown:
        from lrclr.bench._reports import comparison_markdown

        print_utf8(comparison_markdown(found))
    else:
        from lrclr.cli._bench_tables import comparison_table

        out().print(found.summary)
        out().print(comparison_table(found))
    _notes(found)
    found.raise_refused()


def _percentage(text: str) -> float:
    try:
        return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise UsageError(f"--threshold {text[:40]!r} is not a percentage", fix="Give one such as 5%.") from None


def _notes(found: ResultComparison) -> None:
    for line in found.differences:
        note(f"differs: {line}")
    for line in found.unmatched:
        note(f"only in one result: {line}")
    speed = found.machine_speed
    if speed is not None and abs(speed - 1) > found.threshold:
        note(f"the machine multiplies matrices {speed:.2f} times as fast as for A: measure again while it is not busy")
    unjudged = sum(change.verdict == "not judged" for change in found.changes)
    if unjudged:
        note(f"{unjudged} figures were not judged: they have too few rounds for an interval")

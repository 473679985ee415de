"""`lrclr bench compare`."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import TYPE_CHECKING, Annotated

import typer

from lrclr.cli._console import note, out, print_json, print_utf8
from lrclr.cli._extras import require_bench
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from lrclr.bench import ResultComparison


def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="A result: bench.json, or the folder it is in.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="The result that is held against it.")],
    threshold: Annotated[str, typer.Option("--threshold", help="How much worse a figure may become.")] = "5%",
    allow_other_machine: Annotated[
        bool, typer.Option("--allow-other-machine", help="Compare what two machines did.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare two results of one machine, for CI.

    Exit code 3: a figure became worse by more than the threshold and its interval does not hold 1, or the answers of B
    are wrong. Exit code 2: they cannot be compared.
    """
    if markdown and as_json:
        raise UsageError("--markdown and --json exclude each other")
    require_bench()
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

        out().print(comparison_table(found))
    _notes(found)
    found.raise_refused()


def _percentage(text: str) -> float:
    try:
        return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise UsageError(f"--threshold cannot be {text[:40]!r}", fix="Give a percentage, such as 5%.") from None


def _notes(found: ResultComparison) -> None:
    for line in found.differences:
        note(f"differs: {line}")
    for line in found.unmatched:
        note(f"only in one of them: {line}")
    speed = found.machine_speed
    if speed is not None and abs(speed - 1) > found.threshold:
        note(
            f"the machine itself multiplies matrices at {speed:.2f} times the rate that it had:"
            " measure again when it is calm"
        )
    unjudged = sum(change.verdict == "not judged" for change in found.changes)
    if unjudged:
        note(f"{unjudged} figures have too few rounds for an interval and were not judged")

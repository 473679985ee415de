"""`lrclr drift`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lrclr.cli._console import RESEARCH_ONLY, new_table, note, out, print_json
from lrclr.cli._extras import require

if TYPE_CHECKING:
    from lrclr.drift import DriftReport


def drift(  # noqa: PLR0913, PLR0917 - one parameter an option
    reference: Annotated[Path, typer.Argument(help="Scores of reference images: a folder of lrclr score, or a file.")],
    current: Annotated[Path, typer.Argument(help="Scores of current images.")],
    level: Annotated[
        float, typer.Option("--level", help="Probability of a false alarm, over all tests together.")
    ] = 0.01,
    limit: Annotated[
        float,
        typer.Option("--limit", help="Largest accepted Kolmogorov-Smirnov distance between a finding's probabilities."),
    ] = 0.1,
    rate_limit: Annotated[
        float,
        typer.Option("--rate-limit", help="Largest accepted difference between the shares of images with a warning."),
    ] = 0.05,
    embedding_limit: Annotated[
        float,
        typer.Option(
            "--embedding-limit", help="Largest accepted share of the variance of embeddings that the two sets explain."
        ),
    ] = 0.01,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the report as an HTML page.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compare the scores, warnings and embeddings of current images with those of reference images.

    Exit code 3: there is drift, which is a difference that is significant and beyond its limit.
    """
    require("drift")
    from lrclr._files import check_not_input, write_whole
    from lrclr.drift import DriftOptions, compare, read_collection
    from lrclr.drift import html as page

    if html is not None:
        check_not_input(html, [file for path in (reference, current) for file in (path, *path.glob("*"))])
    options = DriftOptions(level, limit, rate_limit, embedding_limit)
    report = compare(read_collection(reference), read_collection(current), options)
    if html is not None:
        write_whole(html, page(report).encode())
    if as_json:
        print_json(report.to_dict(), indent=1)
    else:
        _print(report)
    for text in report.notes:
        note(text)
    if report.embeddings is None:
        note("the scores have no embeddings: lrclr score --embeddings writes them")
    if html is not None:
        note(f"the page is {html}")
    note(RESEARCH_ONLY)
    report.raise_drifted()


def _print(report: DriftReport) -> None:
    from lrclr.reports import fixed, p_value, spanned

    out().print(f"{report.reference} reference images, {report.current} current images")
    numbers = ("before", "now", "now higher, or difference", "distance", "PSI", "adjusted p", "drift")
    table = new_table(None, ("finding or warning",), numbers)
    for each in report.findings:
        medians = (f"{each.reference[2]:.3f}", f"{each.current[2]:.3f}")
        sizes = (f"{each.distance:.3f}", f"{each.stability:.3f}", p_value(each.adjusted))
        table.add_row(each.name, *medians, spanned(each.higher, fixed), *sizes, "yes" if each.drifted else "")
    for rate in report.rates:
        difference = f"{rate.difference.value:+.3f} ({rate.difference.low:+.3f} to {rate.difference.high:+.3f})"
        shares = (f"{rate.reference:.1%}", f"{rate.current:.1%}")
        table.add_row(rate.name, *shares, difference, "", "", p_value(rate.adjusted), "yes" if rate.drifted else "")
    if report.embeddings is not None:
        explained, p = f"{report.embeddings.explained:.1%} of variance", p_value(report.embeddings.adjusted)
        distance = spanned(report.embeddings.distance, fixed)
        table.add_row("embeddings", "", "", explained, distance, "", p, "yes" if report.embeddings.drifted else "")
    out().print(table)

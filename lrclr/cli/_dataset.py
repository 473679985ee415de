"""`lrclr dataset`."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from lrclr.cli._console import console_progress, note, out
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from lrclr.datasets._imported import Imported
    from lrclr.datasets._reports import Section

_FORMATS: Final = ("mimic-cxr", "chexpert", "openi", "chexlocalize")
_SECTIONS: Final[tuple[Section, ...]] = ("impression", "findings", "both")
_SHOWN: Final = 5
# Options of each format; others are an error.
_OPTIONS: Final = {
    "mimic-cxr": {"images", "labels", "splits", "metadata", "section"},
    "chexpert": {"images"},
    "openi": {"images", "metadata", "section"},
    "chexlocalize": {"images", "masks"},
}


def dataset(  # noqa: PLR0913, PLR0917 - one parameter an option
    kind: Annotated[str, typer.Argument(metavar="FORMAT", help="mimic-cxr, chexpert, openi or chexlocalize.")],
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE", help="Folder, tables or archive of the public dataset.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The dataset: .csv or .jsonl.")],
    images: Annotated[Path | None, typer.Option("--images", help="Folder of the images, if not the source.")] = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="mimic-cxr: table of labels.")] = None,
    splits: Annotated[Path | None, typer.Option("--splits", help="mimic-cxr: table of splits.")] = None,
    metadata: Annotated[Path | None, typer.Option("--metadata", help="mimic-cxr, openi: table of views.")] = None,
    section: Annotated[
        str | None, typer.Option("--section", help="Part of the report: impression (the default), findings or both.")
    ] = None,
    masks: Annotated[Path | None, typer.Option("--masks", help="chexlocalize: folder to write masks to.")] = None,
    all_views: Annotated[bool, typer.Option("--all-views", help="Include lateral images.")] = False,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave out and count bad rows instead of stopping.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing dataset or masks.")] = False,
) -> None:
    """Convert your copy of a public dataset: images, reports, labels, splits and masks.

    If a row cannot be used or its image is missing, nothing is written and the exit code is 1. For chexlocalize, masks
    are written too: a PNG for each finding, in pixels of the image, above 0 for the finding; column mask:FINDING.
    """
    if kind not in _FORMATS:
        raise UsageError(f"unknown format {kind!r}", fix=f"Choose one of {', '.join(_FORMATS)}.")
    chosen: Section = next((name for name in _SECTIONS if name == (section or "impression")), "impression")
    if section is not None and section not in _SECTIONS:
        raise UsageError(f"unknown section {section!r}", fix=f"Choose one of {', '.join(_SECTIONS)}.")
    given = {"images": images, "labels": labels, "splits": splits, "metadata": metadata, "masks": masks}
    given |= {"section": Path(section)} if section else {}
    for name in sorted(name for name, value in given.items() if value is not None and name not in _OPTIONS[kind]):
        raise UsageError(f"--{name} is not an option of {kind}")
    from lrclr._files import check_not_input
    from lrclr.datasets import write_dataset
    from lrclr.datasets._chexpert import TABLES
    from lrclr.datasets._dataset import SKIP, check_format, raise_bad_rows

    check_format(output)
    if output.exists() and not overwrite:
        raise UsageError(f"{output} already exists", fix="Choose another name, or add --overwrite.")
    given_tables = [*sources, *(file for file in (labels, splits, metadata) if file is not None)]
    check_not_input(output, [file for path in given_tables for file in (path, *(path / name for name in TABLES))])
    with console_progress() as progress, ExitStack() as until_written:
        progress.task(f"read {', '.join(str(source) for source in sources)}")
        if kind == "mimic-cxr":
            from lrclr.datasets._mimic import import_mimic_cxr

            imported = import_mimic_cxr(
                _only(kind, sources), images=images, splits=splits, labels=labels, metadata=metadata,
                section=chosen, all_views=all_views,
            )  # fmt: skip
        elif kind == "chexpert":
            from lrclr.datasets._chexpert import import_chexpert

            imported = import_chexpert(sources, images=images, all_views=all_views)
        elif kind == "openi":
            from lrclr.datasets._openi import import_openi

            imported = import_openi(
                _only(kind, sources), _needed(images, kind, "images"),
                metadata=metadata, section=chosen, all_views=all_views,
            )  # fmt: skip
        else:
            from lrclr.datasets._chexlocalize import import_chexlocalize

            folder = _needed(masks, kind, "masks")
            if folder.resolve() in output.resolve().parents:
                raise UsageError(f"{output} is inside the folder of the masks", fix="Choose a place outside of it.")
            imported = until_written.enter_context(
                import_chexlocalize(
                    sources, _needed(images, kind, "images"), folder,
                    all_views=all_views, overwrite=overwrite, skip_bad_rows=skip_bad_rows,
                )
            )  # fmt: skip
        if not skip_bad_rows:
            raise_bad_rows(
                ", ".join(str(source) for source in sources), imported.problems, len(imported.rows), fix=SKIP
            )
        if not imported.rows:
            raise UsageError(
                f"nothing in {', '.join(str(source) for source in sources)} can be used",
                why=imported.problems[0].text if imported.problems else "it has no images of these views",
            )
        progress.task(f"write {output}")
        write_dataset(imported.rows, imported.findings, output, overwrite=overwrite)
    _print(output, imported)


@wraps(dataset)
def manifest(*arguments: Any, **options: Any) -> None:
    """The former name of `dataset`."""
    note("`lrclr manifest` is now called `lrclr dataset`")
    dataset(*arguments, **options)


def _only(kind: str, sources: list[Path]) -> Path:
    if len(sources) != 1:
        raise UsageError(f"{kind} takes one source, not {len(sources)}")
    return sources[0]


def _needed(value: Path | None, kind: str, option: str) -> Path:
    if value is None:
        raise UsageError(f"{kind} needs --{option}")
    return value


def _print(output: Path, imported: Imported) -> None:
    splits = Counter(row.split or "no split" for row in imported.rows)
    parts = ", ".join(f"{name} {count}" for name, count in sorted(splits.items()))
    out().print(f"{output}: {len(imported.rows)} images ({parts}), {len(imported.findings)} findings")
    for text in imported.notes:
        note(text)
    if imported.problems:
        note(f"left out: {len(imported.problems)}")
        for problem in imported.problems[:_SHOWN]:
            note(f"  line {problem.line}: {problem.text}")

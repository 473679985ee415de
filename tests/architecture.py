"""The import graph of the packages, read from the source files. ``python -m tests.architecture`` writes its table."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "architecture.md"
BEGIN: Final = "<!-- imports: python -m tests.architecture -->\n"
END: Final = "<!-- end of imports -->"
# Modules that any other may import.
HELPERS: Final = (
    "lrclr.errors",
    "lrclr._version",
    "lrclr._addresses",
    "lrclr._signals",
    "lrclr._files",
    "lrclr._kernels",
    "lrclr._processors",
    "lrclr._prefetch",
    "lrclr._markdown",
    "lrclr._records",
    "lrclr._toml",
    "lrclr._zip",
    "lrclr.budget",
    "lrclr.file_names",
    "lrclr.samples",
)
# A package or module imports only from those before it.
LAYERS: Final = (
    *HELPERS,
    "lrclr.contract",
    "lrclr.model",
    "lrclr.text",
    "lrclr.input_checks",
    "lrclr.images",
    "lrclr.preprocessing",
    "lrclr.hub",
    "lrclr.card",
    "lrclr.checkpoints",
    "lrclr.bundle",
    "lrclr.engines",
    "lrclr.inference",
    "lrclr.dicom_results",
    "lrclr.verification",
    "lrclr.triton",
    "lrclr.auto",
    "lrclr.datasets",
    "lrclr.reports",
    "lrclr.archive",
    "lrclr.embedding",
    "lrclr.pacs",
    "lrclr.web",
    "lrclr.evaluation",
    "lrclr.drift",
    "lrclr.training",
    "lrclr.deploy",
    "lrclr_export.product_types",
    "lrclr_export.profiles",
    "lrclr_export.progress",
    "lrclr_export.quantize",
    "lrclr_export.onnx",
    "lrclr_export.plans",
    "lrclr_export.repository",
    "lrclr_export",
    "lrclr.bench",
    "lrclr.tune",
    "lrclr.cli",
    "lrclr.__main__",
    "lrclr",
)
Graph = dict[str, set[str]]


def module_files(folders: Sequence[Path] = (ROOT / "lrclr", ROOT / "export" / "lrclr_export")) -> dict[str, Path]:
    """Every module of some packages, by its dotted name."""
    files = {}
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder.parent).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return files


@cache
def imported_names(file: Path) -> frozenset[str]:
    """All names that a file imports, also in functions and under ``TYPE_CHECKING``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)


def module_graph(files: Mapping[str, Path]) -> Graph:
    """The modules among `files` that each module imports."""

    def known(name: str) -> str | None:
        return name if name in files else known(name.rpartition(".")[0]) if name else None

    found = {module: {known(name) for name in imported_names(file)} for module, file in files.items()}
    return {module: {name for name in names if name is not None} - {module} for module, names in found.items()}


def package_of(module: str) -> str:
    """The package below the root that a module is in; the module itself if it is in none."""
    return ".".join(module.split(".")[:2])


def package_graph(modules: Graph) -> Graph:
    """The packages that each package imports."""
    packages: defaultdict[str, set[str]] = defaultdict(set)
    for module, imported in modules.items():
        package = package_of(module)
        packages[package] |= {package_of(name) for name in imported} - {package}
    return dict(packages)


def table(packages: Graph) -> str:
    """The graph as a table in Markdown, without the imports of `HELPERS`."""
    rows = ["| package or module | imports |", "|---|---|"]
    for package in LAYERS[len(HELPERS) :]:
        imported = sorted(packages[package] - {*HELPERS}, key=LAYERS.index)
        rows.append(f"| `{package}` | {', '.join(name.removeprefix('lrclr.') for name in imported) or '–'} |")
    return "\n".join(rows) + "\n"


def with_table(page: str, content: str) -> str:
    """A page with `content` between the two marks that enclose its import table."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{content}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(), table(package_graph(module_graph(module_files())))))

"""Code blocks in the documentation, and the marks that say why a block is not run."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr.triton.server import TritonServer

ROOT: Final = Path(__file__).parents[2]
# Languages of blocks that users run, and of blocks that only show something.
RUN: Final = ("console", "python", "bash")
SHOWN: Final = ("text", "toml", "csv", "json", "yaml", "sql", "ini", "lua", "xml", "mermaid", "diff", "c", "dockerfile")
_BLOCK: Final = re.compile(
    r"(?:^ *<!-- not run: (?P<why>[^\n]+) -->\n)?"
    r"^(?P<indent> *)```(?P<language>[\w+-]*)(?P<options>[^\n]*)\n(?P<code>.*?)^ *```\n?",
    re.MULTILINE | re.DOTALL,
)
_TITLE: Final = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: path of its page, relative to the repository.
        line: line at which it begins.
        language: language of the code.
        code: the code without the indentation of the block.
        not_run: the reason why no test runs it. None for a block that is run.
        title: name of the file that it shows, or None.
    """

    page: str
    line: int
    language: str
    code: str
    not_run: str | None
    title: str | None

    @property
    def commands(self) -> list[str]:
        """The command lines of a console block: those after a prompt, joined with their continuation lines."""
        joined = self.code.replace("\\\n", " ")
        return [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]


def pages() -> list[str]:
    """Every page whose examples are run, relative to the repository."""
    found = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md")]
    return [path.relative_to(ROOT).as_posix() for path in (*found, *sorted((ROOT / "docs").rglob("*.md")))]


def blocks(page: str) -> Iterator[Block]:
    """The code blocks of a page, in order."""
    text = (ROOT / page).read_text()
    for found in _BLOCK.finditer(text):
        code = re.sub(rf"^{found['indent']}", "", found["code"], flags=re.MULTILINE)
        title = _TITLE.search(found["options"])
        line = text.count("\n", 0, found.start("indent")) + 1
        yield Block(page, line, found["language"], code, found["why"], title[1] if title else None)


def words(command: str) -> list[str]:
    """The words of a command, without redirections."""
    found = shlex.split(command, comments=True)
    return found[: found.index(">")] if ">" in found else found


def with_ports_of(code: str, server: TritonServer | None) -> str:
    """The code with the ports of this server instead of the default ports; unchanged if there is no server."""
    if server is None:
        return code
    assert server.http is not None
    for port, address in (("8001", server.grpc), ("8000", server.http)):
        code = code.replace(f"localhost:{port}", address).replace(f"127.0.0.1:{port}", address)
    return code

"""Find turns of phrase that the project does not use: ``python -m tools.prose [PATH…]``.

The reader is an engineer who reads English as a second language. `PHRASES` lists what such a reader stumbles over and
what to write instead.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ROOT: Final = Path(__file__).parents[1]
SUFFIXES: Final = frozenset(
    {".cff", ".css", ".cu", ".h", ".html", ".j2", ".md", ".pbtxt", ".py", ".toml", ".txt", ".yaml", ".yml", ""}
)
# Between two words of a phrase: white space, or the end of a line and the beginning of the next comment.
_GAP: Final = r"\s+(?:(?:#|//|\*)\s*)?"
PHRASES: Final = {
    r"(?<!there\s)(?:is|are|was|were) no(?! longer| more)": "is not, does not have, there is not, without",
    r"(?:knows?|sees?|tells?) no": "does not know, does not see, does not say",
    r"nobody|no one": "name who or what; or use the passive",
    r"whoever": "a caller that, a program that, users who",
    r"(?:speaks?|spoke|spoken) for": "supports",
    r"(?:is|are|was|were) told": "receives, is called with, prints",
    r"(?:can|cannot|could not|may|to) be had": "is available, cannot be installed, cannot be connected to",
    r"(?:of|not) ours": "name the owner: lrclr's, this process's",
    r"has no use for": "does not use",
    r"without a word": "without a message",
}
# The list above and the tests of this check hold the phrases themselves.
_OWN: Final = ("tools/prose.py", "tests/docs/test_prose.py")


class Found(NamedTuple):
    """A phrase in a file."""

    path: Path
    line: int
    phrase: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.phrase!r}; write instead: {self.instead}"


_PATTERNS: Final = {
    re.compile(rf"\b(?:{phrase.replace(' ', _GAP)})\b", re.IGNORECASE): instead for phrase, instead in PHRASES.items()
}


def phrases(text: str) -> Iterator[tuple[int, str, str]]:
    """Every phrase in a text: its line, the phrase, and what to write instead."""
    for pattern, instead in _PATTERNS.items():
        for found in pattern.finditer(text):
            yield text.count("\n", 0, found.start()) + 1, " ".join(found[0].split()), instead


def search(paths: Iterable[Path]) -> Iterator[Found]:
    """The phrases in files, which are named relative to the repository."""
    for path in paths:
        for line, phrase, instead in phrases((ROOT / path).read_text(errors="replace")):
            yield Found(path, line, phrase, instead)


def text_files(*below: str) -> list[Path]:
    """The files with prose that git tracks, or would, below these paths; relative to the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *below]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    found = sorted({Path(name) for name in listed if name not in _OWN})
    return [path for path in found if path.suffix in SUFFIXES and (ROOT / path).is_file()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check all files, or those below the paths that are named; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", help="check these only")
    options = parser.parse_args(arguments)
    problems = list(search(text_files(*options.paths)))
    for each in problems:
        print(each)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

"""After a full disk or a killed process, existing files are complete and the next run finishes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import bundles
from tests.faults.cases import CASES, Case, case_named
from tests.faults.inject import KILLED

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
EVERYWHERE = (pytest.mark.slow, pytest.mark.timeout(3600))


class Injector:
    """Runs commands, each in its case's folder, while a disk fails. See `tests.faults.inject`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, folder: Path, how: str, where: object, case: Case) -> tuple[int, str]:
        """Exit code and stderr of the command."""
        job = [str(folder), how, str(where), [str(argument) for argument in case.command]]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        code, stderr = json.loads(self._process.stdout.readline())
        return code, stderr

    def states(self, case: Case, folder: Path) -> list[Path]:
        """Copies of the case's folder before every event of its command."""
        case.prepare(folder / "work")
        (folder / "copies").mkdir()
        code, stderr = self(folder / "work", "copied", folder / "copies", case)
        assert code == 0, stderr
        case.assert_new(folder / "work")
        return sorted((folder / "copies").iterdir())

    def continues(self, case: Case, folder: Path) -> None:
        """The next run finishes."""
        code, stderr = self(folder, "whole", 0, case)
        assert code == 0, stderr
        case.assert_new(folder)

    def full(self, case: Case, number: int, folder: Path) -> None:
        """The disk is full at an event."""
        case.prepare(folder)
        code, stderr = self(folder, "full", number, case)
        # Cleaning up may fail without harm. Any other failure must be one line on stderr.
        if code != 0:
            assert code == 1, stderr
            assert "Traceback" not in stderr
            assert "No space left" in stderr
        case.assert_complete(folder)


@pytest.fixture(scope="module")
def injector() -> Iterator[Injector]:
    command = [sys.executable, "-m", "tests.faults.inject"]
    environment = bundles.environment(PYTHONPATH=str(ROOT))
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdin=pipe, stdout=pipe) as process:
        yield Injector(process)


@pytest.mark.slow
def test_a_fault_in_the_middle_of_the_writing(
    injector: Injector, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    case = case_named("score", tmp_path_factory.getbasetemp())
    states = injector.states(case, tmp_path / "watched")
    middle = len(states) // 2
    assert middle > 5
    case.prepare(tmp_path / "killed")
    assert injector(tmp_path / "killed", "killed", middle, case)[0] == KILLED
    # A copy taken at the event equals what the killed process leaves.
    assert bundles.digests(tmp_path / "killed" / "archive") == bundles.digests(states[middle - 1] / "archive")
    assert len(bundles.digests(tmp_path / "killed")) == len(bundles.digests(states[middle - 1]))
    for folder in (tmp_path / "killed", states[middle - 1]):
        case.assert_complete(folder)
    injector.continues(case, tmp_path / "killed")
    injector.full(case, middle, tmp_path / "full")
    injector.continues(case, tmp_path / "full")


@pytest.mark.parametrize("name", [pytest.param(name, marks=EVERYWHERE) for name in CASES])
def test_killed_at_any_event(
    injector: Injector, name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    case = case_named(name, tmp_path_factory.getbasetemp())
    seen = []
    for state in injector.states(case, tmp_path):
        case.assert_complete(state)
        content = bundles.digests(state)
        if content not in seen:
            seen.append(content)
            injector.continues(case, state)


@pytest.mark.parametrize("name", [pytest.param(name, marks=EVERYWHERE) for name in CASES])
def test_full_at_any_event(
    injector: Injector, name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    case = case_named(name, tmp_path_factory.getbasetemp())
    seen = []
    for number in range(1, len(injector.states(case, tmp_path / "watched")) + 1):
        folder = tmp_path / str(number)
        injector.full(case, number, folder)
        content = bundles.digests(folder)
        if content not in seen:
            seen.append(content)
            injector.continues(case, folder)


@pytest.mark.slow
def test_of_two_simultaneous_exports_one_succeeds_and_the_other_reports_it(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    case = case_named("export", tmp_path_factory.getbasetemp())
    case.prepare(tmp_path)
    command = [*bundles.LRCLR, *map(str, case.command)]
    both = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    messages = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    assert "bundle was changed by another process meanwhile. The other process's result is kept." in "".join(messages)
    case.assert_new(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]

"""After a full disk or a killed process, existing files are complete and the next run finishes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import bundles
from tests.faults.cases import CASES, Case, case_named
from tests.faults.inject import KILLED

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
EVERYWHERE = (pytest.mark.slow, pytest.mark.timeout(3600))


def _run(folder: Path, how: str, where: object, command: Sequence[object]) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "tests.faults.inject", str(folder), how, str(where), *map(str, command)]
    environment = bundles.environment(PYTHONPATH=str(ROOT))
    return subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def _states(case: Case, folder: Path) -> list[Path]:
    """Copies of the case's folder before every event of its command."""
    case.prepare(folder / "work")
    (folder / "copies").mkdir()
    done = _run(folder / "work", "copied", folder / "copies", case.command)
    assert done.returncode == 0, done.stderr
    case.assert_new(folder / "work")
    return sorted((folder / "copies").iterdir())


def _continues(case: Case, folder: Path) -> None:
    done = bundles.run(case.command, cwd=folder)
    assert done.returncode == 0, done.stderr
    case.assert_new(folder)


def _full(case: Case, number: int, folder: Path) -> None:
    case.prepare(folder)
    done = _run(folder, "full", number, case.command)
    # Cleaning up may fail without harm. Any other failure must be one line on stderr.
    if done.returncode != 0:
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert "No space left" in done.stderr
    case.assert_complete(folder)


@pytest.mark.slow
def test_a_fault_in_the_middle_of_the_writing(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    case = case_named("score", tmp_path_factory.getbasetemp())
    states = _states(case, tmp_path / "watched")
    middle = len(states) // 2
    assert middle > 5
    case.prepare(tmp_path / "killed")
    assert _run(tmp_path / "killed", "killed", middle, case.command).returncode == KILLED
    # A copy taken at the event equals what the killed process leaves.
    assert bundles.digests(tmp_path / "killed" / "archive") == bundles.digests(states[middle - 1] / "archive")
    assert len(bundles.digests(tmp_path / "killed")) == len(bundles.digests(states[middle - 1]))
    for folder in (tmp_path / "killed", states[middle - 1]):
        case.assert_complete(folder)
    _continues(case, tmp_path / "killed")
    _full(case, middle, tmp_path / "full")
    _continues(case, tmp_path / "full")


@pytest.mark.parametrize("name", [pytest.param(name, marks=EVERYWHERE) for name in CASES])
def test_killed_at_any_event(name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    case = case_named(name, tmp_path_factory.getbasetemp())
    seen = []
    for state in _states(case, tmp_path):
        case.assert_complete(state)
        content = bundles.digests(state)
        if content not in seen:
            seen.append(content)
            _continues(case, state)


@pytest.mark.parametrize("name", [pytest.param(name, marks=EVERYWHERE) for name in CASES])
def test_full_at_any_event(name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    case = case_named(name, tmp_path_factory.getbasetemp())
    seen = []
    for number in range(1, len(_states(case, tmp_path / "watched")) + 1):
        folder = tmp_path / str(number)
        _full(case, number, folder)
        content = bundles.digests(folder)
        if content not in seen:
            seen.append(content)
            _continues(case, folder)


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
    assert "bundle was changed by another process meanwhile. That stands." in "".join(messages)
    case.assert_new(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]

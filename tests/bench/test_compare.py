"""Comparisons of two results, which the real writer wrote and whose times the tests have changed."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from msgspec.structs import replace

from lrclr.bench import Measurement, Peak, Quality, Result, compare_results, result_json
from lrclr.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    Capture = pytest.CaptureFixture[str]


def steady(measurement: Measurement, factor: float, noise: float, seed: int) -> Measurement:
    """The same case with ten rounds of about one millisecond, each with random noise."""
    generator = np.random.default_rng(seed)
    rounds = []
    for _ in range(10):
        times = 1000 * factor * generator.lognormal(0, noise) * generator.lognormal(0, 0.01, 30)
        use = measurement.rounds[0].use
        rounds.append(
            replace(
                measurement.rounds[0],
                latency_us=tuple(times.round(1).tolist()),
                seconds=float(times.sum() / 1e6),
                use=use,
            )
        )
    return replace(measurement, rounds=tuple(rounds), settled=True)


def with_times(result: Result, factor: float = 1.0, *, noise: float = 0.01, seed: int = 0) -> Result:
    closed_loop = [each for each in result.measurements if each.case.rate is None]
    measurements = tuple(steady(each, factor, noise, 100 * seed + place) for place, each in enumerate(closed_loop))
    return replace(result, measurements=measurements, peaks=(Peak("fp32", 100.0, "made up"),))


@pytest.fixture(scope="module")
def before(result: Result) -> Result:
    return with_times(result)


def save_json(folder: Path, result: Result) -> None:
    """Like `save_reports`, but without the pages, which take half a second."""
    folder.mkdir(exist_ok=True)
    (folder / "bench.json").write_text(result_json(result))


def compare_by_command(tmp_path: Path, before: Result, after: Result, *options: str) -> int:
    save_json(tmp_path / "a", before)
    save_json(tmp_path / "b", after)
    return main(["bench", "compare", str(tmp_path / "a"), str(tmp_path / "b" / "bench.json"), *options])


def test_a_result_equals_itself(before: Result, tmp_path: Path, capsys: Capture) -> None:
    assert compare_by_command(tmp_path, before, before) == 0
    stdout = capsys.readouterr().out
    assert stdout.startswith("B is as fast as A, within 5%: 14 same.")
    assert "slower" not in stdout


def test_a_slower_result_gives_exit_code_3(before: Result, result: Result, tmp_path: Path, capsys: Capture) -> None:
    after = with_times(result, 1.2, seed=1)
    assert compare_by_command(tmp_path, before, after) == 3
    captured = capsys.readouterr()
    assert captured.out.startswith("B is slower than A: 14 slower. Worst: ")
    # One row for each configuration, although it has two figures.
    assert captured.out.count("slower") == 2 + 14
    assert "is slower by its" in captured.err
    assert re.search(r"0\.8\d* times as fast \(28 of 28 figures became worse\)", captured.err)
    assert "worse by more than 0.05 is a regression" in captured.err


def test_a_faster_result_gives_exit_code_0(before: Result, result: Result, tmp_path: Path, capsys: Capture) -> None:
    assert compare_by_command(tmp_path, before, with_times(result, 0.8, seed=1)) == 0
    assert capsys.readouterr().out.startswith("B is faster than A: 14 faster. Most: ")


def test_rows_are_sorted_by_the_size_of_the_change(before: Result) -> None:
    factors = (1.0, 1.3, 0.7, 1.6)
    changed = tuple(
        steady(each, factors[place % len(factors)], 0.01, 500 + place) for place, each in enumerate(before.measurements)
    )
    found = compare_results(before, replace(before, measurements=changed))
    rows = found.by_configuration
    assert len(rows) == len({(row.target, row.what) for row in rows}) == len(before.measurements)
    words = [row.word for row in rows]
    assert words == sorted(words, key=["slower", "faster", "same"].index)
    slower = [row.speed.value for row in rows if row.word == "slower"]
    assert slower == sorted(slower)
    assert slower[0] == pytest.approx(1 / 1.6, rel=0.05)
    for row in rows:
        assert row.speed.low is not None
        assert row.speed.high is not None
        assert row.speed.low <= row.speed.value <= row.speed.high
        assert (row.speed.value < 1) == (row.worse.value > 1)
    assert found.summary.startswith(f"B is slower than A: {words.count('slower')} slower, {words.count('faster')} ")


def test_a_change_below_the_threshold_is_not_a_regression(before: Result, result: Result, tmp_path: Path) -> None:
    after = with_times(result, 1.2, seed=1)
    assert compare_by_command(tmp_path, before, after, "--threshold", "50%") == 0
    assert compare_by_command(tmp_path, before, after, "--threshold", "0.5") == 0


def test_noise_is_not_a_regression(before: Result, result: Result) -> None:
    """A difference of ten percent cannot be shown if the rounds themselves differ by half."""
    found = compare_results(with_times(result, noise=0.5), with_times(result, 1.1, noise=0.5, seed=3))
    passing = [change for change in found.changes if change.worse.value > 1.05]
    assert passing
    assert {change.verdict for change in found.changes} <= {"unclear", "regression", "improvement"}
    unclear = compare_results(with_times(result, noise=0.5), with_times(result, noise=0.5))
    assert unclear.summary == "No difference was found: 14 unclear. Unclear: the interval goes beyond 5%."
    assert len(found.regressions) < len(passing) / 2


def test_too_few_rounds_give_no_verdict(before: Result, result: Result, tmp_path: Path, capsys: Capture) -> None:
    after = with_times(result, 3.0, seed=1)
    short = replace(after, measurements=tuple(replace(each, rounds=each.rounds[:2]) for each in after.measurements))
    assert compare_by_command(tmp_path, before, short) == 0
    assert "were not judged" in capsys.readouterr().err


def test_another_machine_is_refused(before: Result, result: Result, tmp_path: Path, capsys: Capture) -> None:
    machine = {**before.environment["machine"], "processor": "Abacus 9000"}
    after = replace(with_times(result, 2.0, seed=1), environment={**before.environment, "machine": machine})
    assert compare_by_command(tmp_path, before, after) == 2
    assert "different machines: processor" in capsys.readouterr().err
    assert compare_by_command(tmp_path, before, after, "--allow-other-machine") == 3
    assert "Abacus 9000" in capsys.readouterr().err


def test_wrong_answers_give_exit_code_3_even_if_faster(
    before: Result, result: Result, tmp_path: Path, capsys: Capture
) -> None:
    after = with_times(result, 0.5, seed=1)
    wrong = Quality("golden", "wrong", ("cosine of image_encoder is 0.1, below the tolerance 0.99",), 20)
    after = replace(after, targets=(replace(after.targets[0], quality=wrong), *after.targets[1:]))
    assert compare_by_command(tmp_path, before, after) == 3
    captured = capsys.readouterr()
    assert "WRONG" in captured.out
    assert "cosine of image_encoder" in captured.err


def test_targets_are_matched_by_content_and_not_by_order(before: Result) -> None:
    turned = replace(before, targets=before.targets[::-1])
    found = compare_results(before, turned)
    assert all(change.worse.value == 1.0 for change in found.changes)
    assert {change.target for change in found.changes} == {target.label for target in before.targets}


def test_single_targets_are_always_matched(before: Result) -> None:
    def only(place: int) -> Result:
        target = before.targets[place]
        kept = tuple(each for each in before.measurements if each.case.target == target.label)
        return replace(before, targets=(target,), measurements=kept)

    found = compare_results(only(0), only(1))
    assert len(found.changes) == 2 * len(only(0).measurements)
    assert found.unmatched == ()


def test_results_without_common_configurations_are_refused(before: Result) -> None:
    halves = [replace(before, measurements=before.measurements[part::2]) for part in (0, 1)]
    disjoint = [
        replace(half, measurements=tuple(each for each in half.measurements if each.case.callers == place + 1))
        for place, half in enumerate(halves)
    ]
    from lrclr.errors import UsageError

    with pytest.raises(UsageError, match="no configuration in common"):
        compare_results(*disjoint)


def test_configurations_of_one_result_and_other_differences_are_reported(
    before: Result, tmp_path: Path, capsys: Capture
) -> None:
    packages = {**before.environment["packages"], "numpy": "0.0.1"}
    after = replace(
        before,
        measurements=before.measurements[1:],
        environment={**before.environment, "packages": packages},
        peaks=(Peak("fp32", 60.0, "made up"),),
        complete=False,
    )
    assert compare_by_command(tmp_path, before, after) == 0
    stderr = capsys.readouterr().err
    assert "only in one result" in stderr
    assert "numpy" in stderr
    assert "0.60 times as fast as for A" in stderr
    assert "the second was interrupted" in stderr


def test_json_output_is_complete(before: Result, result: Result, tmp_path: Path, capsys: Capture) -> None:
    assert compare_by_command(tmp_path, before, with_times(result, 1.2, seed=1), "--json") == 3
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert content["passed"] is False
    assert {change["verdict"] for change in content["changes"]} == {"regression"}
    assert compare_by_command(tmp_path, before, before, "--markdown") == 0
    assert capsys.readouterr().out.startswith("**B is as fast as A")


@pytest.mark.parametrize(
    "arguments",
    [["a"], ["a", "nowhere"], ["a", "b", "--threshold", "fast"], ["a", "b", "--threshold", "0%"],
     ["a", "b", "--json", "--markdown"]],
)  # fmt: skip
def test_a_wrong_call_gives_exit_code_2(
    before: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        save_json(tmp_path / name, before)
    assert main(["bench", "compare", *arguments]) == 2

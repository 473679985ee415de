"""Benchmarks of real bundles and checkpoints: results, verdicts on wrong answers, and interruptions."""

from __future__ import annotations

import json
import math
import re
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lrclr.bench import (
    STAGES,
    BenchCallbacks,
    BenchOptions,
    Result,
    bench,
    load_result,
    open_targets,
    reference_from,
    result_from_json,
    result_json,
    save_reports,
)

# Private: the pages as text, without writing a folder for each.
from lrclr.bench._reports import html as page
from lrclr.bench._reports import markdown
from lrclr.bench._stages import findings_of
from lrclr.errors import LrclrError, UsageError
from lrclr.text import FindingSet
from tests.bench.conftest import SHORT

if TYPE_CHECKING:
    import io
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from lrclr.bench import Target
    from lrclr.engines import Engine

ONE_CASE = replace(SHORT, stages=("image_encoder",), batches=(1,), callers=(1,), seconds=0.5)


class SwappingEngine:
    """A fast but wrong engine: every image gets its neighbour's embedding."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name = engine.name

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        outputs = self._engine.run(graph, inputs)
        if graph == "image_encoder":
            outputs["image_embedding"] = np.roll(outputs["image_embedding"], 1, axis=0)
        return outputs


def with_swapped_answers(target: Target) -> Target:
    engine = SwappingEngine(target.engine)
    assert target.classifier is not None
    target.classifier.engine = engine
    return replace(target, engine=engine)


def test_every_configuration_is_measured(result: Result, progress_text: io.StringIO) -> None:
    assert [target.kind for target in result.targets] == ["bundle", "checkpoint"]
    closed = [each for each in result.measurements if each.case.rate is None]
    for target in result.targets:
        cases = [each.case for each in closed if each.case.target == target.label]
        assert {case.stage for case in cases} == set(STAGES)
        assert len(cases) == 1 + 1 + 1 + 2 + 2
    assert all(len(each.rounds) == 4 for each in closed)
    assert result.complete
    assert result.left_out == ()
    text = progress_text.getvalue()
    assert "14 configurations, 4 rounds" in text
    shares = [float(line.split()[0]) for line in text.splitlines() if re.match(r"^[01]\.\d{3} ", line)]
    assert shares == sorted(shares)
    assert 0.9 < shares[-1] <= 1


def test_operators_of_a_bundle_are_profiled(result: Result) -> None:
    bundle, checkpoint = result.targets
    assert [(each.case.stage, each.case.batch) for each in bundle.operators] == [
        ("image_encoder", 1),
        ("fusion_head", 1),
    ]
    for each in bundle.operators:
        assert sum(share for _, share in each.shares) == pytest.approx(1)
        assert each.type_shares == {"float32": pytest.approx(1)}
    assert checkpoint.operators == ()
    for text in (markdown(result), page(result)):
        assert "image encoder, batch 1: products 100% in float32" in text
        assert "LayerNormalization" in text


def test_open_loop_runs_the_classifier_at_a_share_of_its_capacity(result: Result) -> None:
    open_loop = [each for each in result.measurements if each.case.rate is not None]
    assert [each.case.target for each in open_loop] == [target.label for target in result.targets]
    for each in open_loop:
        assert each.case.stage == "classifier"
        capacities = [
            other.throughput.value
            for other in result.measurements
            if (other.case.target, other.case.stage, other.case.batch, other.case.rate)
            == (each.case.target, "classifier", 1, None)
        ]
        assert each.case.rate == pytest.approx(0.3 * max(capacities), rel=1e-3)
        assert all(round_.due is not None and round_.due >= len(round_.latency_us) for round_ in each.rounds)


def test_a_bundle_is_judged_by_its_own_golden_values(result: Result) -> None:
    bundle, checkpoint = (target.quality for target in result.targets)
    assert bundle.verdict == "good"
    assert bundle.gates > 20
    assert bundle.cosine == pytest.approx(1, abs=1e-5)
    assert bundle.region_agreement == pytest.approx(1, abs=0.05)
    assert checkpoint.verdict == "not compared"
    assert "itself" in checkpoint.reference


def test_figures_are_computed_from_the_samples(result: Result) -> None:
    for each in result.measurements:
        values = sorted(each.samples_us)
        assert each.quantiles_ms["max"] == values[-1] / 1e3
        assert each.quantiles_ms["p50"] == values[(len(values) - 1) // 2] / 1e3
        throughput = each.throughput
        assert throughput.low is not None
        assert throughput.high is not None
        assert throughput.low <= throughput.value <= throughput.high
        for round_ in each.rounds:
            assert round_.use.cpu_seconds > 0
            assert round_.use.rss_mib is None or round_.use.rss_mib > 10


def test_a_result_survives_saving_and_loading(result: Result, tmp_path: Path) -> None:
    assert result_from_json(result_json(result)) == result
    save_reports(tmp_path / "out", result)
    assert load_result(tmp_path / "out") == load_result(tmp_path / "out" / "bench.json") == result
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bench.html", "bench.json", "bench.md"]


def test_results_contain_no_paths_and_no_host_name(result: Result, bundle: Path) -> None:
    written = result_json(result) + page(result) + markdown(result)
    for secret in (str(bundle), str(bundle.parent), "/tmp", "/home", "/root"):
        assert secret not in written
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", written)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"schema": 2}, "schema version 2"),
        ({"schema": None}, "schema version unknown"),
        ({"targets": None}, r"Expected array, got null - at \$.targets"),
        ({"measurements": [{}]}, r"Object missing required field case - at \$.measurements\[0\]"),
        ({"measurements": 3}, r"got int - at \$.measurements"),
        ({"environment": []}, r"got array - at \$.environment"),
        ({"colour": "red"}, "unknown field colour"),
    ],
)
def test_other_json_files_are_refused(result: Result, change: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        result_from_json(json.dumps(json.loads(result_json(result)) | change))


@pytest.mark.parametrize(
    ("place", "value", "match"),
    [
        (("rounds", 0, "latency_us", 0), -1.0, r"float > 0.0 - at \$.measurements\[0\].rounds\[0\].latency_us\[0\]"),
        (("rounds", 0, "latency_us", 0), math.nan, "not JSON"),
        (("rounds", 0, "latency_us"), [], r"length >= 1 - at \$.measurements\[0\].rounds\[0\].latency_us"),
        (("rounds", 0, "seconds"), 0.0, r"rounds\[0\].seconds"),
        (("rounds", 0, "use", "gpu"), {}, r"rounds\[0\].use.gpu"),
        (("rounds",), [], r"length >= 1 - at \$.measurements\[0\].rounds"),
        (("settled",), "Jane Doe", r"Expected bool, got str - at \$.measurements\[0\].settled"),
        (("case", "stage"), "Jane Doe", r"Unknown value - at \$.measurements\[0\].case.stage"),
        (("case", "colour"), "Jane Doe", r"unknown field colour - at \$.measurements\[0\].case"),
    ],
    ids=str,
)
def test_an_invalid_value_is_refused_with_its_path(
    result: Result, place: tuple[Any, ...], value: object, match: str
) -> None:
    content = json.loads(result_json(result))
    target = content["measurements"][0]
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    with pytest.raises(UsageError, match=match) as caught:
        result_from_json(json.dumps(content))
    assert "Jane" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", "nan", "{" * 100_000, "[" * 100_000, b'{"schema": "\xff"}'])
def test_a_text_that_is_not_a_result_is_refused(text: str | bytes) -> None:
    with pytest.raises(UsageError, match="not a result"):
        result_from_json(text)


def test_a_wrong_engine_is_reported_as_wrong(bundle: Path) -> None:
    with open_targets([str(bundle)]) as targets:
        found = bench([with_swapped_answers(targets[0])], ONE_CASE)
    quality = found.targets[0].quality
    assert quality.verdict == "wrong"
    assert any("cosine of image_encoder.image_embedding" in line for line in quality.refused)
    assert json.loads(result_json(found))["targets"][0]["quality"]["verdict"] == "wrong"
    assert "**WRONG**" in markdown(found)
    assert '<span class="bad">WRONG</span>' in page(found)
    assert "Its speed means nothing" in page(found)


@pytest.mark.slow
def test_a_checkpoint_can_be_the_reference(bundle: Path, checkpoint_folder: Path) -> None:
    reference = reference_from(str(checkpoint_folder))
    with open_targets([str(bundle), str(checkpoint_folder)]) as targets:
        found = bench(targets, ONE_CASE, reference=reference)
    assert [target.quality.verdict for target in found.targets] == ["good", "good"]
    assert {target.quality.reference for target in found.targets} == {"the checkpoint in torch, fp32"}


def test_a_reference_of_other_weights_is_refused(bundle: Path, tiny_folder: Path) -> None:
    with open_targets([str(tiny_folder)]) as targets, pytest.raises(UsageError, match="other weights"):
        bench(targets, ONE_CASE, reference=reference_from(str(bundle)))


def test_an_interrupt_keeps_complete_rounds(bundle: Path) -> None:
    def step(text: str, share: float) -> None:
        if text.startswith("round 3") and "fusion" in text:
            raise KeyboardInterrupt

    options = replace(SHORT, stages=("image_encoder", "fusion_head"), batches=(1,))
    with open_targets([str(bundle)]) as targets:
        found = bench(targets, options, callbacks=BenchCallbacks(step))
    assert not found.complete
    assert [len(each.rounds) for each in found.measurements] == [2, 2]
    assert "Interrupted" in page(found)
    assert result_from_json(result_json(found)) == found


def test_an_interrupt_before_the_first_round_is_raised(bundle: Path) -> None:
    def step(text: str, share: float) -> None:
        if text.startswith("warm-up"):
            raise KeyboardInterrupt

    with open_targets([str(bundle)]) as targets, pytest.raises(KeyboardInterrupt):
        bench(targets, ONE_CASE, callbacks=BenchCallbacks(step))


@pytest.mark.slow
def test_the_highest_rate_keeps_its_p99(bundle: Path) -> None:
    options = replace(SHORT, stages=("classifier",), batches=(1,), callers=(1,), p99_ms=60_000.0)
    with open_targets([str(bundle)]) as targets:
        found = bench(targets, options)
    (search,) = found.searches
    assert search.case.rate == max((rate for rate, _, held in search.trials if held), default=0.0)
    assert all(held == (p99 is not None and p99 <= 60_000) for _, p99, held in search.trials)
    assert "highest rate" in markdown(found)


def test_findings_have_the_requested_number_of_prompts() -> None:
    own = FindingSet.from_names(["Edema", "Fracture"])
    assert findings_of(own, 4) is None
    for count in (2, 6, 14):
        found = findings_of(own, count)
        assert found is not None
        assert len(found.prompts) == count


@pytest.mark.slow
def test_a_configuration_that_fails_is_reported(bundle: Path) -> None:
    class FailsAtSeven(SwappingEngine):
        def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            if graph == "image_encoder" and len(inputs["pixel_values"]) == 7:
                raise LrclrError("seven is too many")
            return self._engine.run(graph, inputs)

    with open_targets([str(bundle)]) as targets:
        target = replace(targets[0], engine=FailsAtSeven(targets[0].engine))
        found = bench([target], replace(ONE_CASE, batches=(1, 7)))
        assert [configuration for configuration, _ in found.left_out] == [
            f"{target.info.label}: image encoder, batch 7"
        ]
        assert "seven is too many" in page(found)
        with pytest.raises(LrclrError, match="seven is too many"):
            bench([target], replace(ONE_CASE, batches=(7,)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"stages": ("decoder",)}, {"stages": ()}, {"batches": (0,)}, {"batches": ()}, {"prompts": (3,)},
        {"seconds": 0.0}, {"shares": (-1.0,)}, {"p99_ms": float("nan")}, {"rounds": 0}, {"tolerance": 0.0},
    ],
)  # fmt: skip
def test_options_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        BenchOptions(**wrong)


def test_a_benchmark_without_targets_is_refused() -> None:
    with pytest.raises(UsageError, match="no target is given"), open_targets([]):
        pass

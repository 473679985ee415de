"""A benchmark of real bundles and checkpoints: what it keeps, what it says of wrong answers, how it ends."""

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

ONE = replace(SHORT, stages=("image_encoder",), batches=(1,), callers=(1,), seconds=0.5)


class Swapped:
    """An engine that is quick and wrong: every image gets its neighbour's embedding."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name = engine.name

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        outputs = self._engine.run(graph, inputs)
        if graph == "image_encoder":
            outputs["image_embedding"] = np.roll(outputs["image_embedding"], 1, axis=0)
        return outputs


def swapped(target: Target) -> Target:
    engine = Swapped(target.engine)
    assert target.classifier is not None
    target.classifier.engine = engine
    return replace(target, engine=engine)


def test_everything_was_measured(result: Result, told: io.StringIO) -> None:
    assert [target.kind for target in result.targets] == ["bundle", "checkpoint"]
    closed = [each for each in result.measurements if each.case.rate is None]
    for target in result.targets:
        own = [each.case for each in closed if each.case.target == target.label]
        assert {case.stage for case in own} == set(STAGES)
        assert len(own) == 1 + 1 + 1 + 2 + 2
    assert all(len(each.rounds) == 4 for each in closed)
    assert result.complete
    assert result.left_out == ()
    text = told.getvalue()
    assert "14 configurations, 4 rounds" in text
    shares = [float(line.split()[0]) for line in text.splitlines() if re.match(r"^[01]\.\d{3} ", line)]
    assert shares == sorted(shares)
    assert 0.9 < shares[-1] <= 1


def test_the_operators_of_a_bundle_were_profiled(result: Result) -> None:
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


def test_open_loop_is_of_the_classifier_at_a_share_of_its_capacity(result: Result) -> None:
    opened = [each for each in result.measurements if each.case.rate is not None]
    assert [each.case.target for each in opened] == [target.label for target in result.targets]
    for each in opened:
        assert each.case.stage == "classifier"
        own = [
            other.throughput.value
            for other in result.measurements
            if (other.case.target, other.case.stage, other.case.batch, other.case.rate)
            == (each.case.target, "classifier", 1, None)
        ]
        assert each.case.rate == pytest.approx(0.3 * max(own), rel=1e-3)
        assert all(part.due is not None and part.due >= len(part.latency_us) for part in each.rounds)


def test_a_bundle_is_judged_by_its_own_golden_values(result: Result) -> None:
    bundle, checkpoint = (target.quality for target in result.targets)
    assert bundle.verdict == "good"
    assert bundle.gates > 20
    assert bundle.cosine == pytest.approx(1, abs=1e-5)
    assert bundle.region_agreement == pytest.approx(1, abs=0.05)
    assert checkpoint.verdict == "not compared"
    assert "itself" in checkpoint.reference


def test_figures_are_those_of_the_samples(result: Result) -> None:
    for each in result.measurements:
        values = sorted(each.samples_us)
        assert each.quantiles_ms["max"] == values[-1] / 1e3
        assert each.quantiles_ms["p50"] == values[(len(values) - 1) // 2] / 1e3
        found = each.throughput
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.value <= found.high
        for part in each.rounds:
            assert part.use.cpu_seconds > 0
            assert part.use.rss_mib is None or part.use.rss_mib > 10


def test_a_file_holds_all_and_is_read_back(result: Result, tmp_path: Path) -> None:
    assert result_from_json(result_json(result)) == result
    save_reports(tmp_path / "out", result)
    assert load_result(tmp_path / "out") == load_result(tmp_path / "out" / "bench.json") == result
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bench.html", "bench.json", "bench.md"]


def test_a_file_names_nobody(result: Result, bundle: Path) -> None:
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
def test_other_files_are_refused(result: Result, change: dict[str, Any], match: str) -> None:
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
def test_a_spoilt_measurement_is_refused_by_its_place(
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
def test_what_is_no_result_is_refused(text: str | bytes) -> None:
    with pytest.raises(UsageError, match="not a result"):
        result_from_json(text)


def test_an_engine_that_is_wrong_shows_as_wrong(bundle: Path) -> None:
    with open_targets([str(bundle)]) as targets:
        found = bench([swapped(targets[0])], ONE)
    quality = found.targets[0].quality
    assert quality.verdict == "wrong"
    assert any("cosine of image_encoder.image_embedding" in line for line in quality.refused)
    assert json.loads(result_json(found))["targets"][0]["quality"]["verdict"] == "wrong"
    assert "**WRONG**" in markdown(found)
    assert '<span class="bad">WRONG</span>' in page(found)
    assert "Its speed means nothing" in page(found)


def test_a_checkpoint_can_be_the_reference(bundle: Path, checkpoint_folder: Path) -> None:
    reference = reference_from(str(checkpoint_folder))
    with open_targets([str(bundle), str(checkpoint_folder)]) as targets:
        found = bench(targets, ONE, reference=reference)
    assert [target.quality.verdict for target in found.targets] == ["good", "good"]
    assert {target.quality.reference for target in found.targets} == {"the checkpoint in torch, fp32"}


def test_a_reference_of_other_weights_is_refused(bundle: Path, tiny_folder: Path) -> None:
    with open_targets([str(tiny_folder)]) as targets, pytest.raises(UsageError, match="other weights"):
        bench(targets, ONE, reference=reference_from(str(bundle)))


def test_an_interrupt_keeps_whole_rounds(bundle: Path) -> None:
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


def test_an_interrupt_before_anything_is_raised(bundle: Path) -> None:
    def step(text: str, share: float) -> None:
        if text.startswith("warm-up"):
            raise KeyboardInterrupt

    with open_targets([str(bundle)]) as targets, pytest.raises(KeyboardInterrupt):
        bench(targets, ONE, callbacks=BenchCallbacks(step))


def test_the_highest_rate_keeps_its_p99(bundle: Path) -> None:
    options = replace(SHORT, stages=("classifier",), batches=(1,), callers=(1,), p99_ms=60_000.0)
    with open_targets([str(bundle)]) as targets:
        found = bench(targets, options)
    (search,) = found.searches
    assert search.case.rate == max((rate for rate, _, held in search.trials if held), default=0.0)
    assert all(held == (p99 is not None and p99 <= 60_000) for _, p99, held in search.trials)
    assert "highest rate" in markdown(found)


def test_numbers_of_prompts_are_as_asked() -> None:
    own = FindingSet.from_names(["Edema", "Fracture"])
    assert findings_of(own, 4) is None
    for count in (2, 6, 14):
        found = findings_of(own, count)
        assert found is not None
        assert len(found.prompts) == count


def test_what_cannot_be_measured_is_told_and_not_left_out_in_silence(bundle: Path) -> None:
    class Choosy(Swapped):
        def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            if graph == "image_encoder" and len(inputs["pixel_values"]) == 7:
                raise LrclrError("seven is too many")
            return self._engine.run(graph, inputs)

    with open_targets([str(bundle)]) as targets:
        target = replace(targets[0], engine=Choosy(targets[0].engine))
        found = bench([target], replace(ONE, batches=(1, 7)))
        assert [what for what, _ in found.left_out] == [f"{target.info.label}: image encoder, batch 7"]
        assert "seven is too many" in page(found)
        with pytest.raises(LrclrError, match="seven is too many"):
            bench([target], replace(ONE, batches=(7,)))


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


def test_nothing_is_nothing_to_measure() -> None:
    with pytest.raises(UsageError, match="no target is given"), open_targets([]):
        pass

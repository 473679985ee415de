"""The chosen settings in the bundle: in Triton's configuration and in the manifest, also after another build."""

from __future__ import annotations

import json
import platform
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import text_format  # type: ignore[import-untyped, unused-ignore]
from tritonclient.grpc import model_config_pb2 as triton

from lrclr import Bundle
from lrclr.bundle import ServingSettings
from lrclr.deploy import DeployOptions, write_kubernetes
from lrclr.errors import BundleError, TuningError
from lrclr.triton import protocol
from lrclr.tune import keep
from lrclr_export import build_bundle
from tests import bundles
from tests.tune.conftest import TUNED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lrclr.tune import TuneResult

    Results = Callable[..., TuneResult]


def config(bundle: Path, model: str) -> Any:
    return text_format.Parse((bundle / model / "config.pbtxt").read_text(), triton.ModelConfig())


def instances(bundle: Path) -> dict[str, int]:
    return {model: config(bundle, model).instance_group[0].count for model in Bundle(bundle).manifest.names.all}


def test_the_settings_are_in_the_configuration(bundle: Path, result_for: Results) -> None:
    before = bundles.digests(bundle)
    tuned = keep(bundle, result_for(bundle))
    assert instances(bundle) == {"image_encoder": 2, "text_encoder": 1, "fusion_head": 2, "lrclr": 4}
    encoder = config(bundle, "image_encoder")
    assert encoder.dynamic_batching.max_queue_delay_microseconds == 2000
    assert list(encoder.dynamic_batching.preferred_batch_size) == [4]
    assert encoder.parameters["intra_op_thread_count"].string_value == "1"
    assert not config(bundle, "text_encoder").parameters
    # The limits under overload do not change.
    policy = config(bundle, "lrclr").dynamic_batching.default_queue_policy
    assert policy.max_queue_size == protocol.MAX_QUEUED
    assert policy.default_timeout_microseconds == protocol.MAX_QUEUED_SECONDS * 1_000_000
    now = bundles.digests(bundle)
    changed = {name for name in before if now[name] != before[name]}
    assert changed == {
        "manifest.json",
        *(f"{model}/config.pbtxt" for model in ("image_encoder", "fusion_head", "lrclr")),
    }
    assert now.keys() == before.keys()
    assert tuned.manifest.serving == TUNED


def test_the_manifest_says_what_was_measured_and_where(bundle: Path, result_for: Results) -> None:
    (entry,) = keep(bundle, result_for(bundle)).manifest.tuning
    assert entry["engine"] == "onnxruntime"
    measured = entry["measured"]
    assert (measured["p99_limit_ms"], measured["decoding"], measured["callers"]) == (100.0, "client", None)
    assert measured["chosen"]["requests_per_second"] == 80.0
    assert measured["default"] == {
        "requests_per_second": 40.0, "p99_ms": 99.0, "spread": 0.1, "stable": False, "windows": 1
    }  # fmt: skip
    assert measured["machine"]["processor"]
    text = (bundle / "manifest.json").read_text()
    assert platform.node() not in text
    assert str(bundle.parent) not in text


def test_the_tuned_bundle_passes_its_gates(bundle: Path, result_for: Results) -> None:
    keep(bundle, result_for(bundle))
    done = bundles.call("verify", bundle)
    assert done.returncode == 0, done.stderr


def test_a_build_for_the_same_engine_keeps_the_settings(bundle: Path, result_for: Results) -> None:
    keep(bundle, result_for(bundle))
    before = bundles.digests(bundle)
    done = bundles.call("build", bundle, "--engine", "onnxruntime")
    assert done.returncode == 0, done.stderr
    assert "the one that `lrclr tune` found for onnxruntime" in done.stderr
    now = bundles.digests(bundle)
    # The manifest has another reason for the engine.
    assert {name for name in before if now[name] != before[name]} <= {"manifest.json", "README.md"}


def test_a_build_for_another_engine_has_the_defaults_and_says_so(bundle: Path, result_for: Results) -> None:
    """What is best for one engine need not be good for another. Back at the first one, its settings are there again."""
    pytest.importorskip("openvino")
    keep(bundle, result_for(bundle))
    tuned = {model: config(bundle, model) for model in ("image_encoder", "fusion_head", "lrclr")}
    done = bundles.call("build", bundle, "--engine", "openvino")
    assert done.returncode == 0, done.stderr
    assert "`lrclr tune` measured onnxruntime, and not openvino" in done.stderr
    assert set(instances(bundle).values()) == {1, ServingSettings().processes}
    keep(bundle, result_for(bundle, settings=ServingSettings(encoder_threads=2, processes=16)))
    encoder = config(bundle, "image_encoder")
    assert encoder.parameters["INFERENCE_NUM_THREADS"].string_value == "2"
    assert not encoder.HasField("dynamic_batching")
    back = build_bundle(bundle, "onnxruntime")
    assert [entry["engine"] for entry in back.manifest.tuning] == ["onnxruntime", "openvino"]
    assert {model: config(bundle, model) for model in tuned} == tuned


def test_another_bundle_can_get_the_settings(bundle: Path, result_for: Results, tmp_path: Path) -> None:
    before = bundles.digests(bundle)
    made = keep(bundle, result_for(bundle), tmp_path / "other")
    assert bundles.digests(bundle) == before
    assert made.manifest.serving == TUNED
    assert Bundle(bundle).manifest.serving == ServingSettings()


def test_all_members_of_an_ensemble_get_the_settings(
    quiet_transformers: None, result_for: Results, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = bundles.copied(bundles.exported_ensemble(tmp_path_factory.getbasetemp()), tmp_path / "bundle")
    names = keep(bundle, result_for(bundle)).manifest.names
    expected = {model: 2 if model.endswith(("image_encoder", "fusion_head")) else 1 for model in names.graphs}
    assert instances(bundle) == {**expected, "lrclr": 4}
    again = build_bundle(bundle, "onnxruntime")
    assert again.manifest.serving == TUNED
    assert instances(bundle) == {**expected, "lrclr": 4}


def test_a_bundle_that_was_changed_meanwhile_is_refused(bundle: Path, result_for: Results) -> None:
    result = result_for(bundle)
    build_bundle(bundle, "onnxruntime", why="another reason")
    before = bundles.digests(bundle)
    with pytest.raises(BundleError, match="was changed while it was tuned"):
        keep(bundle, result)
    assert bundles.digests(bundle) == before


def test_a_limit_that_was_not_reached_changes_nothing(bundle: Path, result_for: Results) -> None:
    before = bundles.digests(bundle)
    with pytest.raises(TuningError, match=r"within 100 ms, with none lost: the nearest one .* of 95 ms at 5 requests"):
        keep(bundle, result_for(bundle, best=0.0))
    assert TuningError.exit_code == 3
    assert bundles.digests(bundle) == before


@pytest.mark.parametrize(
    "settings",
    [{"processes": 0}, {"encoder_instances": 65}, {"queue_delay_us": -1}, {"preferred_batches": [0]}, {"unknown": 1}],
)
def test_settings_that_lrclr_does_not_write_are_refused(bundle: Path, settings: dict[str, Any]) -> None:
    entry = {"engine": "onnxruntime", "settings": {**TUNED.to_dict(), **settings}, "measured": {}}
    bundles.signed(bundle, tuning=[entry])
    with pytest.raises(BundleError, match="manifest is damaged"):
        Bundle(bundle)


def test_a_bundle_that_was_not_tuned_has_no_such_field(bundle: Path) -> None:
    assert "tuning" not in json.loads((bundle / "manifest.json").read_text())


def test_the_chart_has_memory_for_every_instance(bundle: Path, result_for: Results, tmp_path: Path) -> None:
    def memory() -> int:
        write_kubernetes(bundle, tmp_path / "chart", DeployOptions("registry.example/lrclr:1", instances=4))
        text = (tmp_path / "chart" / "values.yaml").read_text()
        return int(text.partition("memory: ")[2].partition("Mi")[0])

    many = ServingSettings(encoder_instances=64, fusion_instances=64)
    before = memory()
    keep(bundle, result_for(bundle, settings=many))
    assert memory() > before

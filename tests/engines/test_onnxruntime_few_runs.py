"""The engine ONNX Runtime, opened for few runs: it gives the same answers without copies of the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lrclr import Bundle, ZeroShotClassifier

# Private: what sessions are opened with.
from lrclr.engines import EngineOptions, _onnxruntime, open_named_engine
from lrclr.samples import sample_paths


@pytest.mark.parametrize(("precision", "without"), [("fp32", True), ("int8", True), ("fp16", False)])
def test_the_answers_are_the_same(
    precision: str, without: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle(request.getfixturevalue(f"{precision}_bundle"))
    settings: list[bool] = []
    whole = _onnxruntime.open_session

    def recorded(path: Any, setting: Any, *, name: str) -> Any:
        settings.append(setting.few_runs)
        return whole(path, setting, name=name)

    monkeypatch.setattr(_onnxruntime, "open_session", recorded)
    answers = []
    for few in (False, True):
        classifier = ZeroShotClassifier(bundle, open_named_engine(bundle, EngineOptions(few_runs=few)))
        answers.append(
            [each.probability for found in classifier.predict(list(sample_paths())) for each in found.findings]
        )
    np.testing.assert_allclose(answers[1], answers[0], rtol=0, atol=1e-6)
    # In float16, the order of the sums changes answers.
    assert settings[:3] == [False] * 3
    assert settings[3:] == [without] * 3

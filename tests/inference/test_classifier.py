"""The classifier equals the PyTorch network. Caching, batches, threads and alpha work as documented."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrclr import Bundle, Finding, FindingSet, ZeroShotClassifier, read_image
from lrclr.errors import FindingsError, ImageError, NonFiniteError, UsageError
from lrclr.inference import ScoreCalibration, combined_score
from lrclr.preprocessing import preprocess_batch
from lrclr.samples import sample_paths
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from lrclr import Prediction
    from lrclr.checkpoints import Checkpoint
    from lrclr.inference import ImageSource

IMAGES = [read_image(path) for path in sample_paths()]


class CountingEngine:
    """Forwards to a real engine and counts the runs. It can replace an output by NaN."""

    def __init__(self, inner: Any, spoiled: str = "") -> None:
        self.inner, self.spoiled, self.ran = inner, spoiled, list[tuple[str, int]]()
        self.name = inner.name

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.ran.append((graph, len(next(iter(inputs.values())))))
        outputs: dict[str, NDArray[Any]] = self.inner.run(graph, inputs)
        if graph == self.spoiled:
            outputs = {name: np.full_like(array, np.nan, np.float32) for name, array in outputs.items()}
        return outputs


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def classifier(precision: str, tmp_path_factory: pytest.TempPathFactory) -> ZeroShotClassifier:
    return ZeroShotClassifier.from_bundle(bundles.exported(tmp_path_factory.getbasetemp(), precision))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.exported(tmp_path_factory.getbasetemp(), "fp32")


@pytest.fixture
def counted(folder: Path) -> tuple[ZeroShotClassifier, CountingEngine]:
    plain = ZeroShotClassifier.from_bundle(folder)
    engine = CountingEngine(plain.engine)
    return ZeroShotClassifier(plain.bundle, engine), engine


def flat(predictions: list[Prediction]) -> NDArray[np.float64]:
    return np.array([[finding.probability for finding in each.findings] for each in predictions])


@pytest.mark.parametrize("alpha", [0.0, bundles.ALPHA, 1.0])
def test_answers_equal_those_of_the_network(
    alpha: float, classifier: ZeroShotClassifier, checkpoint: Checkpoint, precision: str
) -> None:
    import torch

    pixels = torch.from_numpy(preprocess_batch(IMAGES, checkpoint.preprocess))
    limit = {"fp32": 1e-5, "fp16": 1e-3}[precision]
    answers = classifier.predict(IMAGES, alpha=alpha)
    for number, finding in enumerate(checkpoint.findings.findings):
        tokens = checkpoint.tokenizer.encode([finding.positive[0], finding.negative[0]])
        with torch.inference_mode():
            out = checkpoint.model(torch.from_numpy(tokens.input_ids), pixels, torch.from_numpy(tokens.mask))
            cosine = out.image_embeds @ out.text_embeds.t()
            expected = torch.softmax((1 - alpha) * cosine + alpha * out.local_score, dim=-1)[:, 0]
        got = [answer.findings[number] for answer in answers]
        assert [each.name for each in got] == [finding.name] * len(IMAGES)
        assert np.abs(np.array([each.probability for each in got]) - expected.numpy()).max() <= limit
        attention = np.array([each.region_attention for each in got])
        assert np.abs(attention - out.region_attention[:, 0].numpy()).max() <= 100 * limit
    assert [[r.patch for r in each.regions] for each in answers] == out.region_index.tolist()
    assert [(each.height, each.width) for each in answers] == [image.shape for image in IMAGES]


def test_each_set_of_prompts_is_encoded_once(counted: tuple[ZeroShotClassifier, CountingEngine]) -> None:
    classifier, engine = counted
    others = FindingSet.from_names(["Edema", "Rib fracture"])
    for findings in (None, others, None, others):
        classifier.predict(IMAGES[:1], findings=findings)
    assert sum(size for graph, size in engine.ran if graph == "text_encoder") == 28 + 2  # "Edema" is in both


def test_no_batch_is_larger_than_the_bundle_allows(counted: tuple[ZeroShotClassifier, CountingEngine]) -> None:
    classifier, engine = counted
    most = classifier.bundle.manifest.max_batch
    answers = classifier.predict([IMAGES[3]] * (most + 3), batch_size=most + 3)
    assert [size for graph, size in engine.ran if graph == "image_encoder"] == [most, 3]
    assert np.ptp(flat(answers), axis=0).max() <= 1e-6


def test_predictions_from_features_do_not_run_the_image_encoder(
    counted: tuple[ZeroShotClassifier, CountingEngine], tmp_path: Path
) -> None:
    classifier, engine = counted
    assert classifier.predict_features([]) == []
    most = classifier.bundle.manifest.max_batch
    classifier.encode_images([IMAGES[3]] * (most + 3), batch_size=most + 3)
    assert [size for graph, size in engine.ran if graph == "image_encoder"] == [most, 3]
    # The last two files give remarks.
    images: list[ImageSource] = [
        *IMAGES,
        bundles.odd_radiograph(tmp_path / "odd.dcm"),
        bundles.radiograph(tmp_path / "noise.png"),
    ]
    features = classifier.encode_images(images)
    assert all(each.nbytes for each in features)
    others = FindingSet.from_names(["Edema", "Rib fracture"])
    for findings in (None, others):
        for alpha in (None, 0.0, 0.3, 1.0):
            expected = classifier.predict(images, findings=findings, alpha=alpha)
            engine.ran.clear()
            # Features can be used in any order and number.
            got = classifier.predict_features(features[::-1], findings, alpha)[::-1]
            (alone,) = classifier.predict_features(features[1:2], findings, alpha)
            assert "image_encoder" not in {graph for graph, _ in engine.ran}
            np.testing.assert_allclose(flat(got), flat(expected), atol=1e-6)
            np.testing.assert_allclose(flat([alone]), flat(expected[1:2]), atol=1e-6)
            # Everything else in a prediction is also equal.
            assert [replace(each, findings=()) for each in got] == [replace(each, findings=()) for each in expected]
    with pytest.raises(UsageError, match="alpha"):
        classifier.predict_features(features, alpha=2.0)


@settings(max_examples=12, deadline=None)
@given(order=st.permutations(range(len(IMAGES))), size=st.integers(1, len(IMAGES)))
def test_an_answer_does_not_depend_on_the_other_images(
    order: list[int], size: int, classifier: ZeroShotClassifier, precision: str
) -> None:
    alone = (
        flat([classifier.predict([image])[0] for image in IMAGES]) if size == 1 else flat(classifier.predict(IMAGES))
    )
    together = flat(classifier.predict([IMAGES[number] for number in order]))
    assert np.abs(together - alone[order]).max() <= {"fp32": 1e-6, "fp16": 1e-4}[precision]


def test_threads_get_the_same_answers(classifier: ZeroShotClassifier) -> None:
    expected = [classifier.predict([image]) for image in IMAGES]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda number: classifier.predict([IMAGES[number % len(IMAGES)]]), range(16)))
    assert got == [expected[number % len(IMAGES)] for number in range(16)]


def test_several_prompts_of_a_sign_are_combined(folder: Path) -> None:
    classifier = ZeroShotClassifier.from_bundle(folder)
    texts = {"positive": ["effusion", "fluid in the pleural space"], "negative": ["no effusion", "clear", "dry lungs"]}
    whole = FindingSet((Finding("Effusion", tuple(texts["positive"]), tuple(texts["negative"])),))
    # Each prompt alone, as the positive prompt of a separate finding.
    by_prompt = FindingSet(tuple(Finding(text, (text,), ("-",)) for text in (*texts["positive"], *texts["negative"])))
    for single, each in zip(
        classifier.predict(IMAGES, findings=whole), classifier.predict(IMAGES, findings=by_prompt), strict=True
    ):
        (got,) = single.findings

        def mean(sign: str, kind: str, each: Prediction = each) -> Any:
            return np.mean([getattr(each.finding(text), f"{kind}_positive") for text in texts[sign]])

        for sign in ("positive", "negative"):
            for kind in ("global", "local"):
                assert getattr(got, f"{kind}_{sign}") == pytest.approx(mean(sign, kind), abs=1e-5)
        alone = [each.finding(text) for text in texts["positive"]]
        fits = np.exp([one.local_positive / 0.07 for one in alone])
        attention = np.average([one.region_attention for one in alone], axis=0, weights=fits)
        assert np.allclose(got.region_attention, attention, atol=1e-5)
        assert sum(got.region_attention) == pytest.approx(1.0, abs=1e-5)
        gap = (1 - bundles.ALPHA) * (mean("positive", "global") - mean("negative", "global"))
        gap += bundles.ALPHA * (mean("positive", "local") - mean("negative", "local"))
        assert got.probability == pytest.approx(1 / (1 + np.exp(-gap)), abs=1e-5)


def test_boxes_of_regions_match_their_patches(folder: Path) -> None:
    classifier = ZeroShotClassifier.from_bundle(folder)
    for image, answer in zip(IMAGES, classifier.predict(IMAGES), strict=True):
        height, width = image.shape
        assert len(answer.regions) == 4
        for region in answer.regions:
            left, top, right, bottom = region.box
            assert left < right
            assert top < bottom
            # The padding of the canvas is not part of the radiograph. A box may reach into it, but not lie in it
            # entirely.
            row, column = divmod(region.patch, 7)
            middle = ((left + right) / 2, (top + bottom) / 2)
            longest = max(height, width)
            offset = ((longest - width) / 2, (longest - height) / 2)
            # Boxes are clipped to the image, so the centre is compared only for patches inside.
            if left > 0 and right < width and top > 0 and bottom < height:
                assert middle[0] == pytest.approx((column + 0.5) / 7 * longest - offset[0], abs=longest / 100)
                assert middle[1] == pytest.approx((row + 0.5) / 7 * longest - offset[1], abs=longest / 100)


def test_splitting_pairs_into_batches_does_not_change_answers(
    counted: tuple[ZeroShotClassifier, CountingEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, engine = counted
    expected = classifier.predict(IMAGES)
    engine.ran.clear()
    prompts = classifier.prompt_cache.features(FindingSet.default().prompts).mask.shape
    rows = prompts[0] * (1 + len(expected[0].regions) + prompts[1])
    monkeypatch.setattr("lrclr.inference._network.FUSION_ROWS", 3 * rows - 1)
    assert np.allclose(flat(classifier.predict(IMAGES)), flat(expected), atol=1e-6)
    # 28 prompts: two images at once.
    assert [size for graph, size in engine.ran if graph == "fusion_head"] == [2, 2]


def test_groups_of_prompts_give_the_answers_of_one_call(
    counted: tuple[ZeroShotClassifier, CountingEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine on a processor runs the fusion head once for each group of prompts of similar lengths."""
    classifier, engine = counted
    expected = classifier.answer_pixels(preprocess_batch(IMAGES, classifier.spec.preprocess))
    assert [size for graph, size in engine.ran if graph == "fusion_head"] == [len(IMAGES)]
    engine.ran.clear()
    monkeypatch.setattr(engine, "tokens_of_call", 1, raising=False)
    answers = classifier.answer_pixels(preprocess_batch(IMAGES, classifier.spec.preprocess))
    lengths = classifier.prompt_cache.features(FindingSet.default().prompts).mask.sum(1)
    assert len([graph for graph, _ in engine.ran if graph == "fusion_head"]) == len(set(lengths.tolist())) > 3
    for name in answers.present():
        assert np.allclose(getattr(answers, name), getattr(expected, name), atol=1e-6), name


def test_no_run_has_more_prompts_or_tokens_than_the_limits(
    counted: tuple[ZeroShotClassifier, CountingEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, engine = counted
    expected = classifier.predict(IMAGES[:1])
    classifier.prompt_cache.clear()
    engine.ran.clear()
    monkeypatch.setattr("lrclr.inference._network.RUN_PROMPTS", 5)
    assert np.allclose(flat(classifier.predict(IMAGES[:1])), flat(expected), atol=1e-6)
    sizes = [size for graph, size in engine.ran if graph == "text_encoder"]
    assert (sum(sizes), max(sizes)) == (28, 5)
    assert [size for graph, size in engine.ran if graph == "fusion_head"] == [1] * 6
    classifier.prompt_cache.clear()
    engine.ran.clear()
    monkeypatch.setattr("lrclr.inference._network.TEXT_TOKENS", 1)
    assert np.allclose(flat(classifier.predict(IMAGES[:1])), flat(expected), atol=1e-6)
    assert [size for graph, size in engine.ran if graph == "text_encoder"] == [1] * 28


_MANY_PROMPTS = """
import resource, sys
import numpy as np
from lrclr import FindingSet, ZeroShotClassifier
classifier = ZeroShotClassifier.from_bundle(sys.argv[1], threads=1)
pixels = np.zeros((2, 3, 112, 112), np.float32)
classifier.predict_pixels(pixels, [(9, 9)] * 2)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]) * 2**20,) * 2)
names = [f"finding {number}" + " of the left lung" * (number % 8) for number in range(500)]
(first, _) = classifier.predict_pixels(pixels, [(9, 9)] * 2, FindingSet.from_names(names))
print(len(first.findings))
"""


def test_a_thousand_prompts_take_bounded_memory(folder: Path) -> None:
    # They take 50 MiB. In one call a graph they took 410.
    command = [bundles.PYTHON, "-c", _MANY_PROMPTS, str(folder), "200"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "500", done.stderr


def test_a_prompt_is_encoded_once_for_all_sets(counted: tuple[ZeroShotClassifier, CountingEngine]) -> None:
    classifier, engine = counted
    names = ["Edema", "Pneumothorax", "A longer name of a finding"]
    expected = [flat(classifier.predict(IMAGES, findings=FindingSet.from_names([name]))) for name in names]
    engine.ran.clear()
    together = classifier.predict(IMAGES, findings=FindingSet.from_names(names))
    assert "text_encoder" not in [graph for graph, _ in engine.ran]
    for place, values in enumerate(expected):
        alone = [replace(each, findings=each.findings[place : place + 1]) for each in together]
        assert np.allclose(flat(alone), values, atol=1e-6)
    assert (classifier.prompt_cache.hits, classifier.prompt_cache.misses) == (6, 6)


def test_an_untrained_head_is_not_used(folder: Path, tmp_path: Path) -> None:
    untrained = bundles.copied(folder, tmp_path / "bundle")
    manifest = Bundle(untrained).manifest
    scoring = {**manifest.scoring, "fusion_trained": False, "alpha": 0.0}
    (untrained / "manifest.json").write_text(replace(manifest, scoring=scoring).to_json())
    classifier, trained = ZeroShotClassifier.from_bundle(untrained), ZeroShotClassifier.from_bundle(folder)
    with pytest.raises(UsageError, match=r"alpha is 0\.3, but .* not trained"):
        classifier.predict(IMAGES[:1], alpha=0.3)
    for alpha in (None, 0.0):
        (answer,) = classifier.predict(IMAGES[:1], alpha=alpha)
        assert (answer.alpha, answer.fusion_trained) == (0.0, False)
        assert answer.findings == trained.predict(IMAGES[:1], alpha=0.0)[0].findings


def test_invalid_requests_are_refused(folder: Path, tmp_path: Path) -> None:
    classifier = ZeroShotClassifier.from_bundle(folder)
    assert classifier.predict([]) == []
    side = classifier.bundle.preprocess.image_size
    with pytest.raises(ImageError, match="NaN"):
        classifier.predict_pixels(np.full((1, 3, side, side), np.nan, np.float32), [(9, 9)])
    with pytest.raises(ImageError, match="expected"):
        classifier.predict_pixels(np.zeros((1, 1, side, side), np.float32), [(9, 9)])
    with pytest.raises(UsageError, match="between 0 and 1"):
        classifier.predict(IMAGES[:1], alpha=-0.1)
    with pytest.raises(FindingsError, match="token"):
        classifier.predict(
            IMAGES[:1], findings=FindingSet.from_names(["-".join("opacity" for _ in range(24))], positive=("{} {} {}",))
        )


@pytest.mark.parametrize("graph", ["image_encoder", "text_encoder", "fusion_head"])
def test_an_engine_that_gives_nan_is_an_error(graph: str, folder: Path) -> None:
    plain = ZeroShotClassifier.from_bundle(folder)
    with pytest.raises(NonFiniteError, match=graph):
        ZeroShotClassifier(plain.bundle, CountingEngine(plain.engine, spoiled=graph)).predict(IMAGES[:1])


@given(data=st.data(), images=st.integers(1, 4), scale=st.floats(0.1, 100))
def test_probabilities_are_a_softmax_over_the_mean_of_each_sign(data: st.DataObject, images: int, scale: float) -> None:
    findings = FindingSet.loads(
        '[[finding]]\nname = "a"\npositive = ["p", "q"]\n[[finding]]\nname = "b"\nnegative = ["q", "r", "s"]\n'
    )
    count = len(findings.prompts)
    values = data.draw(st.lists(st.floats(-1, 1, width=32), min_size=images * count, max_size=images * count))
    score = np.array(values, np.float32).reshape(images, count)
    got = ScoreCalibration(scale).probabilities(score, findings, findings)
    column = {prompt: score[:, number].astype(np.float64) for number, prompt in enumerate(findings.prompts)}
    for number, finding in enumerate(findings.findings):
        positive = np.mean([column[prompt] for prompt in finding.positive], axis=0) * scale
        negative = np.mean([column[prompt] for prompt in finding.negative], axis=0) * scale
        expected = np.exp(positive) / (np.exp(positive) + np.exp(negative))
        assert np.allclose(got[:, number], expected, atol=1e-5)


def test_names_instead_of_findings_are_refused(folder: Path) -> None:
    names: Any = ["Edema"]
    with pytest.raises(UsageError, match=r"findings is not a FindingSet.*from_names"):
        ZeroShotClassifier.from_bundle(folder).predict(IMAGES[:1], findings=names)


def test_a_nan_local_score_with_weight_zero_is_ignored() -> None:
    score = combined_score(np.ones((1, 2), np.float32), np.full((1, 2), np.nan, np.float32), 0.0)
    assert score.tolist() == [[1.0, 1.0]]


def test_graphs_are_found_after_a_change_of_the_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    relative = ZeroShotClassifier.from_bundle(folder.name)
    monkeypatch.chdir(tmp_path)
    images = sample_paths()[:1]
    assert relative.predict(images) == ZeroShotClassifier.from_bundle(folder).predict(images)


@pytest.mark.parametrize("threads", [0, 2.5, 10**9])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_number_of_threads_that_cannot_be_used_is_refused_at_once(folder: Path, engine: str, threads: Any) -> None:
    with pytest.raises(UsageError, match="threads"):
        ZeroShotClassifier.from_bundle(folder, engine=engine, threads=threads)

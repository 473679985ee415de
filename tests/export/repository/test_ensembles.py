"""Ensembles: several checkpoints in one bundle, whose probability is the mean of their probabilities."""

from __future__ import annotations

import copy
import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lrclr import Bundle, ZeroShotClassifier
from lrclr.bundle import MANIFEST, Manifest

# Private: how the command names members.
from lrclr.cli._export import _member_names
from lrclr.engines import CPU_ENGINES, EngineOptions, MemberEngines, engines_of, open_named_engine
from lrclr.errors import BundleError, NotSupportedError, UsageError
from lrclr.inference import Answers, ModelSpec, finding_scores, global_score

# Private: the function that a mutant replaces.
from lrclr.inference._ensemble import averaged
from lrclr.samples import sample_paths
from lrclr.text import Finding, FindingSet
from lrclr.verification import Tolerances, verify
from lrclr_export import ExportOptions, Member, build_bundle, export_ensemble
from lrclr_export.progress import NO_PROGRESS
from lrclr_export.repository.ensemble import _check_alike
from tests import bundles
from tests.kept_exports import exporting_once

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from lrclr.checkpoints import Checkpoint

    Capture = pytest.CaptureFixture[str]

FP32 = ExportOptions("fp32")
LIMIT = Tolerances.for_precision("fp32").probability_error
# The bundle gives the regions of the second member.
LEAD = 1


@pytest.fixture(scope="module")
def base(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="module")
def folder(base: Path) -> Path:
    """A bundle with the members ``one`` and ``other``. Shared: copy it before changing it."""
    return bundles.exported_ensemble(base)


@pytest.fixture(scope="module")
def checkpoints(base: Path) -> list[Checkpoint]:
    from lrclr.checkpoints import load_checkpoint

    return [bundles.checkpoint(base), load_checkpoint(bundles.other_checkpoint_folder(base))]


@pytest.fixture(scope="module")
def ensemble(folder: Path) -> ZeroShotClassifier:
    return ZeroShotClassifier.from_bundle(folder)


@pytest.fixture(scope="module")
def pixels(ensemble: ZeroShotClassifier) -> NDArray[np.float32]:
    side = ensemble.spec.preprocess.image_size
    return np.random.default_rng(3).standard_normal((3, 3, side, side)).astype(np.float32)


@pytest.mark.parametrize("alpha", [None, 0.0, 1.0])
@pytest.mark.parametrize("own", [True, False], ids=["own findings", "other findings"])
def test_the_probability_is_the_mean_of_the_members_in_torch(
    ensemble: ZeroShotClassifier,
    checkpoints: list[Checkpoint],
    pixels: NDArray[np.float32],
    alpha: float | None,
    own: bool,
) -> None:
    findings = None if own else FindingSet((Finding("Edema"), Finding("Device", ("a wire", "a tube"), ("nothing",))))
    expected = [ZeroShotClassifier.from_checkpoint(each).answer_pixels(pixels, findings, alpha) for each in checkpoints]
    answers = ensemble.answer_pixels(pixels, findings, alpha)
    probabilities = np.stack([each.probability for each in expected])
    assert np.ptp(probabilities, axis=0).min() > 0
    np.testing.assert_allclose(answers.probability, probabilities.mean(0), rtol=0, atol=LIMIT)
    assert answers.probability_spread is not None
    np.testing.assert_allclose(answers.probability_spread, probabilities.std(0), rtol=0, atol=LIMIT)
    # Everything else comes from one member.
    np.testing.assert_array_equal(answers.region_index, expected[LEAD].region_index)
    for name in set(Answers.names()) - {"probability", "region_index"}:
        np.testing.assert_allclose(getattr(answers, name), getattr(expected[LEAD], name), rtol=0, atol=1e-4)


def test_what_a_user_sees_of_an_ensemble(folder: Path, capsys: Capture) -> None:
    image = sample_paths()[0]
    ensemble = ZeroShotClassifier.from_bundle(folder)
    (prediction,) = ensemble.predict([image])
    record = prediction.to_dict()["findings"][0]
    assert record["probability_spread"] > 0
    shown = f"{record['probability']:.1%} ± {record['probability_spread']:.1%}"
    assert shown in bundles.call("predict", image, "-b", folder).stdout
    # The images are not read first.
    with pytest.raises(NotSupportedError, match="an ensemble has no embeddings"):
        ensemble.embed_images([b"no image"])
    with pytest.raises(NotSupportedError, match="an ensemble has no embeddings"):
        ensemble.embed_texts(["edema"])
    assert ensemble.members[0].embed_texts(["edema"]).shape[0] == 1


def test_members_are_verified_and_so_is_the_mean(folder: Path) -> None:
    bundle = Bundle(folder)
    report = verify(bundle, open_named_engine(bundle))
    report.require()
    subjects = [gate.subject for gate in report.gates]
    assert subjects.count("mean probabilities") == 1
    for name in ("one", "other"):
        assert f"{name}: image_encoder.image_embedding" in subjects
    assert [gate["subject"] for gate in bundle.manifest.gates] == ["mean probabilities"]
    assert len(bundle.manifest.all_gates) == 1 + sum(len(each.gates) for each in bundle.manifest.members)
    assert all("probabilities" in {gate["subject"] for gate in each.gates} for each in bundle.manifest.members)


def _of_mean_embeddings(
    whole: ZeroShotClassifier, answers: list[Answers], images: list[NDArray[np.float32]]
) -> NDArray[Any]:
    def mean_of(rows: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        mean = np.mean(rows, axis=0)
        unit: NDArray[np.float32] = (mean / np.linalg.norm(mean, axis=-1, keepdims=True)).astype(np.float32)
        return unit

    findings, alpha = whole.spec.findings, whole.spec.alpha
    texts = [member.prompt_cache.features(findings.prompts).embedding for member in whole.members]
    positive, negative = finding_scores(global_score(mean_of(images), mean_of(texts)), findings)
    gaps = [
        (1 - alpha) * (positive - negative) + alpha * (each.local_positive - each.local_negative) for each in answers
    ]
    probability: NDArray[Any] = np.mean([1 / (1 + np.exp(-gap)) for gap in gaps], axis=0)
    return probability


def _of_the_lead(whole: ZeroShotClassifier, answers: list[Answers], images: object) -> NDArray[Any]:
    return answers[whole.lead].probability


def _weighted(whole: ZeroShotClassifier, answers: list[Answers], images: object) -> NDArray[Any]:
    return np.average([each.probability for each in answers], axis=0, weights=[0.501, 0.499])


def _largest(whole: ZeroShotClassifier, answers: list[Answers], images: object) -> NDArray[Any]:
    probability: NDArray[Any] = np.max([each.probability for each in answers], axis=0)
    return probability


@pytest.mark.parametrize("mutant", [_of_mean_embeddings, _of_the_lead, _weighted, _largest])
def test_the_gate_of_the_mean_refuses_another_combination(
    folder: Path, monkeypatch: pytest.MonkeyPatch, mutant: Callable[..., NDArray[Any]]
) -> None:
    bundle = Bundle(folder)
    engine = open_named_engine(bundle)
    # The gates of the members pass in any case.
    monkeypatch.setattr("lrclr.verification._verify._verify_network", lambda *_: ([], [], {}))
    assert verify(bundle, engine).passed

    def answer_pixels(self: ZeroShotClassifier, pixels: NDArray[np.float32], *rest: Any) -> Answers:
        answers = self.answer_members(pixels, *rest)
        if len(answers) == 1:
            return answers[0]
        images = [each.run("image_encoder", {"pixel_values": pixels})["image_embedding"] for each in engines_of(engine)]
        return replace(averaged(answers, self.lead), probability=mutant(self, answers, images))

    monkeypatch.setattr(ZeroShotClassifier, "answer_pixels", answer_pixels)
    (refused,) = verify(bundle, engine).refused
    assert refused.subject == "mean probabilities"
    if mutant is _of_mean_embeddings:
        # The difference is so large that float16 cannot hide it from a gate.
        assert refused.value > 2 * Tolerances.for_precision("fp16").probability_error


def _other_findings(checkpoint: Checkpoint) -> Checkpoint:
    first, *rest = checkpoint.findings.findings
    return checkpoint.changed(findings=FindingSet((replace(first, negative=("clear lungs",)), *rest)))


def _other_alpha(checkpoint: Checkpoint) -> Checkpoint:
    changed = copy.deepcopy(checkpoint)
    changed.config.fusion_trained, changed.config.alpha = True, 0.9
    return changed


def _other_tokenizer(checkpoint: Checkpoint) -> Checkpoint:
    from lrclr.text import ClipTokenizer

    class Shorter(ClipTokenizer):
        context_length = 20

    tokenizer = checkpoint.tokenizer
    shorter = Shorter.__new__(Shorter)
    shorter.__dict__.update({key: value for key, value in vars(tokenizer).items() if key != "context_length"})
    return replace(checkpoint, tokenizer=shorter)


DIFFERENCES: dict[str, tuple[Callable[[Checkpoint], Checkpoint], str]] = {
    "preprocessing": (
        lambda one: replace(one, preprocess=type(one.preprocess).clip(one.preprocess.image_size)),
        "preprocessing: .*mean",
    ),
    "prompts": (_other_findings, "findings: Atelectasis .*clear lungs"),
    "order of findings": (
        lambda one: one.changed(findings=FindingSet(one.findings.findings[::-1])),
        "findings: their order",
    ),
    "alpha": (_other_alpha, "scoring: alpha .*one alpha"),
    "tokenizer": (_other_tokenizer, r"tokenizer: context_length \(.*, 20\)"),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_checkpoints_that_differ_are_refused_before_an_export(
    checkpoints: list[Checkpoint], tmp_path: Path, name: str
) -> None:
    change, message = DIFFERENCES[name]
    changed = change(checkpoints[1])
    members = [Member("a", lambda: checkpoints[0]), Member("b", lambda: changed)]
    with pytest.raises(UsageError, match=f"a and b cannot be one ensemble: they differ in {message}"):
        export_ensemble(members, tmp_path / "bundle", FP32)
    assert list(tmp_path.iterdir()) == []


def test_members_may_have_a_scale_of_their_own(checkpoints: list[Checkpoint]) -> None:
    changed = copy.deepcopy(checkpoints[1])
    changed.config.score_scale, changed.config.score_threshold, changed.config.score_bias = 14.0, 0.1, -2.0
    _check_alike([Member("a", lambda: checkpoints[0]), Member("b", lambda: changed)], NO_PROGRESS)


def test_wrong_members(checkpoints: list[Checkpoint], tmp_path: Path) -> None:
    one, other = Member("a", lambda: checkpoints[0]), Member("b", lambda: checkpoints[1])
    # As from a file of another format.
    copy = replace(checkpoints[0], sha256="0" * 64)
    for members, regions_from, message in (
        ([one], None, "at least two"),
        ([one, replace(other, name="a")], None, "same name"),
        ([one, other], "c", "no member is named 'c'"),
        ([one, replace(other, name="b\x1b[31m")], None, r"'b\\x1b\[31m' cannot be the name"),
        ([one, replace(one, name="again")], None, "a and again have the same weights"),
        ([one, Member("copy", lambda: copy)], None, "a and copy have the same weights"),
        ([replace(one, name=f"a{number}") for number in range(65)], None, "cannot have 65 members"),
    ):
        with pytest.raises(UsageError, match=message):
            export_ensemble(members, tmp_path / "bundle", FP32, regions_from=regions_from)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_interrupted_export_leaves_what_was_there(
    checkpoints: list[Checkpoint], folder: Path, tmp_path: Path
) -> None:
    old = bundles.copied(folder, tmp_path / "bundle")
    before = bundles.digests(old)
    reads = iter(checkpoints[1:])

    def read() -> Checkpoint:
        for checkpoint in reads:
            return checkpoint
        raise KeyboardInterrupt

    with exporting_once(), pytest.raises(KeyboardInterrupt):
        export_ensemble([Member("a", lambda: checkpoints[0]), Member("b", read)], old, FP32)
    assert bundles.digests(old) == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_damaged_member_is_refused(folder: Path, tmp_path: Path) -> None:
    bundles.flip(bundles.copied(folder, tmp_path / "flipped") / "m2_text_encoder" / "1" / "model.onnx")
    with pytest.raises(BundleError, match=r"m2_text_encoder/1/model\.onnx was changed"):
        Bundle(tmp_path / "flipped")
    # The graphs of two members are exchanged, and the table of files is written again: only the gates find it.
    swapped = bundles.copied(folder, tmp_path / "swapped")
    one, two, aside = (swapped / f"{name}_image_encoder" for name in ("m1", "m2", "aside"))
    one.rename(aside)
    two.rename(one)
    aside.rename(two)
    bundle = Bundle(bundles.signed(swapped))
    report = verify(bundle, open_named_engine(bundle))
    assert {gate.subject.partition(":")[0] for gate in report.refused} == {"one", "other"}


def _exchanged(members: list[dict[str, Any]]) -> None:
    members.reverse()


def _without(members: list[dict[str, Any]]) -> None:
    del members[0]


def _renamed(members: list[dict[str, Any]]) -> None:
    members[1]["name"] = members[0]["name"]


def _with_escapes(members: list[dict[str, Any]]) -> None:
    members[0]["name"] = "one\x1b[31m"


def _with_a_long_name(members: list[dict[str, Any]]) -> None:
    members[0]["name"] = "one" * 100


def _elsewhere(members: list[dict[str, Any]]) -> None:
    members[1]["manifest"]["triton"] = {"prefix": "m1_", "version": 1}


def _with_files(members: list[dict[str, Any]]) -> None:
    members[0]["manifest"]["files"] = {"../x": {"sha256": "0" * 64, "bytes": 1}}


def _nested(members: list[dict[str, Any]]) -> None:
    members[0]["manifest"]["ensemble"] = {"regions_from": "one", "members": []}


def _other_lead(members: list[dict[str, Any]]) -> None:
    members[LEAD]["manifest"]["checkpoint"] = {"source": "x", "sha256": "0" * 64}


def _other_scoring(members: list[dict[str, Any]]) -> None:
    members[0]["manifest"]["scoring"]["alpha"] = 0.9


def _not_a_manifest(members: list[dict[str, Any]]) -> None:
    members[0]["manifest"]["max_batch"] = "many"


@pytest.mark.parametrize(
    "forge",
    [
        _exchanged, _without, _renamed, _with_escapes, _with_a_long_name, _elsewhere, _with_files, _nested, _other_lead,
        _other_scoring, _not_a_manifest,
    ],
)  # fmt: skip
def test_a_forged_ensemble_is_refused(folder: Path, forge: Callable[[list[dict[str, Any]]], None]) -> None:
    import copy

    manifest = copy.deepcopy(Manifest.from_json((folder / MANIFEST).read_text()))
    assert manifest.ensemble is not None
    forge(manifest.ensemble["members"])  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="manifest is damaged"):
        Manifest.from_json(manifest.to_json())


def test_one_hash_covers_all_members(folder: Path) -> None:
    bundle = Bundle(folder)
    assert {member.sha256 for member in bundle.members} == {bundle.sha256}
    assert [ModelSpec.of_bundle(member).checkpoint_sha256 for member in bundle.members] != [
        bundle.manifest.checkpoint["sha256"]
    ] * 2
    graphs = {f"m{number}_{graph}/1/model.onnx" for number in (1, 2) for graph in bundle.manifest.graphs}
    assert graphs | {"m1_golden.npz", "m2_golden.npz"} <= bundle.manifest.files.keys()


class _Meeting:
    """An engine that answers when a graph is run by as many threads as the ensemble has members."""

    @property
    def name(self) -> str:
        return "meeting"

    def __init__(self, engine: Any, barrier: threading.Barrier) -> None:
        self._engine, self._barrier = engine, barrier

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self._barrier.wait(timeout=60)
        outputs: dict[str, NDArray[Any]] = self._engine.run(graph, inputs)
        return outputs


def test_a_server_runs_all_members_at_once(
    folder: Path, ensemble: ZeroShotClassifier, pixels: NDArray[np.float32]
) -> None:
    bundle, barrier = Bundle(folder), threading.Barrier(2)
    engines = [_Meeting(each, barrier) for each in engines_of(open_named_engine(bundle))]
    together = ZeroShotClassifier(bundle, MemberEngines(engines, LEAD, at_once=True))
    answers, expected = together.answer_pixels(pixels), ensemble.answer_pixels(pixels)
    np.testing.assert_array_equal(answers.probability, expected.probability)


def test_names_of_members(tmp_path: Path) -> None:
    files = [tmp_path / folder / "best_64_5e-05_22000_0.864.pt" for folder in "ab"]
    for file in files:
        file.parent.mkdir()
        file.touch()
    assert _member_names([*files, tmp_path / "a"]) == ["best_64_5e-05_22000_0.864", "best_64_5e-05_22000_0.864-2", "a"]


def test_an_archive_is_scored_by_the_mean(folder: Path, ensemble: ZeroShotClassifier, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    (tmp_path / "images").mkdir()
    image = bundles.radiograph(tmp_path / "images" / "a.png")
    done = bundles.call("score", tmp_path / "images", "-b", folder, "-o", tmp_path / "scores")
    assert done.returncode == 0, done.stderr
    refused = bundles.call("score", tmp_path / "images", "-b", folder, "-o", tmp_path / "other", "--embeddings")
    assert (refused.returncode, "an ensemble has no embeddings" in refused.stderr) == (2, True)
    assert not (tmp_path / "other").exists()
    (row,) = pq.read_table(tmp_path / "scores").to_pylist()
    (prediction,) = ensemble.predict([image])
    assert row["probability"] == pytest.approx([each.probability for each in prediction.findings], abs=1e-6)
    spread = [each.probability_spread for each in prediction.findings]
    assert min(row["probability_spread"]) > 0
    assert row["probability_spread"] == pytest.approx(spread, abs=1e-6)
    # Nothing is done again, and a part with the column is one that lrclr knows.
    again = bundles.call("score", tmp_path / "images", "-b", folder, "-o", tmp_path / "scores", "--json")
    assert (json.loads(again.stdout)["scored"], pq.read_table(tmp_path / "scores").to_pylist()) == (0, [row])
    # `lrclr drift` takes the rows as those of any bundle, and asks for more of them.
    compared = bundles.call("drift", tmp_path / "scores", tmp_path / "scores")
    assert "1 of its images have scores" in compared.stderr


@pytest.mark.slow
def test_export_build_and_verify_as_a_user_does(base: Path, tmp_path: Path) -> None:
    one, other = bundles.checkpoint_folder(base), bundles.other_checkpoint_folder(base)
    target = tmp_path / "bundle"
    with exporting_once():
        made = bundles.call(
            "export", one, other, "-o", target, "--fp32", "--regions-from", other.name, "--name-prefix", "x-"
        )
    assert made.returncode == 0, made.stderr
    assert f"members: {one.name}, {other.name}; regions" in made.stderr
    assert bundles.call("verify", target).returncode == 0
    assert bundles.call("export", one, "-o", target, "--regions-from", "a").returncode == 2
    for engine in reversed(CPU_ENGINES):
        built = build_bundle(target, engine)
        assert {member.manifest.engine["name"] for member in built.members} == {engine}
        assert verify(built, open_named_engine(built, EngineOptions())).passed

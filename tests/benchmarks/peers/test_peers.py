"""The peers' machinery, on tiny weights, with those peers that need no environment of their own."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from benchmarks.peers import catalogue, environments, prepare
from benchmarks.peers.catalogue import BASELINE, PEERS, RANDOM, ours
from benchmarks.peers.client import PeerError, Worker
from benchmarks.peers.findings import rows_of
from benchmarks.peers.quality import quality, wrong
from benchmarks.peers.rounds import Group, Plan, measure
from benchmarks.peers.table import markdown
from benchmarks.peers.weights import checkpoint_named, inputs_of, write_bundle, write_clip, write_weights
from lrclr import ZeroShotClassifier
from lrclr.checkpoints import default_checkpoint, init_checkpoint, load_checkpoint
from lrclr.engines import ENGINES

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.peers.catalogue import Candidate

ROUNDS = {"image/1": 2, "image/8": 2, "text/1": 2, "answer/1": 2, "answer-new/1": 2}
OURS, PIPELINE, STALE = "lrclr, torch fp32", "transformers pipeline", "stale"
MEMBERS = (BASELINE, OURS, PIPELINE, STALE)


def named(name: str) -> Candidate:
    stale = catalogue.Candidate(STALE, "fp32", "torch_clip", {"attention": "sdpa", "weights": "stale"})
    return next(one for one in (*PEERS, *ours(), stale) if one.name == name)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, quiet_transformers: None) -> Plan:
    """Tiny weights in the formats that need no export, and other weights beside them."""
    plan = Plan(ROUNDS, 1, tmp_path_factory.mktemp("peers"))
    folder = plan.folder(RANDOM)
    write_weights(init_checkpoint("tiny", preprocess="clip", score_scale=14.3), folder)
    write_clip(init_checkpoint("tiny", preprocess="clip", seed=1), folder / "stale", 14.3)
    np.savez(folder / "reference.npz", **prepare.reference(folder))
    return plan


@pytest.fixture(scope="module")
def group(plan: Plan) -> Group:
    """Two rounds in turns."""
    group = Group({"checkpoint": RANDOM, "candidates": list(MEMBERS)})
    assert measure(group, plan.build / "group.json", [named(name) for name in MEMBERS], plan, note=lambda _: None)
    return group


@pytest.mark.slow
def test_graphs_and_bundles_compute_the_same(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = plan.folder(RANDOM)
    assert write_bundle(init_checkpoint("tiny", preprocess="clip", score_scale=14.3), folder, "fp32") == ""
    plain = next(one for one in PEERS if one.name == "torch.onnx, ONNX Runtime")
    # A peer that reads the plain graphs is enough to have them made.
    monkeypatch.setattr(prepare, "_STEPS", ("plain_onnx",))
    made = prepare.formats([named("OpenVINO straight, f32")], [RANDOM], plan, print)
    assert "failed" not in made[f"plain_onnx {RANDOM}"]
    members = [named(BASELINE), plain, named("lrclr, onnxruntime fp32")]
    group = Group({"checkpoint": RANDOM, "candidates": [one.name for one in members]})
    assert measure(group, plan.build / "graphs.json", members, plan, note=lambda _: None)
    assert group.failed == {}
    for one in members[1:]:
        assert group.quality[one.name]["image.centred_cosine"] > 0.9999
        assert group.quality[one.name]["text.centred_cosine"] > 0.9999
    assert group.quality["lrclr, onnxruntime fp32"]["regions.equal"] > 0.9


def report_of(*groups: Group) -> dict[str, Any]:
    known = {
        name: {
            "precision": named(name).precision,
            "ours": named(name).ours,
            "commands": [],
            "cannot": ["nothing but this"],
            "environment": "",
            "adapter": named(name).adapter,
            "disk": {"mb": 1, "packages": 1, "versions": {"torch": "2.13.0"}},
        }
        for name in MEMBERS
    }
    env = {"processor": "p", "fp32_gemm_gflops": 1, "threads": 1, "system": "s", "python": "3", "torch": "2"}
    return {
        "groups": [group.__dict__ for group in groups],
        "candidates": known,
        "environment": {**env, "onnxruntime": "1"},
        "environments": {},
        "formats": {},
        "cold": {BASELINE: {"seconds": [1.0, 3.0, 2.0], "offline": "yes", "failed": ""}},
        "finished": True,
        "unavailable": {"clip-server": "it pins what is not to be had"},
    }


@pytest.mark.slow
def test_everyone_computes_the_same(group: Group) -> None:
    assert group.failed == {}
    for name in (BASELINE, OURS, PIPELINE):
        assert wrong(group.quality[name]) == []
    ours_quality = group.quality[OURS]
    assert ours_quality["image.centred_cosine"] > 0.9999
    assert ours_quality["text.centred_cosine"] > 0.9999
    assert ours_quality["regions.equal"] > 0.9
    # The pipeline begins at a picture and ends at shares over all prompts: all of its way is right.
    assert group.quality[PIPELINE]["probability.error"] < 1e-3


@pytest.mark.slow
def test_rounds_are_complete_and_idle_ones_rest(group: Group) -> None:
    assert {work: len(taken) for work, taken in group.rounds.items()} == ROUNDS
    assert all(set(one) == {BASELINE, OURS, STALE} for one in group.rounds["image/1"])
    assert all(set(one) == set(MEMBERS) for one in group.rounds["answer-new/1"])
    assert all(seconds > 0 for taken in group.rounds.values() for one in taken for seconds in one.values())
    assert set(group.idle_share) == set(MEMBERS)


@pytest.mark.slow
def test_other_weights_show_as_wrong_and_never_as_a_gap(group: Group) -> None:
    fast = Group(**{**group.__dict__, "rounds": {"image/1": [{BASELINE: 3.0, OURS: 2.0, STALE: 0.1}] * 4}})
    rows = {row.name: row for row in rows_of([fast.__dict__], report_of()["candidates"], RANDOM)}
    assert rows[STALE].wrong
    assert rows[STALE].ahead == {}
    page = markdown(report_of(fast))
    assert f"{STALE} **WRONG: image c" in page
    assert "at no work that was measured is a peer ahead" in page


@pytest.mark.slow
def test_a_faster_peer_is_an_open_gap(group: Group) -> None:
    right = {**group.quality, STALE: group.quality[BASELINE]}
    rounds = {
        "image/1": [{BASELINE: 4.0, OURS: 2.0, STALE: 1.0 + 0.1 * number} for number in range(4)],
        # Rounds decide who is first: level.
        "image/8": [{BASELINE: 4.0, OURS: 2.0, STALE: seconds} for seconds in (1.0, 1.5, 3.0, 3.0)],
        "text/1": [{BASELINE: 4.0, OURS: 2.0, STALE: 3.0}] * 4,
    }
    faster = Group(**{**group.__dict__, "rounds": rounds, "quality": right})
    (row,) = (one for one in rows_of([faster.__dict__], report_of()["candidates"], RANDOM) if one.name == STALE)
    assert set(row.ahead) == {"image/1"}
    assert row.ahead["image/1"][0] == pytest.approx(2.0 / 1.15, rel=0.01)
    page = markdown(report_of(faster))
    assert f"- {RANDOM}, image, batch 1: **{STALE}**, 1.7" in page
    assert page.count("**◀**") == 2  # what it means, and the cell


@pytest.mark.slow
def test_the_page_has_everything(group: Group) -> None:
    page = markdown(report_of(group))
    assert "ended early" not in page
    assert "ended early" in markdown({**report_of(group), "finished": False})
    for name in MEMBERS:
        assert page.count(f"| {name} ") >= 2
    assert "2.0 (1.0–3.0)" in page
    assert "- clip-server: it pins what is not to be had" in page
    assert "nothing but this" in page


@pytest.mark.slow
def test_goes_on_where_it_was_cut_off(plan: Plan) -> None:
    file, key = plan.build / "cut.json", {"checkpoint": RANDOM, "candidates": [BASELINE, OURS]}
    members = [named(BASELINE), named(OURS)]
    few = Plan({"image/1": 1}, plan.threads, plan.build)
    assert not measure(Group(key), file, members, few, until=time.monotonic() - 1)
    first = Group(key)
    assert measure(first, file, members, few)
    kept = Group.load(file, key)
    assert kept.rounds == first.rounds
    kept.finished = False
    more = Plan({"image/1": 2}, plan.threads, plan.build)
    assert measure(kept, file, members, more)
    assert kept.rounds["image/1"][:1] == first.rounds["image/1"]
    assert len(kept.rounds["image/1"]) == 2
    assert Group.load(file, {**key, "threads": 7}).rounds == {}


def test_a_peer_that_fails_says_why(plan: Plan) -> None:
    log = plan.build / "log"
    absent = catalogue.Candidate("absent", "fp32", "faster_clip")
    with pytest.raises(PeerError) as caught:
        Worker(absent, environments.python_of(plan.environments, absent), plan.folder(RANDOM), threads=1, log=log)
    assert "No module named 'faster_clip'" in str(caught.value.why)
    baseline = named(BASELINE)
    with Worker(baseline, environments.python_of(plan.build, baseline), plan.folder(RANDOM), threads=1, log=log) as one:
        with pytest.raises(PeerError, match="failed") as at_work:
            one.seconds("image", 5)
        assert "KeyError" in str(at_work.value.why)
        assert len(one.seconds("image", 1, 3)) == 3


def test_lrclr_follows_its_engines_and_precisions() -> None:
    found = {(one.options["engine"], one.options["precision"]) for one in ours()}
    assert found == {("torch", "fp32")} | {(engine, one) for engine in ENGINES for one in catalogue.precisions()}
    assert set(catalogue.precisions()) >= {"fp32", "fp16"}


def test_the_default_checkpoint_keeps_its_function(quiet_transformers: None) -> None:
    own, moved = load_checkpoint(default_checkpoint()), checkpoint_named("default")
    pixels = inputs_of(own).pixel_values[:2]
    answers = [ZeroShotClassifier.from_checkpoint(one).answer_pixels(pixels) for one in (own, moved)]
    assert np.array_equal(answers[0].probability, answers[1].probability)
    assert moved.config.text_config.eos_token_id == moved.config.text_config.vocab_size - 1


def test_a_peer_that_failed_is_not_counted_as_behind() -> None:
    def gaps(*failed: str) -> str:
        rounds = {"image/1": [{name: 1.0 for name in MEMBERS if name not in failed} | {OURS: 0.5}] * 3}
        group = Group({"checkpoint": RANDOM, "candidates": list(MEMBERS)}, rounds, dict.fromkeys(failed, "pip refused"))
        return markdown(report_of(group)).split("## Open gaps")[1].split("## Set-up")[0]

    assert f"None: {STALE}, {PIPELINE} are at no work ahead" in gaps()
    one = gaps(PIPELINE)
    assert f"None: {STALE} are at no work ahead" in one
    assert f"Not compared: {PIPELINE}: pip refused" in one
    every = gaps(PIPELINE, STALE)
    assert "No peer was measured." in every
    assert "None" not in every


def test_nothing_is_not_right() -> None:
    rows = np.random.default_rng(0).normal(size=(8, 16))
    nan = np.full_like(rows, np.nan)
    assert wrong(quality({"image": rows}, {"image": rows}, None)) == []
    assert wrong(quality({"image": nan}, {"image": rows}, None))
    assert wrong(quality({"answer": nan}, {"answer": rows}, None))


def test_pips_refusal_is_kept_in_its_words(tmp_path: Path) -> None:
    made = environments.make(tmp_path, "none", ["nothing @ file:///nowhere/nothing-1.0-py3-none-any.whl"])
    assert "/nowhere/nothing-1.0-py3-none-any.whl" in made["refused"]
    python = tmp_path / "none" / "bin" / "python"
    # It sees the project's packages, so that torch is there once.
    assert subprocess.run([python, "-c", "import numpy"], check=False).returncode == 0
    assert environments.size(python, ("numpy",))["mb"] > 10
    assert environments.size(environments.python_of(tmp_path, named(BASELINE)), ("numpy",))["packages"] >= 1
    assert sys.executable == str(environments.python_of(tmp_path, named(BASELINE)))

"""The comparison with peers, with tiny weights and candidates that need only the project's own packages."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import threading
import time
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from benchmarks.measure import alone
from benchmarks.peers import __main__ as command
from benchmarks.peers import catalogue, environments, prepare, weights
from benchmarks.peers.adapters import lrclr_classifier, torch_clip
from benchmarks.peers.catalogue import BASELINE, OURS, PEERS, RANDOM, Candidate
from benchmarks.peers.client import PeerError, Worker
from benchmarks.peers.comparison import rows_of
from benchmarks.peers.pages import markdown, write_pages
from benchmarks.peers.quality import quality, wrong
from benchmarks.peers.rounds import Group, Plan, measure
from benchmarks.peers.weights import checkpoint_named, inputs_of, with_last_end, write_clip, write_weights
from benchmarks.peers.works import Inputs, Opening
from lrclr import ZeroShotClassifier
from lrclr.checkpoints import default_checkpoint, init_checkpoint, load_checkpoint
from lrclr.engines import ENGINES

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = {"image/1": 2, "image/8": 2, "text/1": 2, "answer/1": 2, "answer-new/1": 2}
LRCLR, PIPELINE, STALE = "lrclr, torch fp32", "transformers pipeline", "stale"
MEMBERS = (BASELINE, LRCLR, PIPELINE, STALE)


def candidate_named(name: str) -> Candidate:
    stale = Candidate(STALE, "fp32", "torch_clip", ("torch",), {"attention": "sdpa", "weights": "stale"})
    return next(candidate for candidate in (*PEERS, *OURS, stale) if candidate.name == name)


def use_project_packages(folder: Path, candidate: Candidate) -> str:
    """Replaces `environments.install`: the environment sees the project's packages and needs no network."""
    home = environments.python_of(folder, candidate).parents[1]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", home], check=True)
    site = next(home.glob("lib/*/site-packages"))
    (site / "project.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    return ""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, quiet_transformers: None) -> Plan:
    """Tiny weights in the formats that need no export, and a second set of weights."""
    plan = Plan(ROUNDS, 1, tmp_path_factory.mktemp("peers"))
    folder = plan.folder(RANDOM)
    write_weights(init_checkpoint("tiny", preprocess="clip", score_scale=14.3), folder)
    write_clip(init_checkpoint("tiny", preprocess="clip", seed=1), folder / "stale", 14.3)
    np.savez(folder / "reference.npz", **prepare.reference(folder))
    for name in MEMBERS:
        use_project_packages(plan.environments, candidate_named(name))
    return plan


@pytest.fixture(scope="module")
def group(plan: Plan) -> Group:
    """Two rounds of measurements in turns."""
    group = Group({"checkpoint": RANDOM, "candidates": list(MEMBERS)})
    assert measure(
        group, plan.build / "group.json", [candidate_named(name) for name in MEMBERS], plan, note=lambda _: None
    )
    return group


def report_with(*groups: Group, **changes: Any) -> dict[str, Any]:
    disk = {"mb": 1, "packages": 1, "versions": {"torch": "2.13.0"}}
    env = {
        "processor": "Some CPU (avx2)",
        "fp32_gemm_gflops": 1,
        "threads": 1,
        "system": "s",
        "python": "3",
        "torch": "2",
    }
    report = {
        "groups": [asdict(group) for group in groups],
        "candidates": {
            name: {**asdict(candidate_named(name)), "cannot": ["one limit"], "disk": disk} for name in MEMBERS
        },
        "environment": {**env, "onnxruntime": "1"},
        "formats": {},
        "cold": {BASELINE: {"seconds": [1.0, 3.0, 2.0], "offline": "yes", "failed": ""}},
        "finished": True,
        "unavailable": {"clip-server": "no wheel"},
    }
    found: dict[str, Any] = json.loads(json.dumps({**report, **changes}))
    return found


def group_of_rounds(rounds: dict[str, list[dict[str, float]]], **fields: Any) -> Group:
    return Group({"checkpoint": RANDOM, "candidates": list(MEMBERS)}, rounds, **fields)


def open_gaps(group: Group) -> str:
    return markdown(report_with(group)).split("## Open gaps")[1].split("## Set-up")[0]


@pytest.mark.slow
def test_all_candidates_give_the_same_answers(group: Group) -> None:
    assert group.failed == {}
    for name in (BASELINE, LRCLR, PIPELINE):
        assert wrong(group.quality[name]) == []
    ours = group.quality[LRCLR]
    assert ours["image.centred_cosine"] > 0.9999
    assert ours["text.centred_cosine"] > 0.9999
    assert ours["regions.equal"] > 0.9
    # The pipeline takes an image file and returns shares over all prompts.
    assert group.quality[PIPELINE]["probability.error"] < 1e-3
    assert wrong(group.quality[STALE])


@pytest.mark.slow
def test_rounds_are_complete(group: Group) -> None:
    assert {work: len(rounds) for work, rounds in group.rounds.items()} == ROUNDS
    assert all(set(times) == {BASELINE, LRCLR, STALE} for times in group.rounds["image/1"])
    assert all(set(times) == set(MEMBERS) for times in group.rounds["answer-new/1"])
    assert all(seconds > 0 for rounds in group.rounds.values() for times in rounds for seconds in times.values())
    assert set(group.idle_share) == set(MEMBERS)


@pytest.mark.slow
def test_an_interrupted_run_is_continued(plan: Plan) -> None:
    file, key = plan.build / "cut.json", {"checkpoint": RANDOM, "candidates": [BASELINE, LRCLR]}
    members = [candidate_named(BASELINE), candidate_named(LRCLR)]
    few = replace(plan, rounds={"image/1": 1})
    assert not measure(Group(key), file, members, few, until=time.monotonic() - 1)
    first = Group(key)
    assert measure(first, file, members, few)
    kept = Group.load(file, key)
    assert kept.rounds == first.rounds
    kept.finished = False
    assert measure(kept, file, members, replace(plan, rounds={"image/1": 2}))
    assert kept.rounds["image/1"][:1] == first.rounds["image/1"]
    assert len(kept.rounds["image/1"]) == 2
    assert Group.load(file, {**key, "threads": 7}).rounds == {}


@pytest.mark.slow
def test_a_run_prepares_the_formats_of_its_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From nothing to the pages: the format of one peer is prepared, and the failure of another is in its row."""
    monkeypatch.setattr(environments, "install", use_project_packages)
    monkeypatch.setattr(command, "size", lambda *_: {"mb": 1, "packages": 1, "versions": {}})
    monkeypatch.setattr(weights, "checkpoint_named", partial(checkpoint_named, architecture="tiny"))
    monkeypatch.setattr(catalogue, "PRECISIONS", ("fp32",))
    monkeypatch.setattr(command, "OURS", [candidate_named("lrclr, onnxruntime fp32")])
    broken = replace(candidate_named("faster-clip"), formats=("no_such_format",))
    peers = [candidate_named(BASELINE), candidate_named("torch.onnx, ONNX Runtime"), broken]
    report = command.run(Plan({"image/1": 2}, 1, tmp_path), [RANDOM], peers, cold_times=1)
    assert report["finished"]
    rows = {row.name: row for row in rows_of(report["groups"], report["candidates"], RANDOM)}
    plain = rows["torch.onnx, ONNX Runtime"]
    assert plain.quality["image.centred_cosine"] > 0.9999
    assert set(plain.compared) == {"image/1"}
    assert "no_such_format" in rows["faster-clip"].failed[""]
    assert report["cold"]["torch.onnx, ONNX Runtime"]["seconds"]
    page = write_pages(report, tmp_path / "pages")
    assert "| faster-clip | int8 weights | failed: format no_such_format" in page
    assert str(tmp_path) not in page
    # A second call uses the existing files.
    assert command.run(Plan({"image/1": 2}, 1, tmp_path), [RANDOM], peers, cold_times=1)["groups"] == report["groups"]


def test_a_faster_peer_is_an_open_gap() -> None:
    rounds = {
        "image/1": [{BASELINE: 4.0, LRCLR: 2.0, STALE: 1.0 + 0.1 * number} for number in range(4)],
        # No candidate is ahead in all quarters of the rounds.
        "image/8": [{BASELINE: 4.0, LRCLR: 2.0, STALE: seconds} for seconds in (1.0, 1.5, 3.0, 3.0)],
        "text/1": [{BASELINE: 4.0, LRCLR: 2.0, STALE: 3.0}] * 4,
    }
    faster = group_of_rounds(rounds)
    (row,) = (each for each in rows_of([asdict(faster)], report_with()["candidates"], RANDOM) if each.name == STALE)
    assert row.ahead == {"image/1"}
    assert row.compared["image/1"][0] == pytest.approx(2.0 / 1.15, rel=0.01)
    page = markdown(report_with(faster))
    assert f"image, batch 1: **{STALE}** is 1.7" in page
    assert page.count("**◀**") == 2  # once in the legend, once in the cell


def test_a_peer_with_wrong_answers_is_not_compared() -> None:
    fast = [{BASELINE: 3.0, LRCLR: 2.0, STALE: 0.1}] * 4
    page = markdown(
        report_with(
            group_of_rounds({"image/1": fast}, quality={STALE: {"image.cosine": 0.2, "image.centred_cosine": 1.0}})
        )
    )
    assert f"| {STALE} **WRONG: image cosine 0.200**" in page
    assert f"{STALE}: its answers are wrong" in page
    assert "No peer was compared with lrclr." in page


def test_a_failed_peer_is_not_counted_as_behind() -> None:
    def rounds(*absent: str) -> dict[str, list[dict[str, float]]]:
        return {work: [{name: 1.0 for name in MEMBERS if name not in absent} | {LRCLR: 0.5}] * 3 for work in ROUNDS}

    assert f"not ahead at any work: {STALE}, {PIPELINE}" in open_gaps(group_of_rounds(rounds()))
    page = open_gaps(group_of_rounds(rounds(PIPELINE), failed={PIPELINE: "uv refused"}))
    assert f"not ahead at any work: {STALE}." in page
    assert f"{PIPELINE}: uv refused" in page
    both_failed = open_gaps(
        group_of_rounds(rounds(PIPELINE, STALE), failed=dict.fromkeys((PIPELINE, STALE), "uv refused"))
    )
    assert "No peer was compared with lrclr." in both_failed
    assert "not ahead" not in both_failed
    # A failure in one kind of work only.
    some_rounds = rounds()
    some_rounds["image/8"] = [{BASELINE: 1.0, LRCLR: 0.5}] * 3
    found = open_gaps(group_of_rounds(some_rounds, failed={f"{STALE}: image/8": "out of memory"}))
    assert f"{STALE}, image, batch 8: out of memory" in found
    # Without a measurement of lrclr, a peer is not behind it.
    without_lrclr = {"image/1": [{BASELINE: 1.0, STALE: 2.0}] * 3}
    found = open_gaps(group_of_rounds(without_lrclr, failed={LRCLR: "no bundle"}))
    assert "No peer was compared with lrclr." in found
    assert f"{STALE}, image, batch 1: no right answer of lrclr was measured beside it" in found


def test_a_failure_is_an_empty_cell_with_its_reason() -> None:
    rounds = {work: [{BASELINE: 1.0, LRCLR: 0.5}] * 3 for work in ("image/1", "image/8")}
    page = markdown(
        report_with(group_of_rounds(rounds, failed={STALE: "no such | file", f"{PIPELINE}: image/8": "killed"}))
    )
    assert f"| {STALE} | fp32 | failed: no such \\| file |  |" in page
    assert f"| {PIPELINE} | fp32 |  | failed: killed |" in page


def test_the_pages_have_all_candidates_and_machines(tmp_path: Path) -> None:
    group = group_of_rounds({"image/1": [dict.fromkeys(MEMBERS, 1.0)] * 2})
    page = write_pages(report_with(group), tmp_path)
    assert "ended early" not in page
    assert "ended early" in markdown(report_with(group, finished=False))
    for name in MEMBERS:
        assert page.count(f"| {name} ") >= 2
    for text in ("2.0 (1.0–3.0)", "- clip-server: no wheel", "one limit"):
        assert text in page
    other = report_with(group)
    other["environment"]["processor"] = "Another CPU (amx)"
    write_pages(other, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        *("some-cpu-avx2.json", "some-cpu-avx2.md", "another-cpu-amx.json", "another-cpu-amx.md", "README.md")
    }
    summary = (tmp_path / "README.md").read_text()
    assert "## Some CPU (avx2)" in summary
    assert "## Another CPU (amx)" in summary
    assert f"| {LRCLR} | fp32 | 1.00 |" in summary


@pytest.mark.slow
def test_a_failing_peer_gives_the_reason(plan: Plan) -> None:
    absent = replace(candidate_named(BASELINE), adapter="faster_clip")
    with pytest.raises(PeerError) as caught:
        Worker(absent, plan, RANDOM)
    assert "No module named 'faster_clip'" in str(caught.value.why)
    with Worker(candidate_named(BASELINE), plan, RANDOM) as worker:
        with pytest.raises(PeerError, match="failed") as at_work:
            worker.seconds("image", 5)
        assert "KeyError" in str(at_work.value.why)
        assert worker.seconds("image", 1) > 0
        assert worker.processor_seconds() > 0


def test_candidates_cover_every_engine_of_lrclr() -> None:
    """Except for the engines that need a GPU."""
    engines = {candidate.options["engine"] for candidate in OURS} - {"torch"}
    assert engines == {engine for engine in ENGINES if not engine.startswith("tensorrt")}


def test_every_candidate_has_an_adapter_and_formats() -> None:
    for candidate in (*PEERS, *OURS):
        assert not candidate.adapter or callable(prepare.adapter(candidate.adapter).open_works)
        assert all(callable(prepare.adapter(name).prepare) for name in candidate.formats)


def test_converting_the_default_checkpoint_keeps_its_answers(quiet_transformers: None) -> None:
    original, converted = load_checkpoint(default_checkpoint()), with_last_end(load_checkpoint(default_checkpoint()))
    pixels = inputs_of(original).pixel_values[:2]
    answers = [
        ZeroShotClassifier.from_checkpoint(checkpoint).answer_pixels(pixels) for checkpoint in (original, converted)
    ]
    assert np.array_equal(answers[0].probability, answers[1].probability)
    assert converted.config.text_config.eos_token_id == converted.config.text_config.vocab_size - 1


def test_the_default_checkpoint_is_the_same_network_for_all_candidates(
    tmp_path: Path, quiet_transformers: None
) -> None:
    converted = checkpoint_named("default")
    write_weights(converted, tmp_path)
    opening = Opening(tmp_path, Inputs.load(tmp_path), {"attention": "eager", "engine": "torch"})
    ours, plain = lrclr_classifier.open_works(opening), torch_clip.open_works(opening)
    answers = [
        {work: each[work].array(each[work].run(8)) for work in ("image", "text", "answer")} for each in (ours, plain)
    ]
    assert wrong(quality(*answers)) == []


def test_nan_counts_as_a_wrong_answer() -> None:
    rows = np.random.default_rng(0).normal(size=(8, 16))
    nan = np.full_like(rows, np.nan)
    assert wrong(quality({"image": rows}, {"image": rows})) == []
    assert wrong(quality({"image": nan}, {"image": rows}))
    assert wrong(quality({"answer": nan}, {"answer": rows}))
    assert wrong(quality({"answer": nan, "answer-new": rows[:1]}, {"answer": rows}))


def test_two_benchmarks_wait_for_each_other(tmp_path: Path) -> None:
    events: list[str] = []
    inside, release = threading.Event(), threading.Event()

    def first() -> None:
        with alone(events.append, tmp_path):
            inside.set()
            release.wait(10)
            events.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(10)

    def note(text: str) -> None:
        events.append(text)
        release.set()

    with alone(note, tmp_path):
        events.append("second")
    thread.join()
    assert events == ["waiting: another benchmark measures on this machine", "first", "second"]


def test_an_error_of_uv_is_one_line(tmp_path: Path) -> None:
    nothing = "nothing @ file:///nowhere/nothing-1.0-py3-none-any.whl"
    refused = environments.install(tmp_path, Candidate("none", "fp32", "none", (nothing,)))
    assert "/nowhere/nothing-1.0-py3-none-any.whl" in refused
    assert "\n" not in refused


@pytest.mark.slow
def test_an_environment_is_installed_from_the_index(tmp_path: Path) -> None:
    """Needs the package index or uv's cache."""
    plain = candidate_named("torch.onnx, ONNX Runtime")
    assert environments.install(tmp_path, plain) == ""
    found = environments.size(tmp_path, plain)
    assert found["versions"] == {"onnxruntime": "1.32.0"}
    assert found["mb"] > 50
    python = environments.python_of(tmp_path, plain)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode != 0

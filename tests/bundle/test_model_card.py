"""The model card of a bundle has every field, stated or not, and takes its content from the checkpoint."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import ModelCard as HubCard
from hypothesis import given
from hypothesis import strategies as st

from lrclr import Bundle
from lrclr.bundle import bundle_entries, model_card, write_manifest
from lrclr.card import FIELDS, Metric, ModelCard
from lrclr.checkpoints import load_checkpoint
from lrclr.errors import BundleError
from lrclr.preprocessing import PreprocessSpec
from tests import bundles
from tests.bundles import call
from tests.kept_exports import exporting_once

if TYPE_CHECKING:
    from pathlib import Path

NOT_STATED = "*Not stated*"


@pytest.fixture(scope="module")
def ensemble_bundle(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.exported_ensemble(tmp_path_factory.getbasetemp())


def metadata(card: str) -> dict[str, Any]:
    """The metadata, read as the Hugging Face Hub reads them."""
    return {key: value for key, value in vars(HubCard(card).data).items() if value is not None}


def test_every_field_is_listed_and_missing_ones_are_marked(fp32_bundle: Path) -> None:
    text = (fp32_bundle / "README.md").read_text()
    assert text.count(NOT_STATED) == len(FIELDS)  # the name is the title; metrics are an additional field
    for title in set(FIELDS.values()) - {"Name"}:
        assert re.search(rf"^(### {title}\n\n|\| {title} \| |{title}: ){re.escape(NOT_STATED)}", text, re.MULTILINE), (
            title
        )
    manifest = Bundle(fp32_bundle).manifest
    assert "Research use only. Not a medical device." in text
    assert manifest.checkpoint["sha256"] in text
    for gate in manifest.gates:
        assert f"| {gate['gate']} | {gate['subject']} | {gate['value']:.4g} | at " in text
    for finding in Bundle(fp32_bundle).findings.findings:
        assert f"| {finding.name} | {'; '.join(finding.positive)} | {'; '.join(finding.negative)} |" in text
    assert metadata(text) == {
        "library_name": "lrclr",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["chest-x-ray", "onnx", "triton"],
    }


def test_a_card_depends_on_the_bundle_and_its_gates(fp32_bundle: Path, tmp_path: Path) -> None:
    copy = bundles.copied(fp32_bundle, tmp_path / "copy")
    manifest = Bundle(copy).manifest
    write_manifest(copy, manifest)
    assert bundles.digests(copy) == bundles.digests(fp32_bundle)
    write_manifest(copy, replace(manifest, engine={"name": "openvino", "why": "the fastest here"}))
    assert "| Engine | openvino (the fastest here) |" in (copy / "README.md").read_text()
    Bundle(copy)


def test_a_card_is_required_and_a_foreign_one_is_not_replaced(fp32_bundle: Path, tmp_path: Path) -> None:
    copy = bundles.copied(fp32_bundle, tmp_path / "copy")
    assert "README.md" in bundle_entries(copy)
    (copy / "README.md").write_text("# Mine")
    assert "README.md" not in bundle_entries(copy)
    (copy / "README.md").unlink()
    with pytest.raises(BundleError, match=r"README\.md is missing"):
        Bundle(copy)
    with pytest.raises(BundleError, match=r"does not list README\.md"):
        Bundle(bundles.signed(copy))


def test_the_base_model_is_a_repository_of_the_hub(fp32_bundle: Path) -> None:
    bundle = Bundle(fp32_bundle)
    commit = "0" * 40

    def base(card: ModelCard, origin: str) -> object:
        manifest = replace(bundle.manifest, checkpoint={**bundle.manifest.checkpoint, "origin": origin})
        return metadata(model_card(manifest, bundle.findings, card)).get("base_model")

    assert base(ModelCard(), f"hf:openai/clip@{commit}") == "openai/clip"
    assert base(ModelCard({"base_model": "me/mine"}), f"hf:openai/clip@{commit}") == "me/mine"
    assert base(ModelCard({"base_model": "our old one"}), "") is None
    assert base(ModelCard(), "hf:a/b\nlicense: mit") is None


@pytest.mark.parametrize("name", ["clip", "chexzero", "siglip"])
def test_a_preprocessing_has_the_name_of_its_option(fp32_bundle: Path, name: str) -> None:
    bundle = Bundle(fp32_bundle)
    recipe = getattr(PreprocessSpec, name)(bundle.preprocess.image_size)
    card = model_card(replace(bundle.manifest, preprocess=recipe.to_dict()), bundle.findings, ModelCard())
    assert f" pixels, {name} preprocessing |" in card


TEXT = st.text(max_size=60) | st.sampled_from(
    ["# Heading", "> quoted", "- item", "---", "| a | b |", "```", "<b>", "a\n\n# b"]
)


@given(
    st.dictionaries(st.sampled_from(sorted(FIELDS.keys() - {"license"})), TEXT | st.lists(TEXT, min_size=1).map(tuple)),
    TEXT,
)
def test_no_text_changes_the_structure_of_a_card(
    fp32_bundle: Path, texts: dict[str, str | tuple[str, ...]], finding: str
) -> None:
    bundle = Bundle(fp32_bundle)
    plain = model_card(bundle.manifest, bundle.findings, ModelCard({}, (Metric("AUROC", 0.5),)))
    text = model_card(bundle.manifest, bundle.findings, ModelCard(texts, (Metric("AUROC", 0.5, finding),)))

    def structure(card: str) -> tuple[list[str], list[int]]:
        lines = card.split("\n")
        headings = [line for line in lines if line.startswith("#") and not line.startswith("# ")]
        tables = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")]
        return headings, tables

    assert structure(text) == structure(plain)
    assert text.partition("---\n\n")[0].count("\n") <= plain.partition("---\n\n")[0].count("\n") + 1
    assert "```" not in text.partition("## Use\n")[0]
    assert not re.search(r"<(?!!-- written)", text)


CARD = """
name = "Mine"
license = "mit"
versions = "1"
intended_use = "To test."

[[metrics]]
name = "AUROC"
finding = "Edema"
value = 0.874
interval = [0.861, 0.886]

[[metrics]]
name = "AUROC"
finding = "Fracture"
value = 0.5
"""


@pytest.mark.slow
def test_a_card_file_is_copied_to_the_checkpoint_and_the_bundle(checkpoint_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(CARD)
    done = call("convert", checkpoint_folder, tmp_path / "a", "--card", tmp_path / "mine.toml")
    assert done.returncode == 0
    assert "model card: 'versions' is not a known key; did you mean 'version'?" in done.stderr
    card = load_checkpoint(tmp_path / "a").card
    assert (card.texts["name"], len(card.metrics), card.remarks) == ("Mine", 2, ())
    # The card stays with the checkpoint.
    assert call("convert", tmp_path / "a", tmp_path / "b").returncode == 0
    assert (tmp_path / "a/card.toml").read_bytes() == (tmp_path / "b/card.toml").read_bytes()
    with exporting_once():
        done = call("export", tmp_path / "b", "--fp32", "-o", tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "bundle/README.md").read_text()
    assert metadata(text)["license"] == "mit"
    assert "\n# Mine\n" in text
    assert "### Intended use\n\nTo test.\n" in text
    assert f"| Edema | AUROC | 0.874 | 0.861 to 0.886 | {NOT_STATED} |" in text
    assert f"| Fracture | AUROC | 0.500 | {NOT_STATED} | {NOT_STATED} |" in text
    assert "The checkpoint states 4 of the 27 fields" in text
    Bundle(tmp_path / "bundle")


def test_metrics_are_left_out_when_settings_change(checkpoint_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(CARD.replace("versions", "version"))
    (tmp_path / "findings.toml").write_text('[[finding]]\nname = "Edema"\n[[finding]]\nname = "Mass"\n')
    assert call("convert", checkpoint_folder, tmp_path / "a", "--card", tmp_path / "mine.toml").returncode == 0
    for option, value, kept in (
        ("--findings", tmp_path / "findings.toml", ["Edema"]),
        ("--mean", "0.5", []),
        ("--region-top-k", "1", []),
        ("--preprocess", "clip", []),
    ):
        done = call("convert", tmp_path / "a", tmp_path / option, option, value)
        card = load_checkpoint(tmp_path / option).card
        assert [metric.finding for metric in card.metrics] == kept
        assert "intended_use" in card.texts
        assert "model card: metrics that were measured with other settings are left out" in done.stderr


def test_a_file_that_is_not_a_card_is_refused(checkpoint_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("name = ")
    for command, *where in (("convert", tmp_path / "a"), ("export", "-o", tmp_path / "b")):
        done = call(command, checkpoint_folder, *where, "--card", tmp_path / "mine.toml")
        assert done.returncode == 2
        assert "mine.toml is not valid TOML" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_the_card_of_an_ensemble_names_its_members(ensemble_bundle: Path) -> None:
    text = (ensemble_bundle / "README.md").read_text()
    manifest = Bundle(ensemble_bundle).manifest
    assert text.count(NOT_STATED) == len(FIELDS)
    for name, member in zip(manifest.member_names, manifest.members, strict=True):
        assert f"| Member {name} | {member.checkpoint['source']}, SHA-256 {member.checkpoint['sha256']} |" in text
        assert f"Of the member {name}:\n\n| Gate |" in text
    assert "| Regions, scores and heat maps | those of the member other |" in text

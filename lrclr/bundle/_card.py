"""The model card of a bundle: `README.md`, rendered from the manifest, the findings and `card.toml`.

It has YAML metadata for the Hugging Face Hub, and the fields of the hub's model card and of CHAI's Applied Model Card.
A field about which the checkpoint says nothing is listed as not stated.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from lrclr._markdown import clean, in_markdown
from lrclr.card import FIELDS, MARK, SECTIONS
from lrclr.preprocessing import PreprocessSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lrclr.bundle._manifest import Manifest
    from lrclr.card import ModelCard, Text
    from lrclr.text import FindingSet

NOT_STATED: Final = "*Not stated*"
_ENDING: Final = "export -->"
# Fields with a place of their own: the title of the page and the paragraph below it.
_HEAD: Final = ("name", "summary")
# Fields of one line, in the table of facts.
_SHORT: Final = ("developers", "contact", "version", "date", "license", "base_model", "paper", "funding")
# What begins a heading, a quotation, a list or a rule.
_BLOCK: Final = re.compile(r"(?=#{1,6}(?:\s|$)|>|[-+*_=~]{3}|[-+*]\s)")
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def model_card(manifest: Manifest, findings: FindingSet, card: ModelCard) -> str:
    """The text of ``README.md``.

    Args:
        manifest: manifest of the bundle, complete except for its table of files.
        findings: the bundle's findings and prompts.
        card: what the authors of the checkpoint state.
    """
    fields = len(FIELDS) + 1
    stated = len(card.texts) + bool(card.metrics)
    parts = [
        _front_matter(manifest, card),
        f"{MARK} {_ENDING}",
        f"# {_one_line(card.texts.get('name', 'lrclr bundle'))}",
        "**Research use only. Not a medical device.**",
        *_paragraphs(card.texts.get("summary", f"Summary: {NOT_STATED}")),
        _WHAT,
        f"The checkpoint states {stated} of the {fields} fields of this card. {_FROM}",
        "## Model",
        _table(("", ""), _facts(manifest, card)),
    ]
    for title, section in SECTIONS.items():
        own = [key for key in section if key not in (*_HEAD, *_SHORT)]
        parts += [f"## {title}"] if own else []
        for key in own:
            parts += [f"### {section[key]}", *_paragraphs(card.texts.get(key, NOT_STATED))]
        if title == "Evaluation":
            parts += ["### Metrics", _metrics(card) if card.metrics else NOT_STATED]
    parts += ["## Findings and prompts", _WORDING, _findings(findings), "## Gates", _GATES]
    parts += [f"They ran on: {_inline(manifest.made_with.get('gates_ran_on', 'not recorded'))}."]
    if manifest.ensemble is not None:
        parts += ["Of the mean probability:", _gates(manifest.gates)]
    for name, member in zip(manifest.member_names or ("",), manifest.members, strict=True):
        parts += [f"Of the member {_inline(name)}:"] if name else []
        parts.append(_gates(member.gates))
        for plan in member.plans:
            parts += [_plan(plan), _gates(plan.get("gates", ()))]
    return "\n\n".join([*parts, "## Use", _USE]) + "\n"


_WHAT: Final = (
    "A bundle of [lrclr](https://arxiv.org/abs/2303.14153): a zero-shot classifier for chest x-rays that shows the "
    "image regions which support its findings, as ONNX graphs in a Triton model repository."
)
_FROM: Final = (
    "lrclr does not check what it states. Facts about the bundle, its findings and its gates are from the bundle."
)
_WORDING: Final = (
    "The probability of a finding depends on the wording of its prompts. `findings.toml` has them in a form that can "
    "be changed."
)
_GATES: Final = (
    "The gates compare this bundle with its checkpoint in PyTorch. They show that the bundle computes what the "
    "checkpoint computes, and not that its findings are right."
)
_USE: Final = """\
```console
lrclr verify BUNDLE
lrclr predict study.dcm -b BUNDLE
```

`BUNDLE` is the folder with `manifest.json`. In a repository of the Hugging Face Hub it is the folder `bundle`:

```console
hf download OWNER/NAME --include 'bundle/*' --local-dir model
lrclr verify model/bundle
```"""


def with_licence(card: str, licence: str) -> str:
    """A card that `model_card` rendered, with a licence that it does not state.

    Raises:
        ValueError: it states another licence, which the text gives.
    """
    old, new = (f"\n| {FIELDS['license']} | {text} |\n" for text in (NOT_STATED, licence))
    if new in card:
        return card
    if old not in card:
        raise ValueError(card.partition(f"\n| {FIELDS['license']} | ")[2].partition(" |")[0])
    return card.replace("\n---\n", f"\nlicense: {licence}\n---\n", 1).replace(old, new, 1)


def _front_matter(manifest: Manifest, card: ModelCard) -> str:
    lines = ["library_name: lrclr", "pipeline_tag: zero-shot-image-classification", "tags: [chest-x-ray, onnx, triton]"]
    base = _base_repository(manifest, card)
    lines += [f"base_model: {base}"] if base else []
    lines += [f"license: {card.texts['license']}"] if "license" in card.texts else []
    return "\n".join(["---", *lines, "---"])


def _base_repository(manifest: Manifest, card: ModelCard) -> str | None:
    """The base model, if it is a repository of the hub, as the metadata require."""
    origin = manifest.checkpoint.get("origin", "")
    hub = origin.removeprefix("hf:").partition("@")[0] if origin.startswith("hf:") else ""
    named = (name for name in (card.texts.get("base_model"), hub) if isinstance(name, str))
    return next((name for name in named if _REPOSITORY.fullmatch(name)), None)


def _facts(manifest: Manifest, card: ModelCard) -> list[tuple[str, str]]:
    checkpoint, scoring, spec = manifest.checkpoint, manifest.scoring, manifest.preprocess
    size = spec["image_size"]
    regions = manifest.graphs["image_encoder"]["outputs"]["region_index"]["shape"][1]
    head = f"trained; weight of the local score (alpha) {scoring['alpha']:g}"
    assumed = manifest.model.get("assumed") or ()
    texts = ((key, card.texts.get(key, NOT_STATED)) for key in _SHORT)
    stated = [(FIELDS[key], text if isinstance(text, str) else "; ".join(text)) for key, text in texts]
    made = ", ".join(
        f"{name} {version}" for name, version in sorted(manifest.made_with.items()) if name != "gates_ran_on"
    )
    facts = {
        "Checkpoint": f"{checkpoint['source']}, SHA-256 {checkpoint['sha256'] or 'not defined: never in a file'}",
        **_members(manifest),
        "Original weights": checkpoint.get("origin", "not recorded"),
        "Family": manifest.model.get("family", "clip"),
        "Input": f"{size} × {size} pixels, {PreprocessSpec.from_dict(spec).name} preprocessing",
        "Regions": f"{regions} patches of {manifest.model['vision_config']['patch_size']} × "
        f"{manifest.model['vision_config']['patch_size']} pixels",
        "Fusion head": head if scoring["fusion_trained"] else "not trained: scores use the global score alone",
        "Assumed about the weights": "; ".join(assumed) or "nothing",
        "Precision": _precision(manifest),
        "Engine": f"{manifest.engine['name']} ({manifest.engine['why']})",
        "Made with": made,
    }
    return [*stated, *facts.items()]


def _members(manifest: Manifest) -> dict[str, str]:
    if manifest.ensemble is None:
        return {}
    members = zip(manifest.member_names, manifest.members, strict=True)
    return {
        **{
            f"Member {name}": f"{one.checkpoint['source']}, SHA-256 {one.checkpoint['sha256']}" for name, one in members
        },
        "Regions, scores and heat maps": f"those of the member {manifest.ensemble['regions_from']}",
    }


def _precision(manifest: Manifest) -> str:
    if manifest.quantization is None:
        return manifest.precision
    source = manifest.quantization["calibration"]
    return f"{manifest.precision}, calibrated on {source['images']} images ({source['kind']})"


def _metrics(card: ModelCard) -> str:
    on = "as above" if "evaluation_data" in card.texts else NOT_STATED
    rows = [
        (
            one.finding or "all findings",
            one.name,
            _number(one.value),
            NOT_STATED if one.interval is None else " to ".join(map(_number, one.interval)),
            one.data or on,
        )
        for one in card.metrics
    ]
    return _table(("Finding", "Metric", "Value", "Interval", "Data"), rows)


def _findings(findings: FindingSet) -> str:
    rows = [(one.name, "; ".join(one.positive), "; ".join(one.negative) or "none") for one in findings.findings]
    return _table(("Finding", "Prompts for", "Prompts against"), rows)


def _number(value: float) -> str:
    return f"{value:.3f}" if 0.001 <= abs(value) <= 1 or value == 0 else f"{value:.4g}"


def _gates(gates: Iterable[dict[str, Any]]) -> str:
    rows = [
        (
            gate["gate"],
            gate["subject"],
            gate["value"] if isinstance(gate["value"], str) else f"{gate['value']:.4g}",
            f"at {'least' if gate['limit'] == 'min' else 'most'} {gate['tolerance']:g}",
            gate["note"],
        )
        for gate in gates
    ]
    return _table(("Gate", "Of", "Measured", "Limit", "Note"), rows) if rows else "No gate was run."


def _plan(plan: dict[str, Any]) -> str:
    where = ", ".join(plan.get("compute_capabilities") or ())
    return (
        f"Files for the engine {plan['engine']}{f', compute capability {where}' if where else ''}. "
        f"Gates ran on: {_inline(plan.get('gates_ran_on') or 'no device of this kind')}."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *(map(_inline, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _paragraphs(text: Text) -> list[str]:
    """Return a text as blocks of Markdown. Links and emphasis in it are kept; headings and lists are not."""
    if isinstance(text, str):
        return [_block(paragraph) for paragraph in text.split("\n\n")]
    return ["\n".join(f"- {_block(entry)}" for entry in text)]


def _block(text: str) -> str:
    line = _inline(text)
    return f"\\{line}" if _BLOCK.match(line) else line


def _one_line(text: Text) -> str:
    return _inline(text if isinstance(text, str) else "; ".join(text))


def _inline(text: str) -> str:
    return in_markdown(" ".join(clean(text).split()))

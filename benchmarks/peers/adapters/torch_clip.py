"""transformers' `CLIPModel` in PyTorch: eager, or with `torch.compile` and one of its backends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.peers.works import BATCHES, Array, Opening, Work, Works

if TYPE_CHECKING:
    import torch


def open_works(opening: Opening) -> Works:
    """Options: ``attention`` of transformers; ``compile``: `torch.compile`'s backend; ``weights``: another folder."""
    import torch
    from transformers import CLIPModel

    inputs, options = opening.inputs, opening.options
    backend = options.get("compile", "")
    if backend == "zentorch":
        import zentorch  # noqa: F401 - registers the backend
    if backend == "inductor":
        import torch._inductor.config

        torch._inductor.config.freezing = True  # noqa: SLF001 - the documented name of the switch
    model = CLIPModel.from_pretrained(
        opening.folder / options.get("weights", "hf"), attn_implementation=options["attention"]
    ).eval()

    def image(pixel_values: torch.Tensor) -> Any:
        return _features(model.get_image_features(pixel_values=pixel_values))

    def text(input_ids: torch.Tensor) -> Any:
        return _features(model.get_text_features(input_ids=input_ids))

    if backend:
        image = torch.compile(image, backend=backend, dynamic=False)
        text = torch.compile(text, backend=backend, dynamic=False)
    pixels = {batch: torch.from_numpy(inputs.images(batch)) for batch in BATCHES}
    padded, trimmed = torch.from_numpy(inputs.padded_ids), torch.from_numpy(inputs.ids)

    known: list[torch.Tensor] = []

    def answer(batch: int) -> torch.Tensor:
        if not known:
            known.append(_unit(text(trimmed)))
        cosines: torch.Tensor = _unit(image(pixels[batch])) @ known[0].T
        return cosines * inputs.scale

    def answer_new(batch: int) -> torch.Tensor:
        logits: torch.Tensor = model(input_ids=trimmed, pixel_values=pixels[batch]).logits_per_image
        return logits

    def without_gradients(run: Any) -> Any:
        # Compilation with freezing needs no_grad, not inference mode.
        return torch.no_grad()(run)

    def probabilities(logits: torch.Tensor) -> Array:
        return inputs.pair_probabilities(logits.numpy())

    works = {
        "image": Work(without_gradients(lambda batch: image(pixels[batch]))),
        "text77": Work(without_gradients(lambda _: text(padded))),
        "text": Work(without_gradients(lambda _: text(trimmed))),
    }
    if not backend:
        for name, run in (("answer", answer), ("answer-new", answer_new)):
            works[name] = Work(without_gradients(run), probabilities, (1, 8))
    return works


def _unit(rows: torch.Tensor) -> Any:
    return rows / rows.norm(dim=-1, keepdim=True)


def _features(output: Any) -> Any:
    # transformers 5 returns an object, transformers 4 the embedding.
    return getattr(output, "pooler_output", output)

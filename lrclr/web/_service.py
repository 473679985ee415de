"""What the API does, without HTTP. Called in threads."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from lrclr._version import __version__
from lrclr.budget import HEATMAP_BYTES, REQUEST_HEATMAPS, decoding, reading
from lrclr.dicom_results import DicomSource, ResultBuilder, ResultModel
from lrclr.errors import FindingsError, UsageError
from lrclr.images import read_image
from lrclr.inference import draw_heatmap, global_score, png_bytes
from lrclr.input_checks import SENTENCES
from lrclr.text import Finding, FindingSet
from lrclr.web._body import decoded_image, is_image
from lrclr.web._picture import picture
from lrclr.web._types import (
    Embedding,
    EmbeddingsReply,
    EmbeddingsRequest,
    FindingsReply,
    FindingsRequest,
    HeatmapRequest,
    ModelReply,
    NewFinding,
    Question,
    SimilarityReply,
    SimilarityRequest,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from lrclr.inference import Prediction
    from lrclr.web._backend import Backend
    from lrclr.web._kept import KeptImage
    from lrclr.web._options import WebOptions


class Service:
    """Answers the requests of the API. Safe to call from several threads.

    Args:
        backend: the model.
        options: limits.
    """

    def __init__(self, backend: Backend, options: WebOptions) -> None:
        self.backend, self.options = backend, options
        # The hash tells bundles apart; OpenAI's clients show it as the model's name.
        self.name = f"lrclr-{backend.spec.sha256[:12]}"

    def model(self) -> ModelReply:
        """Describe the model."""
        spec, options = self.backend.spec, self.options
        return ModelReply.model_validate(
            {
                "name": self.name,
                "bundle": spec.sha256,
                "checkpoint": spec.checkpoint_sha256,
                "precision": spec.precision,
                "engine": self.backend.engine,
                "version": __version__,
                "alpha": spec.alpha,
                "fusion_trained": spec.fusion_trained,
                "findings": [
                    {"name": one.name, "positive": one.positive, "negative": one.negative}
                    for one in spec.findings.findings
                ],
                "preprocess": spec.preprocess.to_dict(),
                "warnings": SENTENCES,
                "limits": {
                    "body_bytes": options.body_bytes,
                    "images": options.images,
                    "texts": options.texts,
                    "kept_images": options.kept_images,
                    "kept_seconds": options.kept_seconds,
                },
            }
        )

    def findings(self, request: FindingsRequest, files: Sequence[bytes] | None = None) -> FindingsReply:
        """Answer for images in the request, or for `files` instead."""
        if files is None:
            files = [decoded_image(text, place, len(request.images)) for place, text in enumerate(request.images)]
        self._check_images(len(files), most=REQUEST_HEATMAPS if request.heatmap else None)
        findings = self._findings(request)
        encoded = self.backend.encode(files, frame=request.frame, exact=request.exact)
        predictions = self.backend.predict(encoded, findings, request.alpha)
        heatmaps = None
        if request.heatmap:
            drawn = [
                self._drawn(content, request.frame, prediction, None)
                for content, prediction in zip(files, predictions, strict=True)
            ]
            heatmaps = [base64.b64encode(png).decode() for png in drawn]
        return self._reply(predictions, findings, heatmaps)

    def answer(self, image: KeptImage, question: Question) -> FindingsReply:
        """Answer for an image that is kept."""
        findings = self._findings(question)
        return self._reply(self.backend.predict([image.encoded], findings, question.alpha), findings)

    def heatmap(self, image: KeptImage, request: HeatmapRequest) -> bytes:
        """Draw the heat map of an image that is kept, as a PNG file."""
        (prediction,) = self.backend.predict([image.encoded], self._findings(request), request.alpha)
        return self._drawn(image.file, image.frame, prediction, request.shown)

    def picture(self, image: KeptImage) -> bytes:
        """The picture that the model reads, as a PNG file for a screen."""
        return picture(image.file, image.frame)

    def report(self, image: KeptImage, question: Question) -> bytes:
        """The DICOM structured report of an image that is kept."""
        source = DicomSource.read(image.file, frame=image.frame)
        findings = self._findings(question)
        (prediction,) = self.backend.predict([image.encoded], findings, question.alpha)
        model = ResultModel(self.backend.spec.sha256, findings, image.exact)
        return ResultBuilder(model).build("sr", source, prediction)

    def embeddings(self, request: EmbeddingsRequest) -> EmbeddingsReply:
        """Embeddings of texts and images, in order."""
        inputs = [request.input] if isinstance(request.input, str) else request.input
        if not inputs:
            raise UsageError("the input is empty", fix="Send a text, or a list of texts and data URLs of images.")
        places = [place for place, text in enumerate(inputs) if is_image(text)]
        files = [decoded_image(inputs[place], number, len(places)) for number, place in enumerate(places)]
        texts = [text for text in inputs if not is_image(text)]
        for text in texts:
            if text.lower().startswith(("http://", "https://", "data:")):
                raise UsageError(
                    "an input is a URL that is not an image in base64",
                    why="images are not fetched from other servers",
                    fix="Send the file as data:image/png;base64,…",
                )
        self._check_images(len(files))
        self._check_texts(len(texts))
        rows: dict[int, NDArray[np.float32]] = {}
        if files:
            rows.update(zip(places, self.backend.embed_images(files), strict=True))
        if texts:
            others = (place for place, text in enumerate(inputs) if not is_image(text))
            rows.update(zip(others, self.backend.embed_texts(texts), strict=True))
        width = len(rows[0])
        if request.dimensions not in {None, width}:
            raise UsageError(
                f"embeddings with {request.dimensions} dimensions are not available",
                why=f"those of this model have {width}",
                fix="Leave `dimensions` out.",
            )
        data = [
            Embedding(index=place, embedding=_written(rows[place], request.encoding_format))
            for place in range(len(inputs))
        ]
        return EmbeddingsReply(data=data, model=self.name, usage=Usage(num_images=len(files)))

    def similarity(self, request: SimilarityRequest) -> SimilarityReply:
        """Cosines of images and texts."""
        self._check_images(len(request.images))
        self._check_texts(len(request.texts))
        files = [decoded_image(text, place, len(request.images)) for place, text in enumerate(request.images)]
        cosines = global_score(self.backend.embed_images(files), self.backend.embed_texts(request.texts))
        return SimilarityReply(similarity=cosines.tolist(), bundle=self.backend.spec.sha256)

    def _findings(self, question: Question) -> FindingSet:
        """The findings that a question names.

        Raises:
            FindingsError: a name is unknown, a prompt cannot be used, or there are too many.
        """
        own = self.backend.spec.findings
        if question.findings is None and question.prompts is None:
            return own
        if not question.findings and not question.prompts:
            raise FindingsError("the request names no findings", fix="Leave out `findings` and `prompts` for all.")
        # Each has at least one text.
        self._check_texts(len(question.findings or ()) + len(question.prompts or ()))
        named = [_finding(one, own) for one in question.findings or ()]
        findings = FindingSet((*named, *(Finding(text.strip()) for text in question.prompts or ())))
        self._check_texts(len(findings.prompts))
        return findings

    def _reply(
        self, predictions: list[Prediction], findings: FindingSet, heatmaps: list[str] | None = None
    ) -> FindingsReply:
        spec = self.backend.spec
        notes = []
        if not spec.fusion_trained:
            notes.append("The fusion head is not trained: alpha is 0, and region attention has no meaning.")
        if findings is not spec.findings and findings.bare(spec.findings):
            notes.append(
                "This model has prompts in sentences. Where only a name or a few words are compared, probabilities can "
                "be far off."
            )
        return FindingsReply(predictions=predictions, heatmaps=heatmaps, bundle=spec.sha256, notes=notes)

    @reading()
    def _drawn(self, file: bytes, frame: int | None, prediction: Prediction, shown: Sequence[str] | None) -> bytes:
        decoding.reserve(HEATMAP_BYTES)
        return png_bytes(draw_heatmap(read_image(file, frame=frame), prediction, findings=shown))

    def _check_images(self, number: int, most: int | None = None) -> None:
        most = self.options.images if most is None else min(most, self.options.images)
        if number > most:
            raise UsageError(f"a request has {number} images", why=f"the limit is {most}", fix="Send several requests.")

    def _check_texts(self, number: int) -> None:
        if number > self.options.texts:
            raise FindingsError(
                f"a request has {number} texts", why=f"the limit is {self.options.texts}", fix="Send several requests."
            )


def _finding(one: str | NewFinding, own: FindingSet) -> Finding:
    if isinstance(one, str):
        return own.only([one]).findings[0]
    given = {"positive": one.positive, "negative": one.negative}
    return Finding(one.name, **{sign: tuple(texts) for sign, texts in given.items() if texts is not None})


def _written(row: NDArray[np.float32], encoding: str) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode()
    numbers: list[float] = row.tolist()
    return numbers

"""`ZeroShotClassifier`: from images to findings and the image regions that support them."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lrclr.budget import CACHE_BYTES
from lrclr.bundle import Bundle
from lrclr.errors import FindingsError, ImageError, LrclrError, UsageError, needing_torch
from lrclr.inference._decoding import BATCH_SIZE, DecodedImage, decoded_batches, require_list
from lrclr.inference._ensemble import averaged, of_each
from lrclr.inference._features import ImageFeatures
from lrclr.inference._model_spec import ModelSpec
from lrclr.inference._network import Network
from lrclr.inference._results import Answers, ImageEmbeddings

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from lrclr.checkpoints import Checkpoint
    from lrclr.engines import Engine
    from lrclr.inference._decoding import ImageSource
    from lrclr.inference._results import Prediction
    from lrclr.text import FindingSet

Result = TypeVar("Result")


class ZeroShotClassifier:
    """Zero-shot classifier for chest x-rays: one network, or an ensemble. Safe to call from several threads.

    The probability of an ensemble is the mean of its members'; see `lrclr.inference.Answers` for the rest. An ensemble
    has no embeddings, since those of its members are in different spaces.

    Args:
        model: a bundle, or the specification of a model.
        engine: runs the model's graphs; of an ensemble `lrclr.engines.MemberEngines`.
        members: members of an ensemble, in order, instead of those of the bundle.
        lead: index of the member that gives the regions, if `members` are given.

    Attributes:
        spec: preprocessing, tokenizer, findings and scoring of the model.
        engine: runs the model's graphs.
        members: the classifier of each member of an ensemble; of a single network this one alone.
        lead: index of the member that gives the regions.
        prompt_cache: features of prompts that were encoded before; of an ensemble those of one member.
    """

    def __init__(
        self,
        model: Bundle | ModelSpec,
        engine: Engine,
        *,
        members: Sequence[ZeroShotClassifier] = (),
        lead: int = 0,
    ) -> None:
        self._bundle = model if isinstance(model, Bundle) else None
        self.spec = ModelSpec.of_bundle(model) if isinstance(model, Bundle) else model
        self.engine = engine
        if self._bundle is not None and len(self._bundle.members) > 1:
            from lrclr.engines import engines_of

            pairs = zip(self._bundle.members, engines_of(engine), strict=True)
            members, lead = [ZeroShotClassifier(*pair) for pair in pairs], self._bundle.manifest.lead
        self.members: tuple[ZeroShotClassifier, ...] = tuple(members) or (self,)
        self.lead = lead
        self._networks = tuple(member._network for member in members) if members else (Network(self.spec, engine),)  # noqa: SLF001 - of this class
        for network in self._networks:
            # All members are asked for the same prompts, and share the memory of one cache.
            network.prompt_cache.max_bytes = CACHE_BYTES // len(self._networks)
        self.prompt_cache = self._networks[lead].prompt_cache

    @classmethod
    def from_bundle(
        cls,
        path: str | os.PathLike[str],
        *,
        engine: str | None = None,
        provider: str = "cpu",
        threads: int | None = None,
    ) -> ZeroShotClassifier:
        """Open a bundle.

        Args:
            path: the bundle's folder.
            engine: one of `lrclr.engines.ENGINES`; None for the engine that the bundle was made for.
                `lrclr.auto.open_model` can also choose the fastest engine on this machine.
            provider: execution provider of ONNX Runtime: ``"cpu"`` or ``"cuda"``.
            threads: threads of one operator in ONNX Runtime or OpenVINO; None for one per core.
        """
        # Imported here: clients, training and reports use this package without an engine.
        from lrclr.engines import EngineOptions, open_named_engine

        bundle = Bundle(path)
        return cls(bundle, open_named_engine(bundle, EngineOptions(engine, provider, threads)))

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint | str | os.PathLike[str], *, device: str = "cpu"
    ) -> ZeroShotClassifier:
        """Open a checkpoint with PyTorch. It is slower than its bundle, and the reference that gates compare with.

        Args:
            checkpoint: in memory, or the file or folder to read it from.
            device: torch device, such as ``"cpu"`` or ``"cuda"``.
        """
        with needing_torch("reading a checkpoint"):
            from lrclr.checkpoints import Checkpoint, load_checkpoint
            from lrclr.engines._torch import TorchEngine

        loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)
        return cls(ModelSpec.of_checkpoint(loaded), TorchEngine(loaded.model, device))

    @property
    def bundle(self) -> Bundle:
        """The bundle.

        Raises:
            UsageError: the model is not in a bundle. `spec` describes every kind of model.
        """
        if self._bundle is None:
            raise UsageError(f"this classifier has no bundle: its model is a {self.spec.kind}")
        return self._bundle

    def changed(self, change: Callable[[ModelSpec], ModelSpec]) -> ZeroShotClassifier:
        """Return the same networks on the same engine, with other specifications, such as another preprocessing."""
        members = [] if self.members == (self,) else [member.changed(change) for member in self.members]
        return ZeroShotClassifier(change(self.spec), self.engine, members=members, lead=self.lead)

    @property
    def fusion_trained(self) -> bool:
        """Whether the fusion head is trained."""
        return self.spec.fusion_trained

    def predict(
        self,
        images: Sequence[ImageSource],
        *,
        findings: FindingSet | None = None,
        alpha: float | None = None,
        frame: int | None = None,
        exact: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> list[Prediction]:
        """Predict the findings of images. They are read as `lrclr predict` reads them, with the same defaults.

        Args:
            images: paths, bytes of image files (PNG, JPEG, TIFF, DICOM), binary file objects, arrays, Pillow images, or
                what `lrclr.images.read_for_model` returned: any number, of any sizes. Arrays are ``[H, W]``,
                ``[H, W, 3]`` or ``[H, W, 4]`` of uint8, uint16, bool, or floats in [0, 1]; see `lrclr.read_image`.
            findings: what to predict; the model's own findings if not given.
            alpha: weight of the local score in [0, 1], instead of the model's.
            frame: which frame of files with several frames, from 0.
            exact: decode every pixel. By default large JPEG 2000 images are decoded at a lower resolution; see
                `lrclr.images.read_for_model`.
            batch_size: images that the image encoder takes at once. Results of another batch size differ by rounding.

        Returns:
            One prediction for each image, in order.

        Raises:
            UsageError: `images` is one image instead of a list, or `alpha` is not usable with this model.
            FindingsError: a prompt is too long.
            ImageError: an image cannot be read. Of several images, the text says which, by its position.
            MissingExtraError: a package that decodes this format is not installed.
            NonFiniteError: the graphs gave NaN or infinity.
        """
        predictions: list[Prediction] = []
        for batch in self._decoded(images, frame=frame, exact=exact, batch_size=batch_size):
            pixel_values = np.stack([image.pixel_values for image in batch])
            made = self.predict_pixels(pixel_values, [image.size for image in batch], findings, alpha)
            predictions += [
                replace(each, remarks=image.remarks, warnings=image.warnings)
                for each, image in zip(made, batch, strict=True)
            ]
        return predictions

    def embed_images(
        self,
        images: Sequence[ImageSource],
        *,
        frame: int | None = None,
        exact: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> NDArray[np.float32]:
        """Compute the global embeddings of images.

        Args:
            images, frame, exact, batch_size: as for `predict`.

        Returns:
            float32 ``[B, D]``: one row of unit length for each image. The product with `embed_texts`, transposed, is
            the cosine of each image and text.

        Raises:
            NotSupportedError: the model is an ensemble.
            UsageError: `images` is empty, or one image instead of a list.
            ImageError, MissingExtraError, NonFiniteError: as `predict`.
        """
        embed = self._network.embed
        batches = self._decoded(images, frame=frame, exact=exact, batch_size=batch_size)
        rows = [embed(np.stack([image.pixel_values for image in batch])).image for batch in batches]
        if not rows:
            raise UsageError("embed_images got an empty list of images")
        return np.concatenate(rows)

    def embed_regions(
        self,
        images: Sequence[ImageSource],
        *,
        frame: int | None = None,
        exact: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> ImageEmbeddings:
        """Compute the embeddings of images and of their selected regions.

        The arguments and errors are those of `embed_images`. `lrclr.embedding` writes the embeddings of many files to
        Parquet, in bounded memory.
        """
        embed = self._network.embed
        batches = self._decoded(images, frame=frame, exact=exact, batch_size=batch_size)
        parts = [embed(np.stack([image.pixel_values for image in batch])) for batch in batches]
        if not parts:
            raise UsageError("embed_regions got an empty list of images")
        return ImageEmbeddings.joined(parts)

    def embed_pixels(self, pixel_values: NDArray[np.float32]) -> ImageEmbeddings:
        """Compute the embeddings of preprocessed images and of their selected regions.

        Args:
            pixel_values: float32 ``[B, 3, S, S]``, at least one image.

        Raises:
            NotSupportedError: the model is an ensemble.
            ImageError: `pixel_values` has another shape, or contains NaN or infinity.
            NonFiniteError: the graphs gave NaN or infinity.
        """
        return self._network.embed(pixel_values)

    def encode_images(
        self,
        images: Sequence[ImageSource],
        *,
        frame: int | None = None,
        exact: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> list[ImageFeatures]:
        """Run the image encoder alone, for several calls of `predict_features` with different findings.

        Args:
            images, frame, exact, batch_size: as for `predict`.

        Returns:
            The features of each image, in order.

        Raises:
            UsageError, ImageError, MissingExtraError, NonFiniteError: as `predict`.
        """
        features: list[ImageFeatures] = []
        for batch in self._decoded(images, frame=frame, exact=exact, batch_size=batch_size):
            for start in range(0, len(batch), self.spec.max_batch):
                part = batch[start : start + self.spec.max_batch]
                outputs = self._of_each(partial(_encoded, np.stack([image.pixel_values for image in part])))
                features += [ImageFeatures.of_row(outputs, row, image) for row, image in enumerate(part)]
        return features

    def predict_features(
        self, features: Sequence[ImageFeatures], findings: FindingSet | None = None, alpha: float | None = None
    ) -> list[Prediction]:
        """Predict the findings of encoded images. Only the text encoder and the fusion head run.

        Args:
            features: what `encode_images` returned.
            findings, alpha: as for `predict`.

        Returns:
            What `predict` gives for the same images, in order.

        Raises:
            UsageError, FindingsError, NonFiniteError: as `predict`.
        """
        findings = self.spec.asked(findings)
        if not features:
            return []
        batches = {network: ImageFeatures.stacked(features, place) for place, network in enumerate(self._networks)}
        answers = averaged(
            self._of_each(lambda network: network.answer([batches[network]], findings, alpha)), self.lead
        )
        made = self.predictions(answers, [one.size for one in features], findings, alpha)
        return [
            replace(each, remarks=one.remarks, warnings=one.warnings) for each, one in zip(made, features, strict=True)
        ]

    @property
    def _network(self) -> Network:
        self.spec.require_embeddings()
        return self._networks[0]

    def _of_each(self, work: Callable[[Network], Result]) -> list[Result]:
        return of_each(self._networks, work, at_once=getattr(self.engine, "at_once", False))

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Compute the global embeddings of texts. Each text is used as it is, without a template.

        Args:
            texts: such as ``["There is a pleural effusion on the left.", "The costophrenic angles are sharp."]``.

        Returns:
            float32 ``[P, D]``: one row of unit length for each text.

        Raises:
            NotSupportedError: the model is an ensemble.
            FindingsError: `texts` is empty, one text instead of a list, or a text is too long.
            NonFiniteError: the graphs gave NaN or infinity.
        """
        if isinstance(texts, str):
            raise FindingsError("embed_texts takes a list of texts, not one text", fix="Write embed_texts([text]).")
        if len(texts) == 0:
            raise FindingsError("embed_texts got an empty list of texts")
        return self._network.prompt_cache.features(tuple(texts)).embedding.copy()

    def _decoded(
        self, images: Sequence[ImageSource], *, frame: int | None, exact: bool, batch_size: int
    ) -> Iterator[list[DecodedImage]]:
        """Read images in batches, and raise the first error with the image's position."""
        require_list(images)
        count = len(images) if isinstance(images, Sized) else None
        position = 0
        for batch in decoded_batches(images, self.spec.preprocess, batch_size=batch_size, frame=frame, exact=exact):
            decoded = []
            for _, outcome in batch:
                position += 1
                if isinstance(outcome, LrclrError):
                    if count != 1:
                        of = "" if count is None else f" of {count}"
                        outcome.what = f"image {position}{of}: {outcome.what}"
                    raise outcome
                decoded.append(outcome)
            yield decoded

    def predict_pixels(
        self,
        pixel_values: NDArray[np.float32],
        sizes: Sequence[tuple[int, ...]],
        findings: FindingSet | None = None,
        alpha: float | None = None,
    ) -> list[Prediction]:
        """Predict the findings of preprocessed images.

        Args:
            pixel_values: float32 ``[B, 3, S, S]``.
            sizes: height and width of each original image, in pixels.
            findings, alpha: as for `predict`.
        """
        side = self.spec.preprocess.image_size
        if pixel_values.shape != (len(sizes), 3, side, side):
            raise ImageError(
                f"pixel values have shape {list(pixel_values.shape)}", why=f"expected [{len(sizes)}, 3, {side}, {side}]"
            )
        findings = self.spec.asked(findings)
        alpha = self.spec.checked_alpha(alpha)
        if len(sizes) == 0:
            return []
        answers = self.answer_pixels(pixel_values, findings, alpha)
        return self.predictions(answers, sizes, findings, alpha)

    def answer_pixels(
        self, pixel_values: NDArray[np.float32], findings: FindingSet | None = None, alpha: float | None = None
    ) -> Answers:
        """Compute the arrays from which `predict_pixels` makes predictions.

        Args:
            pixel_values: float32 ``[B, 3, S, S]``, preprocessed.
            findings: what to predict; the model's own findings if not given.
            alpha: weight of the local score in the probability, instead of the model's.

        Raises the errors of `predict`.
        """
        return averaged(self.answer_members(pixel_values, findings, alpha), self.lead)

    def answer_members(
        self, pixel_values: NDArray[np.float32], findings: FindingSet | None = None, alpha: float | None = None
    ) -> list[Answers]:
        """As `answer_pixels`, but the answers of each member of an ensemble instead of their mean."""
        findings = self.spec.asked(findings)
        return self._of_each(lambda network: network.answer(network.encode(pixel_values), findings, alpha))

    def predictions(
        self,
        answers: Answers,
        sizes: Sequence[tuple[int, ...]],
        findings: FindingSet | None = None,
        alpha: float | None = None,
    ) -> list[Prediction]:
        """Convert the result of `answer_pixels` to predictions.

        Args:
            answers: answers of B images.
            sizes: height and width of each original image, in pixels.
            findings, alpha: as given to `answer_pixels`.
        """
        findings = self.spec.asked(findings)
        boxes = []
        for (height, width), patches in zip(sizes, answers.region_index.tolist(), strict=True):
            geometry = self.spec.preprocess.geometry(height, width)
            boxes.append([geometry.box(patch, self.spec.patch_size) for patch in patches])
        return answers.predictions(
            findings.names, sizes, boxes, alpha=self.spec.checked_alpha(alpha), fusion_trained=self.spec.fusion_trained
        )


def _encoded(pixel_values: NDArray[np.float32], network: Network) -> dict[str, NDArray[Any]]:
    (outputs,) = network.encode(pixel_values)
    return outputs

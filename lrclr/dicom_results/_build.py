"""`ResultBuilder`: from a DICOM image and its prediction to DICOM objects."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from lrclr.dicom_results._source import ResultRefusedError
from lrclr.dicom_results._uids import hashed_uid
from lrclr.errors import ImageError, UsageError
from lrclr.images._guard import attempt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lrclr.dicom_results._source import DicomSource
    from lrclr.inference import Prediction
    from lrclr.text import FindingSet

Kind = Literal["sr", "sc", "gsps"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
_SERIES_NUMBERS: Final = {"sr": 9001, "gsps": 9002, "sc": 9003}
_IN_WORDS: Final = {"sr": "structured report", "sc": "secondary capture", "gsps": "presentation state"}


@dataclass(frozen=True)
class ResultModel:
    """What answers, as far as results depend on it.

    Attributes:
        bundle_sha256: hash of the bundle's manifest.
        findings: the requested findings.
        exact: whether images are read in full; see `lrclr.images.read_for_model`.
    """

    bundle_sha256: str
    findings: FindingSet
    exact: bool = False

    @property
    def key(self) -> str:
        """A hash of all of them."""
        prompts = [[each.name, each.positive, each.negative] for each in self.findings.findings]
        return hashlib.sha256(json.dumps([self.bundle_sha256, prompts, self.exact]).encode()).hexdigest()


class ResultBuilder:
    """Makes DICOM objects of predictions. Safe to call from several threads.

    The UID of an object follows from the source image, the bundle, the findings, alpha and the kind: an object that is
    made again differs in its time of creation only, and takes the place of the first one in an archive.

    Args:
        model: what answered.
    """

    def __init__(self, model: ResultModel) -> None:
        self.model = model

    def uid(self, kind: Kind, source: DicomSource, alpha: float) -> str:
        """The SOP instance UID of a result."""
        return hashed_uid(kind, source.uid, str(source.frame), self.model.key, f"{alpha:.6g}")

    def build(
        self, kind: Kind, source: DicomSource, prediction: Prediction, picture: NDArray[np.uint8] | None = None
    ) -> bytes:
        """A DICOM file.

        Args:
            kind: ``"sr"`` for a structured report, ``"sc"`` for the heat map as a secondary capture, ``"gsps"`` for a
                presentation state.
            source: the image.
            prediction: the answer for it.
            picture: the image in full, as `lrclr.images.read_image` gives it; for ``"sc"``.

        Raises:
            ResultRefusedError: the attributes of the source do not suffice. The text quotes none of their values.
            UsageError: the heat map needs the picture.
        """
        uids = {
            "instance": self.uid(kind, source, prediction.alpha),
            "series": hashed_uid(kind, "series", source.study, self.model.key, f"{prediction.alpha:.6g}"),
        }
        shared: dict[str, Any] = {
            "bundle_sha256": self.model.bundle_sha256,
            "uids": uids,
            "series_number": _SERIES_NUMBERS[kind],
        }
        if source.is_own_result:
            raise ResultRefusedError("there is no DICOM result for this image", why="lrclr wrote the image itself")

        def step() -> bytes:
            # Imported here: highdicom takes a second to import.
            if kind == "sr":
                from lrclr.dicom_results._report import build_report

                return _encoded(source, build_report(source, prediction, **shared))
            if kind == "gsps":
                from lrclr.dicom_results._presentation import build_presentation

                return _encoded(source, build_presentation(source, prediction, **shared))
            if picture is None:
                raise UsageError("a heat map needs the image")
            from lrclr.dicom_results._heatmap import build_heatmap

            return _encoded(source, build_heatmap(source, prediction, picture, **shared))

        failure = f"there is no {_IN_WORDS[kind]} for this image"
        try:
            return attempt(step, failure=failure)
        except ImageError as error:
            raise ResultRefusedError(
                failure, why=error.why or "highdicom cannot make one from the attributes of the DICOM file"
            ) from None


def _encoded(source: DicomSource, result: Any) -> bytes:
    result.SpecificCharacterSet = "ISO_IR 192"
    for keyword in (
        *("IssuerOfPatientID", "PatientIdentityRemoved", "DeidentificationMethod"),
        *("DeidentificationMethodCodeSequence", "LongitudinalTemporalInformationModified"),
    ):
        if keyword in source.dataset:
            result[keyword] = source.dataset[keyword]
    stream = BytesIO()
    result.save_as(stream, enforce_file_format=True)
    return stream.getvalue()

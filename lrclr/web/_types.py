"""Requests and answers of the REST API. The OpenAPI document is made from these types and from `Prediction`."""

# No postponed annotations here: pydantic needs the types.
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lrclr.inference import Prediction

_ALPHA = Annotated[
    float | None,
    Field(ge=0.0, le=1.0, description="Weight of the local score, instead of the model's."),
]
_FRAME = Annotated[int | None, Field(ge=0, le=2**31 - 1, description="Frame to read of files with several, from 0.")]
_EXACT = Annotated[
    bool,
    Field(description="Decode every pixel. By default, large JPEG 2000 images are decoded at a lower resolution."),
]
_IMAGE = Annotated[str, Field(description="An image file (PNG, JPEG, TIFF, DICOM) in base64, or as a data URL.")]


class _Request(BaseModel):
    """A misspelt member is an error, not a default."""

    model_config = ConfigDict(extra="forbid")


class NewFinding(_Request):
    """A finding with its own prompts, as in a findings file. `{}` in a prompt stands for the name."""

    name: str
    positive: list[str] | None = Field(None, description="Prompts that say it is there. Default: the name itself.")
    negative: list[str] | None = Field(None, description='Prompts that say it is not. Default: "no {}".')


class Question(_Request):
    """What to look for. Without `findings` and `prompts`, all findings of the model are answered."""

    findings: list[str | NewFinding] | None = Field(
        None, description="Names of the model's findings, or findings with their own prompts."
    )
    prompts: list[str] | None = Field(
        None, description='Free texts. Each is compared with "no " and the text, and answered after `findings`.'
    )
    alpha: _ALPHA = None


class FindingsRequest(Question):
    """Images, and what to look for in them."""

    images: list[_IMAGE] = Field(min_length=1)
    frame: _FRAME = None
    exact: _EXACT = False
    heatmap: bool = Field(False, description="Draw a heat map of each image.")


class HeatmapRequest(Question):
    """What to draw."""

    shown: list[str] | None = Field(
        None, description="Names of the findings to draw. Default: the most probable ones.", max_length=12
    )


class FindingsReply(BaseModel):
    """Answers. Research use only: this is not a medical device."""

    predictions: list[Prediction] = Field(description="One per image, in order.")
    heatmaps: list[str] | None = Field(None, description="PNG files in base64, one per image, if requested.")
    bundle: str = Field(description="SHA-256 of the manifest of the bundle that answered.")
    notes: list[str] = Field([], description="Sentences on how far the answers can be trusted.")


class KeptReply(FindingsReply):
    """The answer for an image that is kept for further questions."""

    id: str = Field(description="Key of the image, in paths below `/v1/images`. Who knows it can see the image.")
    dicom: bool = Field(description="Whether the file is DICOM, so that a structured report can be made.")
    expires: float = Field(description="Seconds without a question after which the image is forgotten.")


class EmbeddingsRequest(BaseModel):
    """OpenAI's request for embeddings. As for NV-CLIP, an input may also be an image, as a data URL."""

    # OpenAI's clients may send members that do not matter here.
    model_config = ConfigDict(extra="ignore")

    input: str | list[str] = Field(description="Texts, and images as data URLs.")
    model: str = Field("lrclr", description="Any name. The answer names the model that answered.")
    encoding_format: Literal["float", "base64"] = Field("float", description="`base64`: little-endian float32.")
    dimensions: int | None = Field(None, description="The model's own number of dimensions, or nothing.")
    user: str | None = Field(None, description="Ignored.")


class Embedding(BaseModel):
    """The embedding of one input."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="A vector of unit length, as numbers or in base64.")


class Usage(BaseModel):
    """Numbers that OpenAI's clients expect. Tokens are not counted."""

    prompt_tokens: int = 0
    total_tokens: int = 0
    num_images: int = 0


class EmbeddingsReply(BaseModel):
    """Embeddings, in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class SimilarityRequest(_Request):
    """Images and texts to compare."""

    images: list[_IMAGE] = Field(min_length=1)
    texts: list[str] = Field(min_length=1, description="Each text is used as it is, without a template.")


class SimilarityReply(BaseModel):
    """Cosines of the embeddings."""

    similarity: list[list[float]] = Field(description="A row for each image, a column for each text.")
    bundle: str


class OwnFinding(BaseModel):
    """A finding of the model."""

    name: str
    positive: list[str]
    negative: list[str]


class ModelReply(BaseModel):
    """The model that answers."""

    name: str
    bundle: str = Field(description="SHA-256 of the bundle's manifest.")
    checkpoint: str = Field(description="SHA-256 of the weights that the bundle was made of.")
    precision: str
    engine: str
    version: str = Field(description="Version of lrclr.")
    alpha: float = Field(description="Weight of the local score unless a request says otherwise.")
    fusion_trained: bool = Field(description="If not, alpha is 0, and region attention has no meaning.")
    findings: list[OwnFinding]
    preprocess: dict[str, Any]
    warnings: dict[str, str] = Field(description="What each code of `Prediction.warnings` means.")
    limits: dict[str, float] = Field(description="Bytes, images and texts of a request; what is kept.")
    disclaimer: str = "Research use only. Not a medical device."


class SampleReply(BaseModel):
    """A synthetic radiograph for a first try."""

    name: str
    finding: str | None
    files: dict[str, str] = Field(description="Path by format.")


class Health(BaseModel):
    """State of the process."""

    status: Literal["ok"]


class InvalidMember(BaseModel):
    """A member that is not valid."""

    pointer: str = Field(description="JSON pointer to it.")
    detail: str


class Problem(BaseModel):
    """Problem details (RFC 9457). They quote names of findings, and nothing else of what was sent."""

    type: str = Field(description="`/errors#` and the class of the error, or `about:blank`.")
    title: str
    status: int
    detail: str = Field(description="What happened, why, and what to do.")
    message: str = Field(description="As `detail`, for OpenAI's clients.")
    what: str | None = None
    why: str | None = None
    fix: str | None = None
    errors: list[InvalidMember] | None = None


class FindingsForm(Question):
    """The fields of a multipart form. Each value is JSON; names and prompts may be bare texts."""

    images: list[Annotated[str, Field(json_schema_extra={"format": "binary"})]] = Field(
        [], description="Files: PNG, JPEG, TIFF or DICOM."
    )
    frame: _FRAME = None
    exact: _EXACT = False
    heatmap: bool = Field(False, description="Draw a heat map of each image.")

    def request(self) -> FindingsRequest:
        """The same question in the JSON form, without the files."""
        return FindingsRequest.model_construct(**{**dict(self), "images": []})

"""The zero-shot classifier, the description of a model, results, and heat maps."""

from __future__ import annotations

from lrclr.inference._classifier import ZeroShotClassifier
from lrclr.inference._decoding import ImageSource
from lrclr.inference._features import ImageFeatures
from lrclr.inference._files import FileResult, predict_files
from lrclr.inference._heatmap import draw_heatmap, png_bytes, save_heatmap
from lrclr.inference._model_spec import ModelSpec
from lrclr.inference._prompt_cache import PromptCache, PromptFeatures
from lrclr.inference._results import Answers, FindingResult, ImageEmbeddings, Prediction, Region
from lrclr.inference._scores import (
    CALIBRATION_KEYS,
    ScoreCalibration,
    check_alpha,
    check_negatives,
    combined_score,
    finding_scores,
    global_score,
)

__all__ = [
    "CALIBRATION_KEYS",
    "Answers",
    "FileResult",
    "FindingResult",
    "ImageEmbeddings",
    "ImageFeatures",
    "ImageSource",
    "ModelSpec",
    "Prediction",
    "PromptCache",
    "PromptFeatures",
    "Region",
    "ScoreCalibration",
    "ZeroShotClassifier",
    "check_alpha",
    "check_negatives",
    "combined_score",
    "draw_heatmap",
    "finding_scores",
    "global_score",
    "png_bytes",
    "predict_files",
    "save_heatmap",
]

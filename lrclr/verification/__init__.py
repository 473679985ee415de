"""Gates: checks that can refuse a bundle. They compare an engine with PyTorch's outputs (`Golden`), without torch."""

from lrclr.bundle import Golden
from lrclr.verification._inputs import gate_images, gate_prompts, images_sha256
from lrclr.verification._measure import absolute_error, centred_cosine, cosine, region_gap
from lrclr.verification._result import GateResult, Tolerances, raise_refused
from lrclr.verification._run import run_gates
from lrclr.verification._task import LEAST_AUROC, auroc, task_auroc, task_auroc_of, task_gate, task_images
from lrclr.verification._verify import VerificationReport, average_gate, verify

__all__ = [
    "LEAST_AUROC",
    "GateResult",
    "Golden",
    "Tolerances",
    "VerificationReport",
    "absolute_error",
    "auroc",
    "average_gate",
    "centred_cosine",
    "cosine",
    "gate_images",
    "gate_prompts",
    "images_sha256",
    "raise_refused",
    "region_gap",
    "run_gates",
    "task_auroc",
    "task_auroc_of",
    "task_gate",
    "task_images",
    "verify",
]

"""Gates: checks that can refuse a bundle. They need no torch: an engine and PyTorch's answers (`Golden`) are enough."""

from lrclr.gates._golden import Golden, GraphOutputs
from lrclr.gates._inputs import gate_images, gate_prompts, images_sha256
from lrclr.gates._measure import centred_cosine, region_gap
from lrclr.gates._result import GateResult, Tolerances, raise_refused
from lrclr.gates._run import run_gates
from lrclr.gates._task import LEAST_AUROC, auroc, task_auroc, task_auroc_of, task_gate
from lrclr.gates._verify import VerificationReport, verify

__all__ = [
    "LEAST_AUROC",
    "GateResult",
    "Golden",
    "GraphOutputs",
    "Tolerances",
    "VerificationReport",
    "auroc",
    "centred_cosine",
    "gate_images",
    "gate_prompts",
    "images_sha256",
    "raise_refused",
    "region_gap",
    "run_gates",
    "task_auroc",
    "task_auroc_of",
    "task_gate",
    "verify",
]

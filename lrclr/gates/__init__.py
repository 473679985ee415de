"""Gates: checks that can refuse a bundle. They need no torch: only an engine, and what PyTorch answered (`Golden`)."""

from lrclr.gates._golden import Golden
from lrclr.gates._measure import centred_cosine, region_gap
from lrclr.gates._result import GateResult, Tolerances, raise_refused
from lrclr.gates._run import run_gates
from lrclr.gates._task import LEAST_AUROC, auroc, task_auroc, task_auroc_of, task_gate

__all__ = [
    "LEAST_AUROC",
    "GateResult",
    "Golden",
    "Tolerances",
    "auroc",
    "centred_cosine",
    "raise_refused",
    "region_gap",
    "run_gates",
    "task_auroc",
    "task_auroc_of",
    "task_gate",
]

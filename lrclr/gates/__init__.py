"""Gates: checks that can refuse a bundle. They need no torch: only an engine, and what PyTorch answered (`Golden`)."""

from lrclr.gates._golden import Golden
from lrclr.gates._result import GateResult, Tolerances, raise_refused
from lrclr.gates._run import run_gates

__all__ = ["GateResult", "Golden", "Tolerances", "raise_refused", "run_gates"]

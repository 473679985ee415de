"""Options of plans."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from lrclr.engines import PLAN_ENGINES
from lrclr.errors import UsageError

_COMPATIBLE: Final = ("none", "ampere+", "same-capability")


@dataclass(frozen=True)
class BuildOptions:
    """Options of plans.

    Attributes:
        engine: ``"tensorrt"`` or ``"tensorrt-rtx"``.
        compute_capabilities: GPUs to build for, such as ``("8.6", "8.9")``, TensorRT-RTX only; by default this
            machine's GPU.
        version_compatible: whether newer versions of the library can run the plan, which then contains a runtime, and
            so code. TensorRT only.
        hardware_compatible: other GPUs that can run the plan: ``"none"``, ``"ampere+"`` or ``"same-capability"``.
        refit: whether its weights can be exchanged.
        strip: omit the weights, which are read from the ONNX file when the plan is loaded.
        workspace_mib: largest memory of a layer while it runs; None for the default of the library.
        builder_level: 0 to 5, from the fastest build to the fastest plan; None for the default of the library.
        timing_cache: file with measurements for later builds, which is read and written. TensorRT only.
    """

    engine: str
    compute_capabilities: tuple[str, ...] = ()
    version_compatible: bool = False
    hardware_compatible: str = "none"
    refit: bool = False
    strip: bool = False
    workspace_mib: int | None = None
    builder_level: int | None = None
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.engine not in PLAN_ENGINES:
            raise UsageError(f"the engine {self.engine!r} has no plans", fix=f"Choose {' or '.join(PLAN_ENGINES)}.")
        if self.compute_capabilities and self.engine != "tensorrt-rtx":
            raise UsageError(
                "only TensorRT-RTX builds for other GPUs than this machine's",
                fix="Omit --compute-capability, and build on the machine that serves.",
            )
        if self.timing_cache is not None and self.engine == "tensorrt-rtx":
            raise UsageError("TensorRT-RTX has no timing cache", fix="Omit --timing-cache.")
        if self.version_compatible and self.engine == "tensorrt-rtx":
            raise UsageError(
                "TensorRT-RTX cannot build plans for newer versions",
                why="it does not include the runtime that such plans contain",
                fix="Omit --version-compatible.",
            )
        for capability in self.compute_capabilities:
            if not re.fullmatch(r"\d+\.\d", capability):
                raise UsageError(f"{capability!r} is not a compute capability", fix="Write it like 8.6.")
        if self.hardware_compatible not in _COMPATIBLE:
            raise UsageError(
                f"unknown hardware compatibility {self.hardware_compatible!r}",
                fix=f"Choose {', '.join(_COMPATIBLE)}.",
            )
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError("a workspace needs at least 1 MiB")
        if self.builder_level is not None and not 0 <= self.builder_level <= 5:
            raise UsageError(f"unknown builder level {self.builder_level}", fix="Choose 0 to 5.")

    def to_dict(self) -> dict[str, Any]:
        """The options that change the plan, in JSON's types, for the manifest."""
        kept = asdict(self)
        for name in ("engine", "compute_capabilities", "timing_cache"):
            del kept[name]
        return kept

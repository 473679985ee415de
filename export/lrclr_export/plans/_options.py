"""How plans are built."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from lrclr.engines import PLAN_ENGINES
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

_COMPATIBLE: Final = ("none", "ampere+", "same-capability")


@dataclass(frozen=True)
class BuildOptions:
    """Checked when made.

    Attributes:
        engine: ``"tensorrt"`` or ``"tensorrt-rtx"``.
        compute_capabilities: to build for ahead of time, such as ``("8.6", "8.9")``; TensorRT-RTX only. None given
            means this machine's GPU.
        version_compatible: whether newer versions of the library may run the plan, which then brings a runtime of its
            own: code. TensorRT only.
        hardware_compatible: ``"none"``, ``"ampere+"`` or ``"same-capability"``: what other GPUs may.
        refit: whether its weights can be exchanged.
        strip: leave the weights out; they are taken from the ONNX file when the plan is loaded.
        workspace_mib: most memory that a layer may use while it runs; None for the library's own limit.
        builder_level: 0 to 5, from the quickest build to the quickest plan; None for the library's own.
        timing_cache: a file of measurements that further builds need not repeat; it is read and written. TensorRT only.
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
            raise UsageError(
                f"there is nothing to build for the engine {self.engine!r}", fix=f"Choose {' or '.join(PLAN_ENGINES)}."
            )
        if self.compute_capabilities and self.engine != "tensorrt-rtx":
            raise UsageError(
                "only TensorRT-RTX builds for other GPUs than this machine's",
                fix="Leave --compute-capability out, and build on the machine that serves.",
            )
        if self.timing_cache is not None and self.engine == "tensorrt-rtx":
            raise UsageError("TensorRT-RTX keeps no timing cache", fix="Leave --timing-cache out.")
        if self.version_compatible and self.engine == "tensorrt-rtx":
            raise UsageError(
                "TensorRT-RTX builds no plans for newer versions of it",
                why="it comes without the runtime that such plans bring",
                fix="Leave --version-compatible out.",
            )
        for capability in self.compute_capabilities:
            if not re.fullmatch(r"\d+\.\d", capability):
                raise UsageError(f"{capability!r} is no compute capability", fix="Write it like 8.6.")
        if self.hardware_compatible not in _COMPATIBLE:
            raise UsageError(
                f"there is no hardware compatibility {self.hardware_compatible!r}",
                fix=f"Choose {', '.join(_COMPATIBLE)}.",
            )
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError("a workspace needs at least 1 MiB")
        if self.builder_level is not None and not 0 <= self.builder_level <= 5:
            raise UsageError(f"there is no builder level {self.builder_level}", fix="Choose 0 to 5.")

    def to_dict(self) -> dict[str, Any]:
        """For the manifest: what changes the plan."""
        kept = asdict(self)
        for name in ("engine", "compute_capabilities", "timing_cache"):
            del kept[name]
        return kept

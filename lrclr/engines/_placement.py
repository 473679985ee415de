"""Whether ONNX Runtime put the work where it was asked to: what a provider lacks goes to the CPU without a word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrclr.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

# What costs time. The arithmetic of shapes is kept on the CPU on purpose, by every provider.
_WORK = frozenset(
    {
        "Attention",
        "BiasGelu",
        "Conv",
        "FastGelu",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "Gelu",
        "Gemm",
        "LayerNormalization",
        "MatMul",
        "MultiHeadAttention",
        "QuickGelu",
        "SkipLayerNormalization",
        "Softmax",
        "TopK",
    }
)


def require_placed(session: Any, provider: str, graph: str) -> None:
    """Make sure that all of a session's work is on one provider.

    Args:
        session: made with the option ``session.record_ep_graph_assignment_info``.
        provider: in ONNX Runtime's words.
        graph: its name, for the error.

    Raises:
        EngineError: a node of weight is elsewhere; the error names it.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise EngineError(
            f"this ONNX Runtime cannot say where it put the nodes of {graph}", fix="Install onnxruntime 1.24 or newer."
        )
    strays = list(_strays(session, provider))
    if strays:
        name, operator, other = strays[0]
        raise EngineError(
            f"ONNX Runtime put {len(strays)} nodes of {graph} on another provider than {provider}",
            why=f"the first is {name} ({operator}) on {other}",
            fix="Use the CUDA build of onnxruntime that its release notes name for your CUDA, or the provider cpu.",
        )


def _strays(session: Any, provider: str) -> Iterator[tuple[str, str, str]]:
    for part in session.get_provider_graph_assignment_info():
        if part.ep_name != provider:
            for node in part.get_nodes():
                if node.op_type in _WORK:
                    yield node.name, node.op_type, part.ep_name

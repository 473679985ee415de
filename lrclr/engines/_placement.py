"""Checks that ONNX Runtime runs a graph on the given provider. It runs unsupported operators on the CPU silently."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lrclr.errors import EngineError

# Operators that take time. Every provider leaves the arithmetic of shapes on the CPU.
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
    """Check that all costly operators of a session are on one provider.

    Args:
        session: made with the option ``session.record_ep_graph_assignment_info``.
        provider: ONNX Runtime's name of the provider.
        graph: name of the graph, for the error.

    Raises:
        EngineError: a costly node is on another provider. The error names it.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise EngineError(
            f"this ONNX Runtime cannot report the provider of the nodes of {graph}",
            fix="Install onnxruntime 1.24 or newer.",
        )
    misplaced = list(_misplaced(session, provider))
    if misplaced:
        name, operator, other = misplaced[0]
        raise EngineError(
            f"ONNX Runtime put {len(misplaced)} nodes of {graph} on another provider than {provider}",
            why=f"the first is {name} ({operator}) on {other}",
            fix="Use the CUDA build of onnxruntime that its release notes name for your CUDA, or the provider cpu.",
        )


def _misplaced(session: Any, provider: str) -> Iterator[tuple[str, str, str]]:
    for part in session.get_provider_graph_assignment_info():
        if part.ep_name != provider:
            for node in part.get_nodes():
                if node.op_type in _WORK:
                    yield node.name, node.op_type, part.ep_name

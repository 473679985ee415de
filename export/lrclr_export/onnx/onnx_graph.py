"""A graph of the network as a typed ONNX model."""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
import io
import logging
import re
import warnings
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import InlinePass
from onnxscript import opset18
from onnxscript.rewriter import _DEFAULT_REWRITE_RULES
from torch._dynamo import config as tracing_config
from torch.onnx._internal.exporter._registration import ONNXRegistry

from lrclr.errors import ExportError, UsageError
from lrclr_export.onnx.merged_products import merge_products
from lrclr_export.onnx.region_function import DOMAIN, OP_TYPE, VERSION, region_function
from lrclr_export.onnx.region_node import TRANSLATIONS
from lrclr_export.quantize import TRANSLATIONS as FP8_TRANSLATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lrclr_export.onnx.graphs import GraphSpec

OPSETS = range(18, 24)
INLINED = "model.inlined.onnx"
"""File of a graph without ONNX functions, beside ``model.onnx``."""
_SMALL_WEIGHT = 1024  # bytes; smaller ones stay in the graph
_LAYER = re.compile(
    r"^model\.((?:vision_model|text_model)\.(?:embeddings|pre_layrnorm|post_layernorm|final_layer_norm)"
    # The image tower's last layer is never called as a whole: it is computed for the selected rows only.
    r"|(?:vision_model|text_model)\.encoder\.layers\.\d+"
    r"(?:\.(?:layer_norm1|self_attn\.(?:k_proj|v_proj|q_proj|out_proj)|layer_norm2|mlp))?"
    r"|vision_model\.head\.(?:attention\.out_proj|layernorm|mlp)|vision_model\.pooler"
    r"|text_model\.(?:head|pooler|encoder\.layer\.\d+)"
    r"|visual_projection|text_projection"
    r"|fusion_head\.(?:image_norm|image_projection|text_projection|image_head|text_head"
    r"|blocks\.\d+\.(?:attention_norm|query|key|value|output|mlp_norm|mlp)))$"
)


@dataclass(frozen=True)
class TypedGraph:
    """An ONNX model, and which of its values is the output of which of the network's modules.

    It does not keep the network from which it was made.
    """

    name: str
    model: ir.Model
    layers: dict[str, str]

    def save(self, path: Path) -> SavedGraph:
        """Write ``model.onnx``, and its weights to ``model.onnx.data`` beside it.

        ONNX Runtime maps weights beside a graph into memory. It reads those in a graph, which takes twice the time and
        more memory, and protobuf limits them to 2 GiB.
        """
        ir.save(self.model, path, external_data=f"{path.name}.data", size_threshold_bytes=_SMALL_WEIGHT)
        return SavedGraph(self.name, path, self.layers)


@dataclass(frozen=True)
class SavedGraph:
    """A `TypedGraph` in a file, of which nothing is in memory."""

    name: str
    path: Path
    layers: dict[str, str]

    def load(self) -> TypedGraph:
        """Read it."""
        return TypedGraph(self.name, ir.load(self.path), self.layers)

    def save_inlined(self) -> Path:
        """Write the graph with its functions expanded to `INLINED`, for runtimes that do not expand them themselves.

        It has no weights of its own: both graphs read the same file. TensorRT finds no region kernel in it: it maps the
        function's node to its plugin.
        """
        model = ir.load(self.path)
        InlinePass()(model)
        model.opset_imports.pop(DOMAIN, None)
        model.functions.clear()
        path = self.path.with_name(INLINED)
        ir.save(model, path)
        return path


def typed_onnx_from_module(spec: GraphSpec, *, opset: int) -> TypedGraph:
    """Export one graph; the types of its tensors are those of the module.

    Raises:
        ExportError: torch could not export the module.
        UsageError: the exporter does not write `opset`.
    """
    check_opset(opset)
    try:
        with _quiet(), torch.no_grad():
            program = _traced_once(spec, opset)
    except Exception as error:  # torch.export documents no types
        raise ExportError(
            f"{spec.name} could not be exported", why=(str(error).strip() or repr(error)).splitlines()[0]
        ) from error
    if program is None:
        raise ExportError(f"{spec.name} could not be exported")
    model = program.model
    graph = TypedGraph(spec.name, model, _layers(model.graph))
    merge_products(model)
    _define_region_node(model, opset)
    _strip(model)
    _forget_graphs()
    return graph


def _traced_once(spec: GraphSpec, opset: int) -> torch.onnx.ONNXProgram | None:
    """Translate the operators that torch traces.

    The exporter first has operators replaced by simpler ones, and for that traces the whole network again, which takes
    as long as the rest. Here it does so only if it has no translation for an operator, or one changes its input.
    """
    axes = {axis for of_input in spec.dynamic.values() for axis in of_input.values()}
    # torch keeps the shapes that operators give. With three dynamic axes, to keep them takes longer than it saves.
    with tracing_config.patch(fake_tensor_cache_enabled=len(axes) < 3):
        traced = torch.export.export(
            spec.module.eval(),
            tuple(spec.inputs.values()),
            dynamic_shapes=_dynamic_shapes(spec),
            # As the exporter does it, so that an axis may have the size 1.
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    if not any(_changes_its_input(node.target) for node in traced.graph.nodes):
        traced.run_decompositions = lambda _table: traced
        with contextlib.suppress(torch.onnx.errors.OnnxExporterError):
            return _translated(traced, spec, opset)
        del traced.run_decompositions
    return _translated(traced, spec, opset)


def _changes_its_input(target: object) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable  # noqa: SLF001 - no public way


def _translated(traced: torch.export.ExportedProgram, spec: GraphSpec, opset: int) -> torch.onnx.ONNXProgram | None:
    with _translations_read_once():
        return torch.onnx.export(
            traced,
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=_dynamic_shapes(spec),
            input_names=list(spec.inputs),
            output_names=list(spec.outputs),
            custom_translation_table={torch.ops.aten.to.dtype: _cast, **TRANSLATIONS, **FP8_TRANSLATIONS},
            optimize=True,
            verify=False,
        )


@contextlib.contextmanager
def _translations_read_once() -> Iterator[None]:
    """Let the exporter read onnxscript's translations once in a process.

    It reads them for each graph, and each time parses the source of hundreds of functions.
    """
    original = vars(ONNXRegistry)["from_torchlib"]
    ONNXRegistry.from_torchlib = staticmethod(_translations)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = original  # type: ignore[method-assign]


_read_translations = cache(ONNXRegistry.from_torchlib)


def _translations(opset_version: int) -> ONNXRegistry:
    """A copy, to which the exporter adds the translations of one export."""
    registry = copy.copy(_read_translations(opset_version))
    registry.functions = {target: list(known) for target, known in registry.functions.items()}
    return registry


def _cast(value: Any, dtype: int, **_layout: object) -> Any:
    """ONNX's operator for ``Tensor.to(dtype)``, for which the exporter has none."""
    return opset18.Cast(value, to=dtype)


def _forget_graphs() -> None:
    """Let onnxscript's rules forget the last graph that they were applied to, with all weights of the network."""
    for rule in _DEFAULT_REWRITE_RULES:
        state = vars(rule._matcher)  # noqa: SLF001 - it has no public reset
        for name in ("_graph", "_tracer", "_match"):
            state.pop(name, None)
        state["_current_node"] = None


def _dynamic_shapes(spec: GraphSpec) -> tuple[Any, ...]:
    shapes = tuple(spec.dynamic.get(name, {}) for name in spec.inputs)
    parameters = inspect.signature(spec.module.forward).parameters.values()
    # torch.export counts *inputs as one argument.
    return (shapes,) if any(each.kind is each.VAR_POSITIONAL for each in parameters) else shapes


def check_opset(opset: int) -> None:
    """Raise UsageError where the exporter does not write `opset`."""
    if opset not in OPSETS:
        raise UsageError(f"opset {opset} cannot be written", fix=f"Choose {OPSETS.start} to {OPSETS.stop - 1}.")


def _define_region_node(model: ir.Model, opset: int) -> None:
    for node in model.graph:
        if (node.domain, node.op_type) == (DOMAIN, OP_TYPE):
            mean, prefix = (node.attributes[name].as_int() for name in ("mean", "prefix"))
            made = region_function(len(node.inputs) - 2, mean=bool(mean), prefix=prefix, opset=opset)
            function = ir.serde.deserialize_function(made)
            model.functions[function.identifier()] = function
            model.opset_imports[DOMAIN] = VERSION


def _layers(graph: ir.Graph) -> dict[str, str]:
    """For each layer of the network, in order, the value that its last node makes."""
    found: dict[str, str] = {}
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        for scope in scopes:
            if (match := _LAYER.match(scope)) and node.outputs[0].name is not None:
                found[match[1]] = node.outputs[0].name
    return {layer: value for layer, value in found.items() if not any(layer.startswith(f"{whole}.") for whole in found)}


def _strip(model: ir.Model) -> None:
    """Take out what is about the exporting machine: stack traces, paths, source lines."""
    model.metadata_props.clear()
    model.doc_string = None
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in graphs:
        graph.metadata_props.clear()
        graph.doc_string = None
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter prints its progress and warns about its own internals; neither concerns a user."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)

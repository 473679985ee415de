"""Builds one plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import onnx

from lrclr._files import write_whole
from lrclr.engines import gpus, tensorrt_library
from lrclr.errors import ExportError, UsageError
from lrclr_export.plans._callbacks import interruptible, logger, monitor
from lrclr_export.plans._network import network_from_onnx, precision_of_network, region_selection, signature
from lrclr_export.plans._record import BuildRecord
from lrclr_export.plans._region_plugin import has_kernel, register_region_plugin
from lrclr_export.plans._regions import attentions, from_queries_and_keys, with_definition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from onnx import ModelProto

    from lrclr_export.plans._options import BuildOptions
    from lrclr_export.profiles import Profile


@dataclass(frozen=True)
class Plan:
    """A plan, and facts of its network.

    Attributes:
        data: the serialised engine, as the library wrote it.
        precision_histogram: number of layers of each kind by the type in which they compute.
        record: the builder's record of the finished plan.
        region_selection: ``"plugin"``, ``"function body"``, or None.
        signature: inputs and outputs with types and shapes.
        profiles: the optimisation profiles, in order.
        attention_layers: number of attentions in half precision and with several heads in the graph, without those of
            region selection; None if it has none.
    """

    data: bytes
    precision_histogram: dict[str, dict[str, int]]
    record: BuildRecord
    region_selection: str | None
    signature: dict[str, Any]
    profiles: list[dict[str, Profile]]
    attention_layers: int | None = None


def plan_from_onnx(
    path: Path,
    options: BuildOptions,
    *,
    name: str,
    profiles: Sequence[Mapping[str, Profile]],
    selects_regions: bool = False,
    half_precision: bool = False,
    on_progress: Callable[[str, int, int], None] = lambda _phase, _done, _steps: None,
) -> Plan:
    """Build a plan of an ONNX file.

    Args:
        path: the ONNX file; weights beside it are found.
        options: options of the plan.
        name: name of the graph, for errors.
        profiles: ``min``, ``opt`` and ``max`` shape of each input, for each profile.
        selects_regions: whether the graph has a region node.
        half_precision: whether its attention is computed in float16. Then regions are selected from queries and keys,
            so that the library can fuse the attention.
        on_progress: called with phase, finished steps, and steps of the phase, from another thread.

    Raises:
        ExportError: the graph, a profile or an option does not suit the library.
        UsageError: the library cannot build for a compute capability.
    """
    # Imported here, so that this thread raises the errors of the import.
    library = tensorrt_library(options.engine)
    model, fusable = None, None
    if selects_regions:
        model, fusable = _prepared(library, path, options, profiles, half_precision)
    elif half_precision:
        fusable = attentions(onnx.load(path, load_external_data=False))
    plan = interruptible(
        lambda stop: _built(library, path, options, name, profiles, monitor(library, on_progress, stop), model)
    )
    return replace(plan, attention_layers=fusable)


def _prepared(
    library: Any, path: Path, options: BuildOptions, profiles: Sequence[Mapping[str, Profile]], half_precision: bool
) -> tuple[ModelProto, int | None]:
    """The image encoder with the region node that suits the library, and the number of layers with its attention."""
    model = onnx.load(path, load_external_data=False)
    node = from_queries_and_keys(model) if half_precision else None
    if options.engine == "tensorrt" and node is not None and has_kernel(node):
        # Entry points for Hopper do not run on older GPUs.
        here = "8.0" if options.hardware_compatible == "ampere+" else gpus()[0].capability
        capability = round(10 * float(here))
        images = max(profile["pixel_values"]["opt"][0] for profile in profiles)
        register_region_plugin(library, node.layers, capability=capability, images=images)
    else:
        with_definition(model)
    if node is None or not attentions(model):
        return model, None
    # Without a CLS token, the start row comes from a pooling head, whose attention of one row need not be fused.
    return model, node.layers - (node.prefix == 0)


def _built(
    library: Any,
    path: Path,
    options: BuildOptions,
    name: str,
    profiles: Sequence[Mapping[str, Profile]],
    watch: Any,
    model: ModelProto | None,
) -> Plan:
    log = logger(library)
    builder = library.Builder(log)
    network, parser = network_from_onnx(library, builder, log, path, name, model)
    config = _config(library, builder, options)
    for profile in profiles:
        _add_profile(builder, config, profile, network, name, log)
    cache = _timing_cache(config, options)
    config.progress_monitor = watch
    serialised = builder.build_serialized_network(network, config)
    del parser  # the network reads its weights until here
    _raise_if_unfit(serialised, log, name)
    if cache is not None and options.timing_cache is not None:
        write_whole(options.timing_cache, bytes(memoryview(config.get_timing_cache().serialize())))
    return Plan(
        data=bytes(memoryview(serialised)),
        precision_histogram=precision_of_network(network),
        record=BuildRecord.of_log(log.of_plan),
        region_selection=region_selection(network),
        signature=signature(network),
        profiles=[dict(profile) for profile in profiles],
    )


def _config(library: Any, builder: Any, options: BuildOptions) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    flags = library.BuilderFlag
    # TF32 is on by default: float32 products would lose 13 of their 23 bits, also those that select regions.
    config.clear_flag(flags.TF32)
    if hasattr(flags, "REQUIRE_USER_ALLOCATION"):
        # TensorRT-RTX: a plan that allocates memory while it runs cannot be captured as a CUDA graph.
        config.set_flag(flags.REQUIRE_USER_ALLOCATION)
    for wanted, flag in (
        (options.version_compatible, "VERSION_COMPATIBLE"),
        (options.refit, "REFIT"),
        (options.strip, "STRIP_PLAN"),
    ):
        if wanted:
            config.set_flag(getattr(flags, flag))
    if options.hardware_compatible != "none":
        name = {"ampere+": "AMPERE_PLUS", "same-capability": "SAME_COMPUTE_CAPABILITY"}[options.hardware_compatible]
        config.hardware_compatibility_level = getattr(library.HardwareCompatibilityLevel, name)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.builder_level is not None:
        config.builder_optimization_level = options.builder_level
    if options.compute_capabilities:
        _aim(library, config, options.compute_capabilities)
    elif options.engine == "tensorrt-rtx":
        # Only for the GPU of this machine. By default the library builds for all GPUs that it supports.
        config.num_compute_capabilities = 1
        config.set_compute_capability(library.ComputeCapability.CURRENT, 0)
    return config


def _aim(library: Any, config: Any, capabilities: Sequence[str]) -> None:
    known = library.ComputeCapability
    members = {f"{name[2:-1]}.{name[-1]}": value for name, value in known.__members__.items() if name.startswith("SM")}
    config.num_compute_capabilities = len(capabilities)
    for place, capability in enumerate(capabilities):
        if capability not in members or not config.set_compute_capability(members[capability], place):
            raise UsageError(
                f"TensorRT-RTX {library.__version__} does not build for the compute capability {capability}",
                fix=f"Choose from {', '.join(sorted(members, key=float))}.",
            )


def _add_profile(builder: Any, config: Any, sizes: Mapping[str, Profile], network: Any, name: str, log: Any) -> None:
    profile = builder.create_optimization_profile()
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        shapes = sizes[tensor.name]
        profile.set_shape(tensor.name, shapes["min"], shapes["opt"], shapes["max"])
        fits = all(
            low <= common <= high and (axis in {-1, low} and low > 0)
            for low, common, high, axis in zip(shapes["min"], shapes["opt"], shapes["max"], tensor.shape, strict=True)
        )
        if not fits:
            raise _unfit_profile(name, f"{tensor.name} is {tuple(tensor.shape)}, and the profile is {shapes}")
    if config.add_optimization_profile(profile) < 0:
        raise _unfit_profile(name, log.errors[-1] if log.errors else "the library does not accept it")


def _raise_if_unfit(serialised: Any, log: Any, name: str) -> None:
    """Raise if the build failed, or if a warning says that the graph cannot run at an end of its profile."""
    contradictions = [text for text in log.warnings if text.startswith("Profile k") and "not self-consistent" in text]
    if contradictions:
        raise _unfit_profile(name, contradictions[0])
    if serialised is None:
        raise ExportError(f"no plan of {name} could be built", why=log.errors[0] if log.errors else "no reason given")


def _unfit_profile(name: str, why: str) -> ExportError:
    return ExportError(
        f"{name} cannot run at the sizes of its profile",
        why=why,
        fix="Export the checkpoint again with `lrclr export`.",
    )


def _timing_cache(config: Any, options: BuildOptions) -> Any:
    if options.timing_cache is None:
        return None
    known = options.timing_cache.read_bytes() if options.timing_cache.is_file() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise UsageError(
            f"the timing cache {options.timing_cache} cannot be used",
            why="it is damaged, or belongs to another GPU or version",
            fix="Remove it, or name another file.",
        )
    return cache

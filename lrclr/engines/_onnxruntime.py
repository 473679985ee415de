"""Engine ONNX Runtime."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Final

from lrclr._processors import check_threads
from lrclr.budget import release_freed_memory
from lrclr.bundle import Bundle
from lrclr.contract import GRAPHS
from lrclr.engines._bound import BoundSession
from lrclr.engines._onnxruntime_package import onnxruntime_library, preload_cuda
from lrclr.engines._operators import has_int8_products, onnxruntime_operators
from lrclr.engines._placement import require_placed
from lrclr.errors import EngineError, LrclrError, UsageError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import onnxruntime
    from numpy.typing import NDArray

    from lrclr.engines._operators import Operator

PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# ONNX Runtime's default on CUDA is TF32: products of float32 with 10 instead of 23 bits of fraction.
DEFAULT_OPTIONS: Final[Mapping[str, dict[str, str]]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}
# Size of the files of a large graph, in bytes.
_LARGE: Final = 256 * 2**20
_QUIET = 4  # errors are raised, so that ONNX Runtime need not print them


class OnnxRuntimeEngine:
    """Runs graphs in ONNX Runtime, on the given provider only.

    The session of a graph is made at its first run.

    Args:
        graphs: a bundle, or the ONNX file of each graph.
        provider: ``"cpu"`` or ``"cuda"``.
        threads: threads of one operator; ``None`` for one per core.
        provider_options: ONNX Runtime's options of the provider, such as ``{"device_id": "1"}``. On CUDA, products of
            float32 are computed in float32; ``{"use_tf32": "1"}`` allows TF32, which drops 13 of 23 bits.
        cuda_graphs: on CUDA, launch each size of inputs after its first run as one CUDA graph.
        int8_products: False to round as an int8 graph does, and to multiply in float32.
        release_memory: on the CPU, give memory back to the system after each run, and keep the session of one large
            graph at a time. Otherwise ONNX Runtime keeps what the largest run of each graph took, and up to twice of
            that. A large run takes some 20 % longer, and large graphs in turn are loaded again.
        few_runs: on the CPU, do not copy the weights into the order in which products read them. A graph is open sooner
            and takes half of the memory, and each run takes longer (ViT-B/32, batch 1: 0.2 s sooner, 16 ms longer).

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        EngineError: ONNX Runtime cannot be used, or does not have the provider.
        UsageError: the provider is unknown, or has no CUDA graphs.
    """

    def __init__(  # noqa: PLR0913 - one parameter a setting
        self,
        graphs: Bundle | Mapping[str, Path],
        *,
        provider: str = "cpu",
        threads: int | None = None,
        provider_options: Mapping[str, str] | None = None,
        cuda_graphs: bool = False,
        int8_products: bool = True,
        release_memory: bool = False,
        few_runs: bool = False,
    ) -> None:
        if provider not in PROVIDERS:
            raise UsageError(f"unknown provider {provider!r}", fix="Choose cpu or cuda.")
        if cuda_graphs and provider != "cuda":
            raise UsageError(f"the provider {provider} has no CUDA graphs", fix="Choose the provider cuda.")
        check_threads(threads)
        self._paths = (
            {graph: graphs.graph_path(graph) for graph in GRAPHS} if isinstance(graphs, Bundle) else dict(graphs)
        )
        self._provider = provider
        self._threads = threads
        self._provider_options = dict(provider_options or {}) | ({"enable_cuda_graph": "1"} if cuda_graphs else {})
        self._cuda_graphs = cuda_graphs
        self._int8_products = int8_products
        self._release_memory = release_memory and provider == "cpu"
        self._few_runs = few_runs
        self._sessions: dict[str, onnxruntime.InferenceSession | BoundSession] = {}
        self._locks = {graph: Lock() for graph in self._paths}
        library = onnxruntime_library()
        self._version = library.__version__
        available = library.get_available_providers()
        if PROVIDERS[provider] not in available:
            raise EngineError(
                f"ONNX Runtime has no {PROVIDERS[provider]}",
                why=f"this build has {', '.join(available)}",
                fix="Replace the CPU package: pip uninstall onnxruntime && pip install '.[onnxruntime-gpu]'. "
                "Or use the provider cpu.",
            )

    @property
    def name(self) -> str:
        return f"onnxruntime {self._version} {self._provider}{'' if self._int8_products else ' float32 products'}"

    @property
    def tokens_of_call(self) -> int | None:
        """See `lrclr.engines.tokens_of_call`. Measured for ViT-B/32 and the default checkpoint."""
        return 256 if self._provider == "cpu" else None

    @property
    def product_types(self) -> frozenset[str]:
        """Types for which ONNX Runtime and this processor have instructions for products."""
        has_int8 = self._provider == "cpu" and self._int8_products and has_int8_products()
        return frozenset({"float32", "int8"} if has_int8 else {"float32"})

    def operators(self, graph: str, inputs: Mapping[str, NDArray[Any]], runs: int = 1) -> tuple[Operator, ...]:
        """As `lrclr.engines.ProfiledEngine.operators`; without operators on CUDA, where the provider is checked."""
        if self._provider != "cpu":
            return ()
        options = _session_options(self._settings())
        try:
            return onnxruntime_operators(onnxruntime_library(), self._paths[graph], options, inputs, runs)
        except Exception as error:
            raise EngineError(f"ONNX Runtime could not profile {graph}", why=first_line(error)) from error

    def preload(self) -> None:
        """On the CPU, begin to make the sessions of all graphs at the same time, in threads.

        `run` raises their errors.
        """
        for graph in self._paths if self._provider == "cpu" else ():
            Thread(target=self._load, args=(graph,), name=f"lrclr-load-{graph}").start()

    def _load(self, graph: str) -> None:
        with suppress(LrclrError):
            self._session(graph)

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        session = self._session(graph)
        try:
            if isinstance(session, BoundSession):
                return session.run(inputs)
            names = [output.name for output in session.get_outputs()]
            return dict(zip(names, session.run(names, dict(inputs), self._run_options()), strict=True))
        except Exception as error:
            raise EngineError(f"ONNX Runtime could not run {graph}", why=first_line(error)) from error

    def _run_options(self) -> Any:
        if not self._release_memory:
            return None
        options = onnxruntime_library().RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return options

    def release(self) -> None:
        """Close all sessions if the engine releases memory. The next run of a graph opens its session again."""
        if self._release_memory:
            self._close(self._sessions)

    def _session(self, graph: str) -> onnxruntime.InferenceSession | BoundSession:
        with self._locks[graph]:
            session = self._sessions.get(graph)
            if session is None:
                if self._release_memory:
                    self._close(other for other in tuple(self._sessions) if _bytes_of(self._paths[other]) > _LARGE)
                session = self._sessions[graph] = self._open(graph)
                if self._release_memory:
                    # What the file held, from which ONNX Runtime made its own form of the weights.
                    release_freed_memory()
            return session

    def _close(self, graphs: Iterable[str]) -> None:
        # A run in another thread keeps its session until it ends.
        closed = [self._sessions.pop(graph, None) for graph in tuple(graphs)]
        if closed:
            del closed
            release_freed_memory()

    def _settings(self) -> SessionSettings:
        return SessionSettings(
            self._provider,
            self._provider_options,
            intra_op_threads=self._threads,
            int8_products=self._int8_products,
            few_runs=self._few_runs,
        )

    def _open(self, graph: str) -> onnxruntime.InferenceSession | BoundSession:
        session = open_session(self._paths[graph], self._settings(), name=graph)
        if self._provider == "cpu":
            return session
        number = int(self._provider_options.get("device_id", 0))
        return BoundSession(session, self._provider, number, cuda_graphs=self._cuda_graphs)


@dataclass(frozen=True)
class SessionSettings:
    """Settings of a session.

    Attributes:
        provider: one of `PROVIDERS`.
        provider_options: ONNX Runtime's options of the provider, which override `DEFAULT_OPTIONS`.
        intra_op_threads: threads of one operator; ``None`` for one per core.
        inter_op_threads: threads that run operators in parallel, in parallel execution.
        execution_mode: 0 for one operator after the other, 1 for parallel execution.
        graph_level: level of optimisation as in Triton: -1 basic, 1 extended, 2 none; ``None`` for all.
        int8_products: whether the products of an int8 graph are in int8; else they are in float32.
        few_runs: as for `OnnxRuntimeEngine`.
    """

    provider: str = "cpu"
    provider_options: Mapping[str, str] = field(default_factory=dict)
    intra_op_threads: int | None = None
    inter_op_threads: int | None = None
    execution_mode: int = 0
    graph_level: int | None = None
    int8_products: bool = True
    few_runs: bool = False


def open_session(path: Path, settings: SessionSettings, *, name: str) -> onnxruntime.InferenceSession:
    """Load a graph on one provider only.

    Args:
        path: the ONNX file.
        settings: settings of the session.
        name: name of the graph, for errors.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        EngineError: ONNX Runtime cannot be used, or the graph cannot be loaded on that provider.
    """
    library = onnxruntime_library()
    provider = PROVIDERS[settings.provider]
    options = _session_options(settings)
    on_cpu = settings.provider == "cpu"
    missing = ""
    if not on_cpu:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        missing = preload_cuda()
    try:
        # Without the last argument, ONNX Runtime retries a failed load on the CPU and prints a message.
        providers = [(provider, DEFAULT_OPTIONS[settings.provider] | dict(settings.provider_options))]
        session = library.InferenceSession(path, options, providers=providers, enable_fallback=0)
    except Exception as error:
        raise EngineError(f"ONNX Runtime could not load {name}", why=first_line(error)) from error
    if session.get_providers()[0] != provider:
        raise EngineError(
            f"ONNX Runtime put {name} on {session.get_providers()[0]} instead of {provider}",
            why=missing or "it could not use the GPU's driver or the CUDA libraries",
            fix="Check that `nvidia-smi` lists a GPU, and install the CUDA libraries: "
            "pip install '.[onnxruntime-gpu]'. Or use the provider cpu.",
        )
    if not on_cpu:
        require_placed(session, provider, name)
    return session


def _bytes_of(path: Path) -> int:
    """Size of an ONNX file and of the files with its weights, whose names begin with the same word."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name.partition('.')[0]}.*"))


def _session_options(settings: SessionSettings) -> Any:
    library = onnxruntime_library()
    options = library.SessionOptions()
    options.log_severity_level = _QUIET
    options.intra_op_num_threads = settings.intra_op_threads or 0
    options.inter_op_num_threads = settings.inter_op_threads or 0
    if settings.execution_mode:
        options.execution_mode = library.ExecutionMode.ORT_PARALLEL
    levels = library.GraphOptimizationLevel
    if settings.graph_level is not None:
        known = {-1: levels.ORT_ENABLE_BASIC, 1: levels.ORT_ENABLE_EXTENDED, 2: levels.ORT_DISABLE_ALL}
        options.graph_optimization_level = known.get(settings.graph_level, levels.ORT_ENABLE_ALL)
    # Three sessions and the decoding threads share the cores. Threads that spin while a graph runs make it faster
    # (measured: a seventh at batch 1). After the run they must not spin, which would slow down the next session.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "100")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if settings.few_runs:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if not settings.int8_products:
        # ONNX Runtime then dequantises the weights once, when it loads the graph.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options

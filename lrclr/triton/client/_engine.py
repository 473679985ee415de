"""Engine that runs a bundle's graphs on a Triton server."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr.contract import ModelNames
from lrclr.errors import EngineError
from lrclr.triton.client import _wire as wire
from lrclr.triton.client._client import Client

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lrclr.triton.client._options import ClientOptions


class TritonEngine:
    """Runs the three graphs of a server's bundle. Safe to call from several threads.

    Of an ensemble it runs the graphs of the member that gives the regions; `members` run those of the others.

    Args:
        address: ``host:port`` of the server's gRPC port.
        bundle: expected SHA-256 of the manifest: `ModelSpec.sha256`.
        options: timeouts, repetitions and transport.

    Attributes:
        members: an engine for each member of an ensemble, in order; of a single network this one alone.
        at_once: True: a server takes several requests at the same time.

    Raises:
        EngineError: the server has another bundle.
        UsageError: the address has another form.
        ServerUnavailableError: the server does not answer.
    """

    def __init__(self, address: str, bundle: str, options: ClientOptions | None = None) -> None:
        self._client = Client(address, options)
        described = self._client.describe()
        served = str(described["bundle"])
        if served != bundle:
            raise EngineError(
                f"{address} serves another bundle",
                why=f"its manifest has the hash {served[:12]}…, and {bundle[:12]}… was expected",
                fix="Give the bundle of the server, or restart the server with this bundle.",
            )
        self.at_once = True
        self.members: tuple[TritonEngine, ...] = (self,)
        self._names = self._client.options.names
        # Servers of older versions have no ensembles.
        if members := described.get("members"):
            of_members = ModelNames(self._names.prefix, members=len(members)).of_members
            self.members = tuple(map(self._of_member, of_members))
            self._names = of_members[members.index(described["regions_from"])]

    def _of_member(self, names: ModelNames) -> TritonEngine:
        member = copy(self)
        member._names, member.members = names, (member,)  # noqa: SLF001 - of this class
        return member

    @property
    def name(self) -> str:
        return f"triton {self._client.address}"

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        from tritonclient.utils import np_to_triton_dtype

        tensors = []
        for name, array in inputs.items():
            one = wire.triton_grpc().InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            one.set_data_from_numpy(np.ascontiguousarray(array))
            tensors.append(one)
        result = self._client.infer_graph(graph, tensors, self._names)
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}

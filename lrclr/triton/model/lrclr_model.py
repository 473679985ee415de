"""The Triton model `lrclr`: answers requests with image files and findings, with the graphs of the same server.

`ZeroShotClassifier` computes the answers, as in `lrclr predict`. This module reads requests, writes responses, and
counts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from lrclr import budget
from lrclr.bundle import Bundle
from lrclr.errors import LrclrError
from lrclr.inference import ZeroShotClassifier
from lrclr.triton import protocol
from lrclr.triton.model._answer import Answerer
from lrclr.triton.model._engine import BlsEngine, RequestCancelledError, ServerBusyError
from lrclr.triton.model._metrics import Metrics
from lrclr.triton.model._request import Request, status_of
from lrclr.triton.model._tensors import refuse, require_bytes


class TritonPythonModel:
    """One instance. Triton calls one method at a time. Each instance is a process."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the bundle of this model.

        Raises:
            TritonModelException: the bundle is damaged, or the server's Python cannot read tensors of bytes.
        """
        require_bytes()
        folder = Path(args["model_repository"])
        version = args["model_version"]
        # `lrclr serve` puts a copy of the bundle into the folder of each version. Else this is the bundle.
        own = folder / version / "bundle"
        try:
            bundle = Bundle(own if own.is_dir() else folder.parent)
        except LrclrError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        budget.decoding.total = budget.SERVER_DECODE_BYTES
        budget.files.total = budget.SERVER_FILE_BYTES
        self._metrics = Metrics(bundle.manifest.names.classifier)
        self._engine = BlsEngine(bundle.manifest.names, int(version), self._metrics)
        largest = bundle.manifest.profiles[-1]
        self._answerer = Answerer(
            ZeroShotClassifier(bundle, self._engine),
            self._metrics,
            largest["prompts"][2],
            before_image=self._engine.stop_if_cancelled,
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request separately."""
        return [self._execute(request) for request in requests]

    def _execute(self, request: Any) -> Any:
        self._metrics.add("lrclr_requests_total")
        self._engine.request.cancelled = request.is_cancelled
        try:
            self._engine.stop_if_cancelled()
            return pb_utils.InferenceResponse(self._answerer.answer(Request.read(request)))
        except RequestCancelledError as error:
            self._metrics.add("lrclr_failures_total", reason="cancelled")
            return refuse(str(error), "CANCELLED")
        except ServerBusyError as error:
            self._metrics.add("lrclr_failures_total", reason="unavailable")
            return refuse(f"ServerUnavailableError: {error}", "UNAVAILABLE")
        except LrclrError as error:
            kind = type(error).__name__
            self._metrics.add("lrclr_failures_total", reason=kind)
            # The class of the error precedes the text, so that a client can raise the same error.
            return refuse(f"{kind}: {error}", status_of(error))
        except Exception as error:  # noqa: BLE001 - the next request must be answered
            self._metrics.add("lrclr_failures_total", reason="unexpected")
            # Its text may contain patient data of the image.
            return refuse(f"unexpected {type(error).__name__}", "INTERNAL")
        finally:
            # Triton frees the memory of a request when its last reference is gone.
            self._engine.request.cancelled = bool

    def finalize(self) -> None:
        """End the decoding threads. Triton calls this after the last request for this version."""
        # `lrclr serve` waits for this line when it stops the server.
        print(f"{protocol.LAST_ANSWER} {os.getpid()}", flush=True)
        self._answerer.close()

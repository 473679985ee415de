"""The OpenAPI document is valid and complete, and every operation conforms to it under random requests."""

from __future__ import annotations

import base64
import io
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate
from PIL import Image

from lrclr.samples import SAMPLES

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from lrclr.web import WebServer

OPERATIONS = {
    *(("post", f"/v1/{name}") for name in ("findings", "embeddings", "similarity", "images")),
    *(("get", f"/{name}") for name in ("v1/model", "v1/samples", "healthz", "readyz", "metrics")),
    *(("post", f"/v1/images/{{key}}/{name}") for name in ("findings", "heatmap", "report")),
    ("get", "/v1/images/{key}/picture"),
    ("delete", "/v1/images/{key}"),
}


def small_png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(stream, "PNG")
    return stream.getvalue()


PNG = small_png()


def test_the_document_is_valid_and_complete(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    validate(document)
    found = {(method, path) for path, item in document["paths"].items() for method in item}
    assert found == OPERATIONS
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["summary"], (method, path)
            assert "default" in operation["responses"]
    # Answers use the library's own record.
    assert {"height", "regions", "alpha"} <= document["components"]["schemas"]["Prediction"]["properties"].keys()


def fuzz(server: WebServer, cases: int) -> Counter[int]:
    """Send random requests to every operation, in turn, and check the answers. Returns the number of each status.

    Half of them have real images and numbers of kept images in the places for these: random ones are refused early.
    """
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.core.result import Ok
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)
    client = requests.Session()
    client.trust_env = False
    schema = schemathesis.openapi.from_dict(client.get(f"{server.url}/openapi.json").json())
    headers = {"content-type": "application/octet-stream"}
    study = SAMPLES[3].path("dicom").read_bytes()
    picture = base64.b64encode(PNG).decode()
    statuses: Counter[int] = Counter()
    kept: dict[str, Any] = {}
    operations = [operation.ok() for operation in schema.get_all_operations() if isinstance(operation, Ok)]
    assert {(operation.method, operation.path) for operation in operations} == OPERATIONS
    # Without a body or a parameter there is one request only.
    each = -(
        -cases // sum(bool(operation.body or operation.path_parameters or operation.query) for operation in operations)
    )
    for operation in operations:
        # Again for each operation, since the images that random requests keep make the server remove others.
        kept.update(client.post(f"{server.url}/v1/images", data=study, headers=headers).json())

        @settings(
            max_examples=each,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(), real=st.booleans())
        def ask(case: Any, real: bool) -> None:
            if real and case.operation.method != "delete":
                if case.path_parameters:
                    case.path_parameters["number"] = kept["id"]
                if isinstance(case.body, dict) and "images" in case.body and case.media_type == "application/json":
                    case.body["images"] = [picture]
                if case.operation.path == "/v1/images":
                    case.body = PNG
            response = case.call(session=client, base_url=server.url, timeout=60)
            statuses[response.status_code] += 1
            case.validate_response(response, checks=checks)

        ask()
    return statuses


def test_random_requests(running: WebServer) -> None:
    statuses = fuzz(running, 100)
    assert {200, 201} <= statuses.keys()
    assert not [status for status in statuses if status >= 500 and status not in {501, 503}]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_5000_random_requests(running: WebServer) -> None:
    began = time.monotonic()
    statuses = fuzz(running, 5000)
    print(f"{statuses.total()} requests, {time.monotonic() - began:.0f} s: {dict(sorted(statuses.items()))}")
    assert statuses.total() >= 5000
    assert not [status for status in statuses if status >= 500]

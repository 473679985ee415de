"""Compares Triton's load generator with lrclr's client on one server: ``python -m benchmarks.serving.perf_analyzer``.

``make perf-analyzer`` installs perf_analyzer. It sends requests to the three graphs and to the model `lrclr` like any
client of the KServe protocol. lrclr's client sends the same requests, as many at once, in turns with it.
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype

from benchmarks.measure import environment
from lrclr import ZeroShotClassifier, read_image
from lrclr.contract import MODEL
from lrclr.preprocessing import preprocess
from lrclr.samples import sample_paths
from lrclr.triton.server import ServeOptions, TritonServer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

PROGRAM = Path(".triton/bin/perf_analyzer")
_CONCURRENCY = (1, 16)


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        model: name of the model.
        inputs: arrays by name.
        batched: whether the first axis is a batch axis of 1, which perf_analyzer adds itself.
    """

    model: str
    inputs: Mapping[str, NDArray[Any]]
    batched: bool

    def as_json(self) -> str:
        """The input file of perf_analyzer."""
        return json.dumps({"data": [{name: self._described(array) for name, array in self.inputs.items()}]})

    def _described(self, array: NDArray[Any]) -> dict[str, Any]:
        if array.dtype == object:
            # perf_analyzer sends these bytes as they are, and Triton expects the length before each string.
            wire = b"".join(len(one).to_bytes(4, "little") + one for one in array.ravel())
            return {"b64": base64.b64encode(wire).decode()}
        return {"content": array.ravel().tolist(), "shape": list(array.shape[1:] if self.batched else array.shape)}


@dataclass(frozen=True)
class Driven:
    """The result of a run.

    Attributes:
        seconds: seconds of each request.
        throughput: requests a second.
        outputs: outputs of the first answer, as flat lists of numbers.
    """

    seconds: list[float]
    throughput: float
    outputs: dict[str, list[Any]]

    def to_dict(self) -> dict[str, Any]:
        """Rounded figures for the report."""
        p50, p95, p99 = (round(float(p) * 1e3, 2) for p in np.percentile(self.seconds, (50, 95, 99)))
        return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "requests_per_second": round(self.throughput, 1)}


def requests_for(bundle: Path) -> list[Asked]:
    """One request to each model of a bundle: a radiograph, a prompt, and the inputs of their fusion."""
    local = ZeroShotClassifier.from_bundle(bundle)
    file = sample_paths()[0]
    pixels = preprocess(read_image(file), local.spec.preprocess)[None]
    assert local.spec.tokenizer is not None  # a bundle has one
    prompt = local.spec.tokenizer.encode(local.spec.findings.prompts[:1])
    image = local.engine.run("image_encoder", {"pixel_values": pixels})
    text = local.engine.run("text_encoder", {"input_ids": prompt.input_ids})
    fusion = {
        "region_tokens": image["region_tokens"],
        "text_tokens": text["text_tokens"],
        "text_mask": prompt.mask,
    }
    return [
        Asked("image_encoder", {"pixel_values": pixels}, batched=True),
        Asked("text_encoder", {"input_ids": prompt.input_ids}, batched=True),
        Asked("fusion_head", fusion, batched=False),
        Asked(MODEL, {"image": np.array([file.read_bytes()], object)}, batched=False),
    ]


def by_perf_analyzer(address: str, asked: Asked, *, concurrency: int, requests: int) -> Driven:
    """Let perf_analyzer send a request repeatedly.

    Raises:
        RuntimeError: perf_analyzer or one of its requests failed; the text is its own.
    """
    with tempfile.TemporaryDirectory() as name:
        data, report = Path(name, "data.json"), Path(name, "report.json")
        data.write_text(asked.as_json(), encoding="utf-8")
        command = [
            *(str(PROGRAM.absolute()), "-m", asked.model, "-u", address, "-i", "grpc"),
            *("--input-data", str(data), "--profile-export-file", str(report)),
            *("--concurrency-range", str(concurrency), "--request-count", str(requests)),
        ]
        for tensor, array in asked.inputs.items():
            shape = array.shape[1:] if asked.batched else array.shape
            command += ["--shape", f"{tensor}:{','.join(map(str, shape))}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            raise RuntimeError(f"perf_analyzer ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[:500]}")
        # The report contains the images that were sent, as raw bytes.
        (experiment,) = json.loads(report.read_bytes().decode(errors="replace"), strict=False)["experiments"]
    begun = [one["timestamp"] for one in experiment["requests"]]
    ended = [one["response_timestamps"][0] for one in experiment["requests"]]
    seconds = [(end - begin) / 1e9 for begin, end in zip(begun, ended, strict=True)]
    answer = experiment["requests"][0]["response_outputs"][0]
    outputs = {name: values if isinstance(values, list) else [values] for name, values in answer.items()}
    return Driven(seconds, len(seconds) / ((max(ended) - min(begun)) / 1e9), outputs)


def by_us(address: str, asked: Asked, *, concurrency: int, requests: int) -> Driven:
    """Send the same requests as perf_analyzer."""
    inputs = []
    for name, array in asked.inputs.items():
        inputs.append(triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype)))
        inputs[-1].set_data_from_numpy(array)

    def ask(_: int) -> tuple[float, Any]:
        began = time.perf_counter()
        answer = client.infer(asked.model, inputs)
        return time.perf_counter() - began, answer

    client = triton.InferenceServerClient(address)
    with ThreadPoolExecutor(concurrency) as pool:
        began = time.perf_counter()
        answers = list(pool.map(ask, range(requests)))
        elapsed = time.perf_counter() - began
    first = answers[0][1]
    names = [output.name for output in first.get_response().outputs]
    outputs = {name: first.as_numpy(name).ravel().tolist() for name in names}
    client.close()
    return Driven([seconds for seconds, _ in answers], requests / elapsed, outputs)


def compare(bundle: Path, *, rounds: int, requests: int) -> dict[str, Any]:
    """Each model with one and with 16 requests at once, both clients in turns."""
    report: dict[str, Any] = {}
    with TritonServer(bundle, ServeOptions(grpc_port=0, http=False, metrics=False)) as server:
        for asked in requests_for(bundle):
            for concurrency in _CONCURRENCY:
                runs: dict[str, list[Driven]] = {"perf_analyzer": [], "ours": []}
                by_us(server.grpc, asked, concurrency=concurrency, requests=requests)
                for _ in range(rounds):
                    for name, drive in (("perf_analyzer", by_perf_analyzer), ("ours", by_us)):
                        runs[name].append(drive(server.grpc, asked, concurrency=concurrency, requests=requests))
                report[f"{asked.model}, {concurrency} at once"] = {
                    **{name: [run.to_dict() for run in those] for name, those in runs.items()},
                    "median_of_rounds": {name: _medians(those) for name, those in runs.items()},
                }
    return report


def _medians(runs: list[Driven]) -> dict[str, float]:
    described = [run.to_dict() for run in runs]
    return {key: round(float(np.median([one[key] for one in described])), 2) for key in described[0]}


def main() -> None:
    """Run and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("triton_repo"))
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=200)
    given = parser.parse_args()
    result = {
        "environment": environment(),
        "requests_a_round": given.requests,
        "models": compare(given.bundle, rounds=given.rounds, requests=given.requests),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if given.output is not None:
        given.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

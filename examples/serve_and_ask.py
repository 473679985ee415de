"""Start a Triton server over a bundle and send it a radiograph with plain tritonclient.

    python -m examples.serve_and_ask triton_repo [IMAGE] [--server HOST:PORT]

With --server, the server of `lrclr serve` is asked instead of one that starts here. `ask` uses nothing of lrclr.
Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

from lrclr.samples import sample_paths
from lrclr.triton.server import ServeOptions, TritonServer


def ask(address: str, image: Path) -> list[tuple[str, float]]:
    """Findings and probabilities of one image file, from a server's gRPC address."""
    client = triton.InferenceServerClient(address)
    try:
        request = triton.InferInput("image", [1], "BYTES")
        request.set_data_from_numpy(np.array([image.read_bytes()], dtype=object))
        outputs = [triton.InferRequestedOutput(name) for name in ("finding", "probability")]
        answer = client.infer("lrclr", [request], outputs=outputs, client_timeout=30)
    finally:
        client.close()
    names = [name.decode() for name in answer.as_numpy("finding")]
    return list(zip(names, map(float, answer.as_numpy("probability")[0]), strict=True))


def show(address: str, image: Path) -> None:
    """Print what a server answers for an image, the most probable finding first."""
    for finding, probability in sorted(ask(address, image), key=lambda pair: -pair[1]):
        print(f"{finding:28} {probability:6.1%}")


def main() -> None:
    """Ask a server, or start one first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("image", type=Path, nargs="?", default=sample_paths()[0])
    parser.add_argument("--server", metavar="HOST:PORT")
    options = parser.parse_args()
    if options.server:
        show(options.server, options.image)
        return
    # Port 0 is any port that is free; `instances` is the number of processes that decode and answer.
    with TritonServer(options.bundle, ServeOptions(grpc_port=0, http=False, metrics=False, instances=1)) as server:
        show(server.grpc, options.image)


if __name__ == "__main__":
    main()

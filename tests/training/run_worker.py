"""A training run that is interrupted: ``run_worker.py BASE DATASET FOLDER EVENT STEP``."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from lrclr.checkpoints import load_checkpoint
from lrclr.datasets import read_dataset
from lrclr.errors import LrclrError
from lrclr.training import TrainListener, TrainSettings, train

SETTINGS = TrainSettings(
    max_steps=8, batch_size=8, save_every=2, evaluate_every=4, freeze="none", text="sentences", workers=0
)


class InterruptAtStep(TrainListener):
    def __init__(self, event: str, step: int) -> None:
        self.event, self.at = event, step

    def step(self, step: int, steps: int, loss: float | None) -> None:
        if step != self.at:
            return
        if self.event == "killed while saving":
            save = torch.save

            def half(content: Any, file: Any) -> None:
                save(content, file)
                os.truncate(file, 1000)
                os.kill(os.getpid(), signal.SIGKILL)

            torch.save = half  # type: ignore[assignment]
        elif self.event == "terminated":
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.event == "disk full":
            # No file may grow beyond this size, which is close to a full disk.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))


if __name__ == "__main__":
    base, dataset, folder, event, step = sys.argv[1:]
    try:
        data = read_dataset(Path(dataset))
        train(load_checkpoint(base), data, Path(folder), SETTINGS, listener=InterruptAtStep(event, int(step)))
    except LrclrError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)

"""Validation: loss and mean AUROC of the findings on the validation rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import gather_object
from sklearn.metrics import roc_auc_score

from lrclr.datasets import ABSENT, PRESENT
from lrclr.errors import NonFiniteError
from lrclr.inference import combined_score, finding_scores, global_score
from lrclr.text import FindingSet, finding_key
from lrclr.training._data import loader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from lrclr.datasets import Row
    from lrclr.text import ClipTokenizer
    from lrclr.training._data import Items
    from lrclr.training._task import ContrastiveTask


def matched_findings(known: FindingSet, columns: Sequence[str]) -> tuple[FindingSet | None, tuple[str, ...]]:
    """The known findings with labels in the dataset, or ``None``, and the dataset's names of them in the same order.

    Names are compared by `finding_key`.
    """
    by_key = {finding_key(column): column for column in columns}
    kept = [finding for finding in known.findings if finding_key(finding.name) in by_key]
    return FindingSet(tuple(kept)) if kept else None, tuple(by_key[finding_key(finding.name)] for finding in kept)


def label_table(rows: Sequence[Row], columns: Sequence[str]) -> NDArray[np.int8]:
    """``[rows, columns]``: 1, 0, or -1 if a label is uncertain or not stated."""
    table = np.full((len(rows), len(columns)), -1, np.int8)
    for number, row in enumerate(rows):
        for place, column in enumerate(columns):
            if row.labels.get(column) in (PRESENT, ABSENT):
                table[number, place] = row.labels[column]
    return table


@dataclass(frozen=True)
class Validation:
    """Validation of a network during a run.

    Attributes:
        items: the rows; those with a text first.
        findings: F findings with their prompts; ``None`` if the dataset has labels of none of them.
        labels: ``[rows, F]``, from `label_table`.
        tokenizer: tokenizer of the network.
        batch: items of a batch, over all processes.
        workers: processes that prepare batches, for each process.
    """

    items: Items
    findings: FindingSet | None
    labels: NDArray[np.int8]
    tokenizer: ClipTokenizer
    batch: int
    workers: int

    @property
    def defined(self) -> list[int]:
        """Columns with both classes, for which the AUROC is defined."""
        return [n for n in range(self.labels.shape[1]) if {0, 1} <= set(self.labels[:, n].tolist())]

    def run(
        self,
        task: ContrastiveTask,
        *,
        process: int,
        processes: int,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> dict[str, float]:
        """Loss and AUROC of the network. Every process calls it and gets the whole result.

        Returns:
            ``loss``, and the mean over findings of ``auroc`` (combined score), ``auroc_global`` and ``auroc_local``,
            and ``auroc:NAME`` of each finding; undefined figures are left out.
        """
        task.eval()
        with torch.no_grad(), autocast():
            prompts = self._prompts(task)
            losses, rows, scores = self._pass(task, prompts, process, processes)
        parts = gather_object([(rows, scores)])
        metrics = {"loss": float(np.mean(losses))} if losses else {}
        if self.findings is not None:
            order = [row for part, _ in parts for row in part]
            global_, local = (
                np.concatenate([score[which] for _, part in parts for score in part])[np.argsort(order)]
                for which in (0, 1)
            )
            metrics |= self._aurocs(global_, local, task)
        return metrics

    def _prompts(self, task: ContrastiveTask) -> tuple[torch.Tensor, ...] | None:
        if self.findings is None:
            return None
        tokens = self.tokenizer.encode(self.findings.prompts, truncate=True)
        device = task.model.logit_scale.device
        input_ids, mask = (torch.from_numpy(array).to(device) for array in (tokens.input_ids, tokens.mask))
        encoding = task.model.encode_text(input_ids)
        return encoding.embedding, encoding.tokens, mask

    def _pass(
        self, task: ContrastiveTask, prompts: tuple[torch.Tensor, ...] | None, process: int, processes: int
    ) -> tuple[list[float], list[int], list[tuple[NDArray[np.float32], NDArray[np.float32]]]]:
        """One pass over the images of this process: losses of the batches, rows, and scores for the prompts."""
        device = task.model.logit_scale.device
        batches, with_loss = self._batches(process, processes)
        losses: list[float] = []
        scores: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        loaded = loader(self.items, [[(-1, row) for row in rows] for rows in batches], self.tokenizer, self.workers)
        for number, batch in enumerate(loaded):
            tensors = {name: tensor.to(device) for name, tensor in batch.items()}
            image, regions = task.encode_images(tensors["pixel_values"])
            if number < with_loss:
                texts = (tensors[name] for name in ("input_ids", "attention_mask", "text_key"))
                losses.append(float(task.loss(image, regions, *texts)["loss"]))
            if prompts is not None:
                embedding, words, mask = prompts
                cosine = global_score(image.float().cpu().numpy(), embedding.float().cpu().numpy())
                local = cosine
                if task.model.config.fusion_trained:
                    local = task.fused(regions, words, mask).float().cpu().numpy()
                scores.append((cosine, local))
        return losses, [row for rows in batches for row in rows], scores

    def _batches(self, process: int, processes: int) -> tuple[list[list[int]], int]:
        """Batches of rows of this process, and the number of batches with a loss, which come first.

        All processes take part in a loss, each with the same number of rows.
        """
        texts = sum(1 for text in self.items.texts if text)
        share = min(self.batch, texts) // processes
        whole = texts // (share * processes) if share * processes > 1 else 0
        starts = [number * share * processes + process * share for number in range(whole)]
        batches = [list(range(start, start + share)) for start in starts]
        left = list(range(whole * share * processes, len(self.items)))[process::processes]
        step = max(1, self.batch // processes)
        return batches + [left[start : start + step] for start in range(0, len(left), step)], whole

    def _aurocs(
        self, global_: NDArray[np.float32], local: NDArray[np.float32], task: ContrastiveTask
    ) -> dict[str, float]:
        findings, alpha = self.findings, task.model.config.effective_alpha
        if findings is None or not self.defined:
            return {}
        kinds = {"auroc": combined_score(global_, local, alpha), "auroc_global": global_}
        if task.model.config.fusion_trained:
            kinds["auroc_local"] = local
        metrics: dict[str, float] = {}
        for kind, score in kinds.items():
            if not np.isfinite(score).all():
                raise NonFiniteError(
                    "a score of a validation image is not finite",
                    fix="Lower the learning rates, or use --precision fp32.",
                )
            positive, negative = finding_scores(score, findings, task.model.config.score_threshold)
            values = []
            for column in self.defined:
                known = self.labels[:, column] >= 0
                margin = (positive - negative)[known, column]
                values.append(float(roc_auc_score(self.labels[known, column], margin)))
                if kind == "auroc":
                    metrics[f"auroc:{findings.names[column]}"] = values[-1]
            metrics[kind] = float(np.mean(values))
        return metrics

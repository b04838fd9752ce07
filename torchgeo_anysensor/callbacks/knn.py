# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""A probe that learns nothing: the labels of the nearest tokens."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..losses.gather import meet
from ..models import Features
from ..tasks import EncoderPretraining
from ..tasks.segmentation import segmentation_scores
from ..types import IGNORE_INDEX, MultiSensorSample
from .base import ValidationFeatures, cells_of, rows_of_patches
from .measures import knn_predict
from .spread import Spread


class Labelled(NamedTuple):
    """Tokens with labels."""

    tokens: Tensor  #: ``(n, D)``
    labels: Tensor  #: ``(n,)`` int64


class KNNProbe(ValidationFeatures):
    """Classify the tokens of the validation ground by the nearest tokens of the training ground.

    The label of a token is that of most of its labelled pixels in ``mask``, which the dataset gives
    if it has labels; pretraining itself does not look at them. The bank are tokens of training
    batches of the epoch, encoded anew by the encoder as it is; the queries are tokens of the
    validation ground. Test ground is never read.

    Logs overall accuracy ``val_knn_accuracy/A`` and mean IoU over the classes that occur
    ``val_knn_miou/A``, by sensor, and, with the bank of sensor A and the queries of B,
    ``val_knn_miou/A-B``; ``val_knn_miou`` is the mean of the former, ``val_knn_miou_across`` of the
    latter. Each rank has its own bank; the predictions of all are scored together. When validating
    without training there is no bank, and nothing is logged.
    """

    def __init__(
        self,
        *,
        every_n_epochs: int = 1,
        k: int = 20,
        temperature: float = 0.07,
        max_tokens: int = 2048,
        tokens_per_patch: int = 16,
    ) -> None:
        """Make the callback.

        Args:
            every_n_epochs: Look at the end of each so manieth epoch, if it validates.
            k: Neighbours that vote.
            temperature: Of their votes; see :func:`knn_predict`.
            max_tokens: Most tokens of a sensor in the bank, and most queries.
            tokens_per_patch: Tokens that are taken of a patch.

        Raises:
            ValueError: If *every_n_epochs* or *k* is below 1, or a patch has no room.
        """
        super().__init__(every_n_epochs=every_n_epochs)
        if k < 1:
            raise ValueError(f'k must be at least 1 neighbour, got {k}')
        if not 1 <= tokens_per_patch <= max_tokens:
            raise ValueError(
                f'tokens_per_patch must be from 1 to max_tokens={max_tokens}, got {tokens_per_patch}'
            )
        self.k = k
        self.temperature = temperature
        self.tokens_per_patch = tokens_per_patch
        self.max_patches = max_tokens // tokens_per_patch
        self._train: Spread[MultiSensorSample] | None = None
        self._bank: dict[str, Labelled] = {}
        self._queries: Spread[dict[str, Labelled]] = Spread(self.max_patches)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the batches of the epoch before."""
        self._train = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep some batches of the epoch on the CPU."""
        size = len(_mask(batch))
        if not self.is_due(trainer):
            return
        self._train = self._train or Spread(max(1, self.max_patches // size))
        if self._train.wants(batch_idx):
            self._train.put(batch_idx, move_data_to_device(batch, torch.device('cpu')))

    def start(self, trainer: Trainer, task: EncoderPretraining) -> None:
        """Encode the bank; evaluation mode is on."""
        self._queries = Spread(self.max_patches)
        self._bank = {}
        kept: dict[str, list[Labelled]] = {}
        for batch in self._train.items() if self._train else ():
            there = move_data_to_device(batch, task.device)
            with trainer.precision_plugin.forward_context():
                features = task(there)
            for patch in self._labelled(there, features):
                for name, found in patch.items():
                    kept.setdefault(name, []).append(found)
        self._bank = {
            name: _joined(found[: self.max_patches]) for name, found in sorted(kept.items())
        }

    def collect(
        self,
        task: EncoderPretraining,
        batch: MultiSensorSample,
        features: Mapping[str, Features],
        first: int,
    ) -> None:
        """Keep some tokens of some patches, with their labels."""
        if self._bank:
            for i, patch in enumerate(self._labelled(batch, features)):
                if self._queries.wants(first + i):
                    self._queries.put(first + i, patch)

    def finish(self, trainer: Trainer, task: EncoderPretraining) -> None:
        """Classify, and log the scores of all ranks together."""
        patches = self._queries.items()
        queries = {
            name: _joined([patch[name] for patch in patches if name in patch])
            for name in sorted({name for patch in patches for name in patch})
        }
        found = {}
        for a, bank in self._bank.items():
            for b, asked in queries.items():
                if len(bank.labels) and len(asked.labels):
                    predicted = knn_predict(
                        asked.tokens,
                        bank.tokens,
                        bank.labels,
                        k=self.k,
                        temperature=self.temperature,
                    )
                    found[a, b] = confusion_of(asked.labels, predicted)
        self._bank, self._queries, self._train = {}, Spread(self.max_patches), None
        heard, _ = meet(found)
        total: dict[tuple[str, str], Tensor] = {}
        for own in heard:
            for pair, counts in own.items():
                total[pair] = total[pair] + counts if pair in total else counts
        task.log_dict(_scores(total), sync_dist=True)

    def _labelled(
        self, batch: MultiSensorSample, features: Mapping[str, Features]
    ) -> list[dict[str, Labelled]]:
        """Of each patch, some tokens of each sensor that have a label."""
        mask = _mask(batch)
        held = {}
        for name, f in features.items():
            cells = cells_of(f, self.tokens_per_patch)
            labels = token_labels(mask, f.grid).cpu()[:, cells]
            tokens, valid = (x[:, cells.to(x.device)].cpu() for x in (f.tokens, f.valid))
            held[name] = tokens.float(), labels, valid
        patches = []
        for i, rows in enumerate(rows_of_patches(batch['present'])):
            patch = {}
            for name, row in rows.items():
                tokens, labels, valid = held[name]
                known = valid[row] & (labels[i] != IGNORE_INDEX)
                patch[name] = Labelled(tokens[row, known], labels[i, known])
            patches.append(patch)
        return patches


def token_labels(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Label of each token: that of most of its labelled pixels, the lowest of equals.

    Args:
        mask: ``(B, H, W)`` int64.
        grid: Rows and columns of the tokens. Where pixels do not divide a token they are repeated.

    Returns:
        ``(B, N)`` int64, :data:`~..types.IGNORE_INDEX` where no pixel has a label.
    """
    size = [-(-n // tokens) * tokens for n, tokens in zip(mask.shape[-2:], grid)]
    pixels = F.interpolate(mask[:, None].double(), size, mode='nearest')[:, 0].long()
    cells = rearrange(pixels, 'b (r p) (c q) -> b (r c) (p q)', r=grid[0], c=grid[1])
    votes = torch.zeros(*cells.shape[:2], IGNORE_INDEX + 1, dtype=torch.int32, device=mask.device)
    votes.scatter_add_(2, cells, torch.ones_like(cells, dtype=torch.int32))
    most, label = votes[..., :IGNORE_INDEX].max(dim=2)
    return torch.where(most > 0, label, IGNORE_INDEX)


def confusion_of(truth: Tensor, predicted: Tensor) -> Tensor:
    """Count pairs of classes, ``(255, 255)``, truth in rows."""
    counts = torch.bincount(truth * IGNORE_INDEX + predicted, minlength=IGNORE_INDEX**2)
    return counts.reshape(IGNORE_INDEX, IGNORE_INDEX)


def _mask(batch: MultiSensorSample) -> Tensor:
    """Labels of a batch.

    Raises:
        ValueError: If there are none.
    """
    if 'mask' not in batch:
        raise ValueError(
            'KNNProbe needs labels, and the batches have no mask; give the dataset labels, as '
            'conf/pretrain.yaml does, or remove the callback'
        )
    return batch['mask']


def _joined(parts: list[Labelled]) -> Labelled:
    """All tokens of several patches."""
    return Labelled(*(torch.cat(x) for x in zip(*parts)))


def _scores(total: Mapping[tuple[str, str], Tensor]) -> dict[str, float]:
    """Accuracy and mIoU by pair of bank and queries, and their means."""
    values: dict[str, float] = {}
    means: dict[str, list[float]] = {}
    for (a, b), counts in total.items():
        scores = segmentation_scores(counts)
        for metric in ('accuracy', 'miou'):
            value = float(scores[metric])
            values[f'val_knn_{metric}/{a if a == b else f"{a}-{b}"}'] = value
            means.setdefault(f'val_knn_{metric}{"" if a == b else "_across"}', []).append(value)
    return {name: sum(found) / len(found) for name, found in means.items()} | values

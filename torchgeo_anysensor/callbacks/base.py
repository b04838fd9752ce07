# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What the callbacks share: the features of the validation batches, and numbers of all ranks."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..losses.gather import meet
from ..models import Features
from ..tasks import EncoderPretraining
from ..types import MultiSensorSample


class ValidationFeatures(Callback, ABC):
    """Base of the callbacks that look at the features of the validation ground.

    It hears what the task's own validation step encodes, so that nothing is encoded twice. Where
    that step has no use for whole features (:class:`~..tasks.MaskedAutoencoding`), each batch is
    encoded once more, for all callbacks together. No random number is drawn.
    """

    def __init__(self, *, every_n_epochs: int = 1) -> None:
        """Make the callback.

        Args:
            every_n_epochs: Look at the end of each so manieth epoch, if it validates.

        Raises:
            ValueError: If it is below 1.
        """
        if every_n_epochs < 1:
            raise ValueError(f'every_n_epochs must be at least 1, got {every_n_epochs}')
        self.every_n_epochs = every_n_epochs
        self._hook: RemovableHandle | None = None
        self._heard: tuple[Any, Any] = None, None
        self._count = 0

    @abstractmethod
    def start(self, trainer: Trainer, task: EncoderPretraining) -> None:
        """Get ready for an epoch of validation."""

    @abstractmethod
    def collect(
        self,
        task: EncoderPretraining,
        batch: MultiSensorSample,
        features: Mapping[str, Features],
        first: int,
    ) -> None:
        """Keep what is needed of a batch.

        Args:
            task: What is trained.
            batch: On the device.
            features: By sensor, of the samples that have it.
            first: Number of the batch's first patch in the epoch.
        """

    @abstractmethod
    def finish(self, trainer: Trainer, task: EncoderPretraining) -> None:
        """Make use of what was kept. Called on all ranks."""

    def is_due(self, trainer: Trainer) -> bool:
        """Whether to look in this epoch; always when validating without training."""
        if trainer.state.fn != TrainerFn.FITTING:
            return True
        return (trainer.current_epoch + 1) % self.every_n_epochs == 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the task has features to look at.

        Raises:
            TypeError: If it has not.
        """
        _checked(pl_module, self)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to listen."""
        if not trainer.sanity_checking and self.is_due(trainer):
            self._count = 0
            self._hook = pl_module.register_forward_hook(self._hear)
            self.start(trainer, _checked(pl_module, self))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Pass on the features of the batch."""
        if self._hook is None:
            return
        task = _checked(pl_module, self)
        with trainer.precision_plugin.forward_context():
            if self._heard[0] is not batch:
                task(batch)  # heard by all callbacks
            self.collect(task, batch, self._heard[1], self._count)
        self._heard = None, None
        self._count += len(next(iter(batch['present'].values())))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make use of what was kept."""
        if self._hook is not None:
            self._stop()
            self.finish(trainer, _checked(pl_module, self))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Listen no more."""
        self._stop()

    def _hear(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Remember what was encoded; DDP calls the task for a whole step too, with more arguments."""
        if len(args) == 1:
            self._heard = args[0], output

    def _stop(self) -> None:
        """Listen no more."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        self._heard = None, None


def _checked(module: LightningModule, callback: Callback) -> EncoderPretraining:
    """The task, if a callback can look at its features.

    Raises:
        TypeError: If it cannot.
    """
    if not isinstance(module, EncoderPretraining):
        raise TypeError(
            f'{type(callback).__name__} looks at the features of an EncoderPretraining task, such as '
            f'CrossSensorContrastive, and cannot with {type(module).__name__}; remove the callback'
        )
    return module


def rows_of_patches(present: Mapping[str, Tensor]) -> Iterator[dict[str, int]]:
    """For each patch of a batch, its row in the views of each sensor that saw it.

    Args:
        present: ``(B,)`` bool by sensor.
    """
    there = {name: p.tolist() for name, p in present.items()}
    rows = {name: (p.cumsum(dim=0) - 1).tolist() for name, p in present.items()}
    for i in range(len(next(iter(there.values()), []))):
        yield {name: rows[name][i] for name in there if there[name][i]}


def cells_of(features: Features, count: int) -> Tensor:
    """Numbers of at most *count* tokens, the same ones in every patch of one grid."""
    tokens = features.tokens.shape[1]
    order = torch.randperm(tokens, generator=torch.Generator().manual_seed(0))
    return order[:count].sort().values


def log_over_ranks(
    task: LightningModule, values: Mapping[str, float], *, weight: float
) -> dict[str, float]:
    """Log values that ranks may have or lack, each with its mean over the ranks that have it.

    Args:
        task: What logs.
        values: Of this rank, by name.
        weight: How much they count.

    Returns:
        What was logged, the same on all ranks.
    """
    heard, _ = meet((weight, dict(values)))
    names = dict.fromkeys(name for _, own in heard for name in own)
    mean = {
        name: sum(w * own[name] for w, own in heard if name in own)
        / sum(w for w, own in heard if name in own)
        for name in names
    }
    task.log_dict(mean, sync_dist=True)  # all ranks have the same by now
    return mean

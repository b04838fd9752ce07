# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What the tasks share: checkpoints of plain values, optimisation, sensors of a batch."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torchgeo.tasks import BaseTask

from ..models import Features, SensorEncoder, encode
from ..models.description import describe
from ..types import BAND_FACTS, MultiSensorSample, SensorSample
from .schedule import Schedule
from .sharding import shard, task_name

#: What Lightning calls to rebuild a task from ``class_path`` and ``init_args``.
_INSTANTIATOR = 'lightning.pytorch.cli.instantiate_module'


class SensorTask(BaseTask):
    """Base of the tasks."""

    ignore = ()

    def __init__(self) -> None:
        """Save the hyperparameters; :meth:`describe_modules` makes plain values of the modules."""
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='Attribute .* is an instance of `nn.Module`')
            super().__init__()

    def configure_models(self) -> None:
        """Do nothing: modules are arguments, and are assigned after ``super().__init__()``."""

    def describe_modules(self, **modules: Any) -> None:
        """Keep descriptions, not objects, in the hyperparameters.

        A checkpoint then holds tensors and plain values alone: it loads without unpickling code and
        rebuilds its task by itself.

        Args:
            modules: Arguments of the task that are modules, classes or functions, by name.
        """
        plain = {name: describe(module) for name, module in modules.items()}
        self.save_hyperparameters({**plain, '_instantiator': _INSTANTIATOR})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the run was, for the card of its encoder."""
        if self._trainer is None:  # saved by itself
            return
        metrics = {k: round(float(v), 4) for k, v in self.trainer.callback_metrics.items()}
        data: Any = getattr(self.trainer, 'datamodule', None)
        checkpoint['run'] = {
            'task': task_name(self),
            'steps': int(self.trainer.global_step),
            'epochs': int(self.trainer.current_epoch) + 1,
            'data': data.facts() if hasattr(data, 'facts') else {},
            'metrics': metrics,
        }

    def configure_model(self) -> None:
        """Shard the parameters over the ranks if the strategy is ``ModelParallelStrategy``."""
        if self.device_mesh is not None:
            shard(self, self.device_mesh)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, at a rate that moves by the task's :class:`.Schedule`."""
        optimizer = AdamW(
            self.parameter_groups(),
            lr=self.hparams['lr'],
            weight_decay=self.hparams['weight_decay'],
        )
        schedule = Schedule(**(self.hparams.get('schedule') or {}))
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        growth = 1.0 if schedule.lr_batch is None else schedule.growth(self.samples_per_step())
        scheduler = LambdaLR(optimizer, lambda step: growth * schedule.factor(step, steps=steps))
        return {
            'optimizer': optimizer,
            'lr_scheduler': {'scheduler': scheduler, 'interval': 'step'},
        }

    def samples_per_step(self) -> int:
        """Samples of an optimiser step: the batch, times ranks, times accumulated batches.

        Raises:
            ValueError: If the loader does not say its batch size.
        """
        self.trainer.fit_loop.setup_data()  # with max_steps nobody has asked for the loader yet
        size = getattr(self.trainer.train_dataloader, 'batch_size', None)
        if size is None:
            raise ValueError(
                'lr_batch scales the learning rate with the batch, and the training loader has no '
                'batch_size; leave lr_batch out'
            )
        return int(size) * self.trainer.world_size * self.trainer.accumulate_grad_batches

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters with their own learning rates; by default all that are trained, in one."""
        return [{'params': [p for p in self.parameters() if p.requires_grad]}]


class PretrainingTask(SensorTask, ABC):
    """Base of the tasks that learn without labels: every step logs what the batch loses.

    Attributes:
        shown: Names of the values that the progress bar shows.
    """

    shown: tuple[str, ...] = ('loss',)

    @abstractmethod
    def losses(self, batch: MultiSensorSample) -> dict[str, Tensor]:
        """Give what is logged of a batch; ``loss`` is minimised.

        Args:
            batch: Of :func:`~..datasets.collate_sensors`.
        """

    def training_step(self, batch: MultiSensorSample, batch_idx: int) -> Tensor:
        """Loss of one batch.

        Args:
            batch: Of :func:`~..datasets.collate_sensors`.
            batch_idx: Number of the batch.
        """
        return self._step(batch, 'train')

    def validation_step(self, batch: MultiSensorSample, batch_idx: int) -> None:
        """Log the values of one batch.

        Args:
            batch: Of :func:`~..datasets.collate_sensors`.
            batch_idx: Number of the batch.
        """
        self._step(batch, 'val')

    def test_step(self, batch: MultiSensorSample, batch_idx: int) -> None:
        """Log the values of one batch.

        Args:
            batch: Of :func:`~..datasets.collate_sensors`.
            batch_idx: Number of the batch.
        """
        self._step(batch, 'test')

    def _step(self, batch: MultiSensorSample, stage: str) -> Tensor:
        """Log the values, and return the loss."""
        values = self.losses(batch)
        size = len(next(iter(batch['present'].values())))
        for key, value in values.items():
            self.log(
                f'{stage}_{key}',
                value,
                batch_size=size,
                prog_bar=key in self.shown,
                sync_dist=stage != 'train',
            )
        return values['loss']


class EncoderPretraining(PretrainingTask):
    """Base of the tasks that train an encoder, whose features can be looked at.

    Attributes:
        encoder: What is trained.
    """

    encoder: SensorEncoder

    def leave_detail(self) -> None:
        """Freeze the detail of the encoder, which no loss sees: ranks would wait for its gradient."""
        for part in self.encoder.detail_parts():
            part.requires_grad_(False)

    def forward(self, batch: MultiSensorSample) -> dict[str, Features]:
        """Encode each sensor of a batch by itself.

        Args:
            batch: Of :func:`~..datasets.collate_sensors`.

        Returns:
            Features by sensor, of the samples that have it.
        """
        return {name: encode(self.encoder, views) for name, views in batch['sensors'].items()}

    def embed(self, features: Features) -> Tensor:
        """Give the vectors by which patches are compared; by default their pooled features.

        Args:
            features: Of ``B`` patches of one sensor.

        Returns:
            ``(B, P)``, not normalised.
        """
        return features.pooled


def spread_rows(x: Tensor, present: Tensor, *, fill: Tensor | None = None) -> Tensor:
    """Put the rows of the samples that a sensor saw into the batch.

    Args:
        x: ``(n, ...)``.
        present: ``(B,)`` bool, ``n`` of them true.
        fill: What the other rows get, ``(...)``; by default zeros.

    Returns:
        ``(B, ...)``.
    """
    fill = torch.zeros_like(x[0]) if fill is None else fill
    out = fill.expand(len(present), *x.shape[1:]).clone()
    out[present] = x
    return out


def sensor_views(
    sensors: Mapping[str, Sequence[SensorSample]],
    present: Mapping[str, Tensor] | None,
    names: Sequence[str] | None = None,
) -> dict[str, tuple[SensorSample, ...]]:
    """Views of several sensors with the whole batch in each.

    Args:
        sensors: Views by sensor, of the samples that have it.
        present: ``(B,)`` bool by sensor; all if None.
        names: The sensors to take; all of the batch by default.

    Returns:
        The views by sensor; where a sensor is absent, no pixel of it is valid, so that a model
        passes it over.

    Raises:
        ValueError: If no such sensor is in the batch.
    """
    names = list(sensors) if names is None else names
    chosen = [name for name in names if name in sensors]
    if not chosen:
        raise ValueError(f'none of the sensors {list(names)} is in the batch: {list(sensors)}')
    return {
        name: tuple(
            view if present is None or bool(present[name].all()) else _whole(view, present[name])
            for view in sensors[name]
        )
        for name in chosen
    }


def joint_views(
    sensors: Mapping[str, Sequence[SensorSample]],
    present: Mapping[str, Tensor] | None,
    names: Sequence[str] | None = None,
) -> tuple[SensorSample, ...]:
    """All views of :func:`sensor_views`, one after the other."""
    by_sensor = sensor_views(sensors, present, names)
    return tuple(view for views in by_sensor.values() for view in views)


def _whole(view: SensorSample, present: Tensor) -> SensorSample:
    """A view with a row for each sample of the batch."""
    present = present.to(view['image'].device)
    out = cast(dict[str, Tensor], dict(view))
    for key, value in out.items():
        if key in BAND_FACTS:
            if value.ndim == 2:  # facts of a real band, so that the absent rows are no nonsense
                out[key] = spread_rows(value, present, fill=value[0])
        elif key != 'res':
            out[key] = spread_rows(value, present)
    return cast(SensorSample, out)

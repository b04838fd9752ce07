# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Batches of a multi-sensor dataset, split by ground."""

import os
from collections.abc import Callable, Sequence
from typing import Any, cast

import shapely
import torch
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from rasterio.env import set_gdal_config
from torch.utils.data import DataLoader, Dataset
from torchgeo.datamodules import BaseDataModule
from torchgeo.samplers import GeoSampler

from ..datasets import MultiSensorDataset, collate_sensors
from ..samplers import (
    AlignedGridSampler,
    AlignedPatchSampler,
    BlockSplit,
    RankSampler,
    ResumableDataLoader,
)
from ..types import MultiSensorSample

#: Cache of decoded blocks of GDAL in a worker in MB, unless ``GDAL_CACHEMAX`` is set: in random order
#: hardly a block is met again.
WORKER_CACHE_MB = 64

Transform = Callable[[MultiSensorSample], MultiSensorSample]


class MultiSensorDataModule(BaseDataModule):
    """Random patches of the train ground, a grid of patches over the val and test ground."""

    def __init__(
        self,
        dataset: MultiSensorDataset,
        *,
        size: float,
        split: BlockSplit,
        batch_size: int = 16,
        length: int | None = None,
        neighbours: int = 1,
        spacing: float | None = None,
        file_block: float | None = None,
        shuffle_buffer: int = 1,
        train_transforms: Sequence[Transform] = (),
        num_workers: int = 0,
    ) -> None:
        """Make the data module.

        Args:
            dataset: The matched sensors, with labels if the task needs them.
            size: Width of a patch in metres.
            split: How the ground is dealt to train, val and test.
            batch_size: Patches in a batch.
            length: Training patches in an epoch; by default as many as cover the train ground of
                every acquisition once.
            neighbours: Training patches that lie side by side and are decoded at once; a batch
                holds ``batch_size / neighbours`` places (see :class:`AlignedPatchSampler`).
            spacing: Metres between the corners of neighbours; by default *size*.
            file_block: Width in metres of the blocks of the first sensor's finest files; neighbours
                then lie in as few blocks as they can.
            shuffle_buffer: Training batches whose samples are mixed, so that neighbours are spread
                over them; see :class:`ResumableDataLoader`.
            train_transforms: Called in turn on each training batch, on the device.
            num_workers: Processes that read.
        """
        super().__init__(MultiSensorDataset, batch_size, num_workers)
        self.aug = _identity
        self.scenes = dataset
        self.size = size
        self.split = split
        self.length = length
        self.neighbours = neighbours
        self.spacing = spacing
        self.file_block = file_block
        self.shuffle_buffer = shuffle_buffer
        self.train_transforms = tuple(train_transforms)
        self.samplers: dict[str, GeoSampler] = {}

    def facts(self) -> dict[str, Any]:
        """Say what the data are, as plain values, for the card of a model."""
        times = self.scenes.index.index
        return {
            'sensors': ', '.join(self.scenes.datasets),
            'acquisitions of the first sensor': len(self.scenes.index),
            'first day': times.left.min().date().isoformat(),
            'last day': times.right.max().date().isoformat(),
            'patch in metres': float(self.size),
            'batch size': int(self.batch_size),
        }

    def setup(self, stage: str) -> None:
        """Split the ground and find where patches fit.

        Args:
            stage: Either 'fit', 'validate', 'test' or 'predict'.

        Raises:
            ValueError: If a split that the stage needs has room for no patch.
        """
        ground = self.split(self.scenes)
        needed = {
            'fit': ('train', 'val'),
            'validate': ('val',),
            'test': ('test',),
            'predict': ('test',),
        }[stage]
        for name in needed:
            roi = getattr(ground, name)
            try:
                self.samplers[name] = (
                    self._train_sampler(roi)
                    if name == 'train'
                    else AlignedGridSampler(self.scenes, size=self.size, roi=roi)
                )
            except ValueError as error:
                raise ValueError(
                    f'{name} split (blocks of {self.split.size:g} m): {error}'
                ) from None
        counts = ', '.join(f'{name} {len(self.samplers[name])}' for name in needed)
        rank_zero_info(f'Ground split into blocks of {self.split.size:g} m:\n{ground.report()}')
        rank_zero_info(f'Patches of {self.size:g} m: {counts}')

    def _train_sampler(self, roi: shapely.Geometry) -> AlignedPatchSampler:
        """Random patches of a region; all ranks draw the same."""
        seed = torch.initial_seed()
        if self.trainer is not None:
            seed = self.trainer.strategy.broadcast(seed)
        return AlignedPatchSampler(
            self.scenes,
            size=self.size,
            length=self.length,
            neighbours=self.neighbours,
            spacing=self.spacing,
            file_block=self.file_block,
            roi=roi,
            seed=seed,
        )

    def _options(self) -> dict[str, Any]:
        """What the loaders of all splits have in common."""
        return {
            'num_workers': self.num_workers,
            'worker_init_fn': _start_worker,
            'collate_fn': collate_sensors,
            'persistent_workers': self.num_workers > 0,
            'pin_memory': torch.cuda.is_available(),
        }

    def train_dataloader(self) -> DataLoader[Any]:
        """Random patches of the train ground: of each rank its own, and resumable.

        Raises:
            ValueError: If an epoch has no batch for each rank.
        """
        patches = self.samplers['train']
        assert isinstance(patches, AlignedPatchSampler)
        ranks = self.trainer.distributed_sampler_kwargs if self.trainer is not None else None
        sampler = RankSampler(
            patches, batch_size=self.batch_size, **(ranks or {'num_replicas': 1, 'rank': 0})
        )
        if len(sampler) < self.batch_size:
            each = f' on each of {sampler.num_replicas} ranks' if sampler.num_replicas > 1 else ''
            raise ValueError(
                f'an epoch of {len(patches)} training patches has no batch of {self.batch_size}'
                f'{each}; use a smaller batch_size or a larger length'
            )
        return ResumableDataLoader(
            cast(Dataset[Any], self.scenes),
            sampler=sampler,
            shuffle_buffer=self.shuffle_buffer,
            drop_last=True,
            **self._options(),
        )

    def _in_order(self, split: str) -> DataLoader[Any]:
        """Patches side by side over the ground of a split."""
        return DataLoader(
            cast(Dataset[Any], self.scenes),
            batch_size=self.batch_size,
            sampler=self.samplers[split],
            **self._options(),
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Patches side by side over the val ground."""
        return self._in_order('val')

    def test_dataloader(self) -> DataLoader[Any]:
        """Patches side by side over the test ground."""
        return self._in_order('test')

    def predict_dataloader(self) -> DataLoader[Any]:
        """Patches side by side over the test ground."""
        return self._in_order('test')

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment training batches on the device.

        Args:
            batch: A batch.
            dataloader_idx: Which loader it comes from.

        Returns:
            The batch that the task sees.
        """
        if self.trainer is not None and self.trainer.training:
            for transform in self.train_transforms:
                batch = transform(batch)
        return batch

    def plot(self, *args: Any, **kwargs: Any) -> Figure:
        """Draw a sample; see :meth:`MultiSensorDataset.plot`."""
        return self.scenes.plot(*args, **kwargs)


def _identity(batch: Any) -> Any:
    """Leave a batch as it is (TorchGeo's base would normalise ``image``)."""
    return batch


def _start_worker(number: int) -> None:
    """Bound the cache of GDAL in a worker, which is 5 % of the memory for each process by default."""
    if 'GDAL_CACHEMAX' not in os.environ:
        set_gdal_config('GDAL_CACHEMAX', WORKER_CACHE_MB * 2**20)

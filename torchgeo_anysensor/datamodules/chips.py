# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Batches of patches that were written once."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchgeo.datamodules import BaseDataModule

from ..datasets import ChippedDataset
from ..datasets.chip_format import PackedBatch
from ..datasets.plot import draw_views
from ..samplers import ChipSampler
from ..samplers.ranks import check_same
from ..types import MultiSensorSample

Transform = Callable[[MultiSensorSample], MultiSensorSample]


class ChipLoader(DataLoader[Any]):
    """Batches of chips, read as a whole; it resumes in the middle of an epoch.

    Lightning keeps its state in checkpoints. The state holds for any number of workers.
    """

    sampler: ChipSampler
    _done = 0
    _resumed: Mapping[str, int] = {}

    def __iter__(self) -> Iterator[MultiSensorSample]:  # type: ignore[override]
        """Read the epoch, or what is left of it after a resume.

        Yields:
            What ``collate_sensors`` makes of the samples.
        """
        if not isinstance(self.sampler, ChipSampler):  # Lightning has wrapped it, to predict
            yield from super().__iter__()
            return
        # Not before the first batch is asked for: Lightning sets the epoch after iter()
        same_epoch = self._resumed.get('epoch') == self.sampler.epoch
        self._done, self._resumed = self._resumed['batches'] if same_epoch else 0, {}
        self.sampler.skip = self._done * (self.batch_size or 1)
        for batch in super().__iter__():
            self._done += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches were handed out."""
        return {
            'epoch': self.sampler.epoch,
            'batches': self._done,
            'batch_size': self.batch_size or 1,
            'ranks': self.sampler.num_replicas,
            'seed': self.sampler.seed,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that a state tells of.

        Args:
            state: Of :meth:`state_dict`.

        Raises:
            ValueError: If batches were of another size, or of other ranks.
        """
        check_same(self.state_dict(), state, ('batch_size', 'ranks'))
        self.sampler.set_epoch(state['epoch'])
        self.sampler.seed = state.get('seed', self.sampler.seed)
        self._resumed = dict(state)


class _Batches(Dataset[Any]):
    """Tells the loader to ask for whole batches."""

    def __init__(self, dataset: ChippedDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> PackedBatch:
        return self.dataset.pack(indices)


def chip_loader(
    dataset: ChippedDataset,
    *,
    batch_size: int,
    shuffle: bool = False,
    seed: int | None = None,
    num_workers: int = 0,
) -> ChipLoader:
    """Read a split of chips in batches.

    Args:
        dataset: The chips.
        batch_size: Chips in a batch of one rank.
        shuffle: Mix all chips, anew for each epoch, and leave out a last batch that is not full.
        seed: Of the order; by default that of ``seed_everything``.
        num_workers: Processes that read.

    Returns:
        The loader of this rank.

    Raises:
        ValueError: If an epoch has no batch.
    """
    sampler = ChipSampler(dataset, shuffle=shuffle, drop_last=shuffle, seed=seed)
    if shuffle and len(sampler) < batch_size:
        raise ValueError(
            f'an epoch of {len(sampler)} chips has no batch of {batch_size}; use a smaller batch_size'
        )
    return ChipLoader(
        _Batches(dataset),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=_plain,
        drop_last=shuffle,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


class ChippedDataModule(BaseDataModule):
    """Train, val and test as they were dealt when the chips were written."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        batch_size: int = 16,
        train_transforms: Sequence[Transform] = (),
        seed: int | None = None,
        num_workers: int = 0,
    ) -> None:
        """Make the data module.

        Args:
            root: Folder that ``torchgeo-anysensor chip`` has written.
            batch_size: Chips in a batch.
            train_transforms: Called in turn on each training batch, on the device.
            seed: Of the order of training, the same for all ranks; by default that of
                ``seed_everything``, or else of the first rank.
            num_workers: Processes that read.
        """
        super().__init__(cast(Any, ChippedDataset), batch_size, num_workers)
        self.aug = _same
        self.root = root
        self.seed = seed
        self.train_transforms = tuple(train_transforms)
        self.chips: dict[str, ChippedDataset] = {}

    def facts(self) -> dict[str, Any]:
        """Say what the data are, as plain values, for the card of a model."""
        chips = next(iter(self.chips.values()))
        patches = chips.patches
        return {
            'sensors': ', '.join(chips.manifest['sensors']),
            'chips': len(chips),
            'first day': patches.start.min().date().isoformat(),
            'last day': patches.stop.max().date().isoformat(),
            'patch in metres': float(patches.width.iloc[0]),
            'batch size': int(self.batch_size),
        }

    def setup(self, stage: str) -> None:
        """Read the manifests.

        Args:
            stage: Either 'fit', 'validate', 'test' or 'predict'.
        """
        needed = {
            'fit': ('train', 'val'),
            'validate': ('val',),
            'test': ('test',),
            'predict': ('test',),
        }[stage]
        for split in needed:
            if split not in self.chips:
                self.chips[split] = ChippedDataset(self.root, split=split)
        if stage == 'fit' and self.seed is None and self.trainer is not None:
            self.seed = self.trainer.strategy.broadcast(torch.initial_seed())
        counts = ', '.join(f'{split} {len(self.chips[split])}' for split in needed)
        rank_zero_info(f'Chips in {self.root}: {counts}')

    def _dataloader_factory(self, split: str) -> ChipLoader:
        """Make the loader of a split."""
        return chip_loader(
            self.chips[split],
            batch_size=int(self.batch_size),
            shuffle=split == 'train',
            seed=self.seed,
            num_workers=self.num_workers,
        )

    def train_dataloader(self) -> ChipLoader:
        """The train chips, mixed anew for each epoch."""
        return self._dataloader_factory('train')

    def val_dataloader(self) -> ChipLoader:
        """The val chips in the order in which they were written."""
        return self._dataloader_factory('val')

    def test_dataloader(self) -> ChipLoader:
        """The test chips in the order in which they were written."""
        return self._dataloader_factory('test')

    def predict_dataloader(self) -> ChipLoader:
        """The test chips in the order in which they were written."""
        return self._dataloader_factory('test')

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

    def plot(self, sample: Any, **kwargs: Any) -> Figure:
        """Draw a sample; see :meth:`MultiSensorDataset.plot`."""
        return draw_views(sample, **kwargs)


def _plain(batch: Any) -> Any:
    """In a worker, what becomes a batch in the main process; there, the batch."""
    return batch.batch() if get_worker_info() is None else batch


def _same(batch: Any) -> Any:
    """Leave a batch as it is (TorchGeo's base would normalise ``image``)."""
    return batch

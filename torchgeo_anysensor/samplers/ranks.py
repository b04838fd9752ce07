# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""A share of an epoch for each rank, to be gone on with after a stop."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchgeo.datasets.utils import GeoSlice

from ..datasets import join_batches, take_rows
from ..types import MultiSensorSample
from .aligned import AlignedPatchSampler


class RankSampler(DistributedSampler[GeoSlice]):
    """What one rank reads of the patches that a sampler draws: every n-th batch.

    All ranks must hold the same sampler with the same seed. Each gets as many patches; where the
    epoch cannot be dealt evenly, the last ranks get patches of its beginning once more.

    Lightning leaves a sampler of this kind as it is. (Another one it would wrap, draw the same
    epoch for ever, and tear neighbours apart.)
    """

    def __init__(
        self,
        sampler: AlignedPatchSampler,
        *,
        batch_size: int,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        """Deal the batches.

        Args:
            sampler: Draws the epoch.
            batch_size: Patches in a batch of one rank.
            num_replicas: Number of ranks; by default that of the process group.
            rank: Which one this is, likewise.
        """
        self.sampler = sampler  # first, as the base class sets the epoch
        # It wants the length of a dataset alone
        super().__init__(sampler, num_replicas, rank, shuffle=False)  # type: ignore[arg-type]
        self.batch_size = batch_size
        self.start = 0  #: first of the rank's patches that is wanted

    @property
    def epoch(self) -> int:
        """Number of the epoch."""
        return self.sampler.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        """Draw other patches from now on; what ``set_epoch`` calls."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[GeoSlice]:
        """Go through the patches of the rank.

        Yields:
            [xmin:xmax, ymin:ymax, tmin:tmax] coordinates to index a dataset.
        """
        numbers, again = self._share()
        yield from self._pick(numbers[self.start :])
        yield from self._pick(again[max(0, self.start - len(numbers)) :])

    def _share(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of the rank's patches in the epoch, and of those that another rank has too."""
        total, ranks = len(self.sampler), self.num_replicas
        whole = total // (ranks * self.batch_size) * ranks * self.batch_size
        batches = np.arange(whole).reshape(-1, ranks, self.batch_size)[:, self.rank]
        rest = np.arange(whole, whole + -(-(total - whole) // ranks) * ranks)
        rest = rest.reshape(ranks, -1)[self.rank]
        own = np.concatenate([batches.reshape(-1), rest])
        return own[own < total], own[own >= total] % total

    def _pick(self, numbers: NDArray[np.int64]) -> Iterator[GeoSlice]:
        """Patches of increasing numbers."""
        stream = enumerate(self.sampler)
        for wanted in numbers.tolist():
            yield next(query for number, query in stream if number == wanted)

    def __len__(self) -> int:
        """Patches of one rank, of an epoch that is not gone on with."""
        return sum(map(len, self._share()))


class ResumableDataLoader(DataLoader):
    """A loader that goes on in the middle of an epoch, with the patches that remained.

    Its state is the number of the epoch and of the batches that were handed out, however many the
    workers had read ahead, because an epoch is a function of its number. Lightning keeps the state
    in its checkpoints; it is the same on all ranks.

    A *shuffle_buffer* spreads the neighbours of an :class:`AlignedPatchSampler` over several batches,
    each of which then holds as many places more.
    """

    sampler: RankSampler

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        sampler: RankSampler,
        shuffle_buffer: int = 1,
        **options: Any,
    ) -> None:
        """Make the loader.

        Args:
            dataset: What is read.
            sampler: Of the batch size of the loader.
            shuffle_buffer: Batches whose samples are mixed before the first of them is handed out;
                they wait in the memory of the process that trains. More than one are for batches of
                :func:`~..datasets.collate_sensors`.
            options: Others of :class:`torch.utils.data.DataLoader`.

        Raises:
            ValueError: If *shuffle_buffer* is not positive.
        """
        if shuffle_buffer < 1:
            raise ValueError(f'shuffle_buffer={shuffle_buffer} must be at least 1 batch')
        # With a generator of its own, a loader leaves the global one alone
        generator = torch.Generator().manual_seed(sampler.sampler.seed % 2**63)
        super().__init__(
            dataset, sampler.batch_size, sampler=sampler, generator=generator, **options
        )
        self.shuffle_buffer = shuffle_buffer
        self._given = 0
        self._wanted: dict[int, Mapping[str, int]] = {}  # epoch to where it stood

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Go through the batches; the sampler is not asked before the first one is.

        Lightning makes the iterator before it tells the epoch.

        Raises:
            ValueError: If the epoch is to go on, and batches or ranks are others now.
        """
        state = self._wanted.pop(self.sampler.epoch, {})
        check_same(self.state_dict(), state, ('batch_size', 'ranks', 'shuffle_buffer'))
        self._given = state.get('batches', 0)
        buffer, begun = divmod(self._given, self.shuffle_buffer)  # a begun one is read again
        self.sampler.start = (self._given - begun) * self.sampler.batch_size
        read = itertools.batched(super().__iter__(), self.shuffle_buffer)
        for number, batches in enumerate(read, start=buffer):
            mixed = batches if self.shuffle_buffer == 1 else self._mix(batches, number)
            for batch in itertools.islice(mixed, begun, None):
                self._given += 1
                yield batch
            begun = 0

    def _mix(
        self, batches: Sequence[MultiSensorSample], number: int
    ) -> Iterator[MultiSensorSample]:
        """Deal the samples of a buffer anew, the same whenever this rank meets it in this epoch."""
        sizes = [len(next(iter(batch['present'].values()))) for batch in batches]
        source = torch.tensor([(i, row) for i, size in enumerate(sizes) for row in range(size)])
        sampler = self.sampler
        key = sampler.sampler.seed % 2**64, sampler.epoch, sampler.rank, number
        order = torch.from_numpy(np.random.default_rng(key).permutation(len(source)))
        for own in torch.split(source[order], sizes):
            rows = [own[own[:, 0] == i, 1] for i in range(len(batches))]
            parts = zip(batches, rows)
            yield join_batches([take_rows(batch, some) for batch, some in parts if len(some)])

    def state_dict(self) -> dict[str, int]:
        """Where the epoch stands."""
        return {
            'epoch': self.sampler.epoch,
            'batches': self._given,
            'length': len(self),
            'batch_size': self.sampler.batch_size,
            'ranks': self.sampler.num_replicas,
            'shuffle_buffer': self.shuffle_buffer,
            'seed': self.sampler.sampler.seed,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where an epoch stood.

        Args:
            state: What :meth:`state_dict` told.
        """
        self.sampler.sampler.seed = state.get('seed', self.sampler.sampler.seed)
        left = state['batches'] < state.get('length', len(self))
        self._wanted = {state['epoch']: dict(state)} if left else {}


def check_same(own: Mapping[str, int], state: Mapping[str, int], keys: Sequence[str]) -> None:
    """Check that the rest of an epoch can be found.

    Args:
        own: State of a loader.
        state: That of the one that began the epoch; what it does not tell is not checked.
        keys: On which the order of samples depends.

    Raises:
        ValueError: If they differ.
    """
    for key in keys:
        if state.get(key, own[key]) != own[key]:
            raise ValueError(
                f'cannot resume in the middle of an epoch with {key}={own[key]}: the checkpoint '
                f'was written with {key}={state[key]}'
            )

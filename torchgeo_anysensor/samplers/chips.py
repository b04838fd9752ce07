# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The order in which stored patches are read."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed
from torch.utils.data import DistributedSampler

from ..datasets import ChippedDataset


class ChipSampler(DistributedSampler[int]):
    """Numbers of chips, for this rank, in an order that is a function of seed and epoch.

    All ranks get as many. The ranks together draw each chip of an epoch once: with *drop_last* but
    for the last few, without it and with the first few again, as torch's own sampler does. (Lightning
    leaves samplers of that class as they are, and tells them the epoch.)
    """

    def __init__(
        self,
        dataset: ChippedDataset,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int | None = None,
    ) -> None:
        """Find out which rank this is.

        Args:
            dataset: What to draw from.
            shuffle: Mix all chips of all shards, anew for each epoch.
            drop_last: Leave out what does not go evenly into the ranks, instead of drawing again.
            seed: By default the one that ``seed_everything`` or ``torch.manual_seed`` set; the same
                on all ranks.
        """
        several = distributed.is_available() and distributed.is_initialized()
        super().__init__(
            dataset,
            num_replicas=distributed.get_world_size() if several else 1,
            rank=distributed.get_rank() if several else 0,
            shuffle=shuffle,
            seed=torch.initial_seed() if seed is None else seed,
            drop_last=drop_last,
        )
        #: Chips of this rank to leave out at the start: those that were read before a resume.
        self.skip = 0

    def order(self) -> NDArray[np.int64]:
        """All chips of this rank in this epoch."""
        count = len(self.dataset)  # type: ignore[arg-type]
        order = np.arange(count)
        if self.shuffle:
            np.random.default_rng((self.seed % 2**64, self.epoch)).shuffle(order)
        return np.resize(order, self.total_size)[self.rank :: self.num_replicas]

    def __iter__(self) -> Iterator[int]:
        """Go through the chips of this rank.

        Yields:
            Numbers of chips.
        """
        yield from self.order()[self.skip :].tolist()

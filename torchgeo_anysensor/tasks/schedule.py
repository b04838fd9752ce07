# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""How the learning rate moves."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A linear warm-up and a cosine decay to 0 (Loshchilov & Hutter, arXiv 1608.03983).

    The peak is the task's ``lr``. With *lr_batch* that is the rate for a step of so many samples,
    and grows with the samples that a step really has (Goyal et al. 2017, arXiv 1706.02677).

    Attributes:
        warmup: Steps in which the rate rises from 0; below 1 as a share of all steps.
        lr_batch: Samples of a step for which ``lr`` is meant; by default ``lr`` is taken as it is.
        lr_power: The rate grows with this power of the samples: 1 is the linear rule, 0.5 the
            square root, which suits optimisers like Adam (Malladi et al. 2022, arXiv 2205.10287).

    Raises:
        ValueError: If *warmup* is negative or *lr_batch* not positive.
    """

    warmup: float = 0.1
    lr_batch: int | None = None
    lr_power: float = 1.0

    def __post_init__(self) -> None:
        """Check the values."""
        if self.warmup < 0:
            raise ValueError(f'warmup must be at least 0 steps, got {self.warmup}')
        if self.lr_batch is not None and self.lr_batch < 1:
            raise ValueError(f'lr_batch must be at least 1 sample, got {self.lr_batch}')

    def growth(self, batch: int) -> float:
        """Factor on the rate for a step of *batch* samples, over all ranks and accumulated batches."""
        return 1.0 if self.lr_batch is None else (batch / self.lr_batch) ** self.lr_power

    def factor(self, step: int, *, steps: int) -> float:
        """Factor on the rate at a step, from 0 on, of a run of *steps*."""
        warmup = max(1, round(self.warmup * steps if self.warmup < 1 else self.warmup))
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        return 0.5 * (1 + math.cos(math.pi * done))

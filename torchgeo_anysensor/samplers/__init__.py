# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Where patches are cut, and how the ground is split."""

from .aligned import AlignedGridSampler, AlignedPatchSampler
from .chips import ChipSampler
from .ranks import RankSampler, ResumableDataLoader
from .splits import BlockSplit, Splits

__all__ = (
    'AlignedGridSampler',
    'AlignedPatchSampler',
    'BlockSplit',
    'ChipSampler',
    'RankSampler',
    'ResumableDataLoader',
    'Splits',
)

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Scores of maps, and how far chance may have moved them.

Letters: ``b`` blocks of ground, ``K`` classes, ``R`` replicates of the bootstrap.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..types import IGNORE_INDEX

#: Bins of confidence of the calibration error.
BINS = 15
REPLICATES = 2000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """What a test counted, block by block."""

    block: NDArray[np.int64]  #: ``(b,)`` numbers of the blocks
    confusion: NDArray[np.int64]  #: ``(b, K, K)`` pixels, truth in rows, prediction in columns
    calibration: Floats  #: ``(b, BINS, 3)`` pixels, sum of confidence, hits, by confidence


def count(probabilities: Tensor, mask: Tensor, block: Tensor, *, num_classes: int) -> Counts:
    """Count hits and misses.

    Args:
        probabilities: ``(n, K, H, W)``.
        mask: ``(n, H, W)`` labels.
        block: ``(n,)`` number of the block of each patch.
        num_classes: Number of classes.

    Returns:
        The counts of the blocks that have a labelled pixel.
    """
    numbers, place = np.unique(block.numpy(), return_inverse=True)
    cells = num_classes * num_classes
    good = mask != IGNORE_INDEX
    best = probabilities.max(dim=1)
    truth, chosen = mask[good].numpy(), best.indices[good].numpy()
    confidence = best.values[good].double().numpy()
    where = np.broadcast_to(place[:, None, None], mask.shape)[good.numpy()]
    pairs = where * cells + truth * num_classes + chosen
    confusion = np.bincount(pairs, minlength=len(numbers) * cells)
    sure = where * BINS + np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    weights = np.ones_like(confidence), confidence, (truth == chosen).astype(np.float64)
    calibration = np.stack([np.bincount(sure, w, minlength=len(numbers) * BINS) for w in weights])
    shaped = confusion.reshape(-1, num_classes, num_classes)
    labelled = shaped.sum(axis=(1, 2)) > 0
    by_block = calibration.T.reshape(-1, BINS, 3)
    return Counts(numbers[labelled], shaped[labelled], by_block[labelled])


def iou(confusion: Floats) -> Floats:
    """Intersection over union ``(..., K)`` of confusion ``(..., K, K)``; NaN where not in truth."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    truth, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.where(truth > 0, hits / (truth + predicted - hits), np.nan)


def miou(confusion: Floats) -> Floats:
    """Mean over the classes that occur, ``(...)``, of confusion ``(..., K, K)``; NaN if none."""
    return _nanmean(iou(confusion), axis=-1)


def _nanmean(x: Floats, axis: int) -> Floats:
    """Mean of what is not NaN; NaN without a warning if all is."""
    good = ~np.isnan(x)
    with np.errstate(invalid='ignore'):
        mean: Floats = np.where(good, x, 0.0).sum(axis=axis) / good.sum(axis=axis)
    return mean


def calibration_error(counts: Counts) -> float:
    """Expected calibration error: how far confidence is from accuracy, over the bins.

    Guo et al. 2017 (https://arxiv.org/abs/1706.04599), with bins of equal width.
    """
    pixels, confidence, hits = counts.calibration.sum(axis=0).T
    return float(np.abs(confidence - hits).sum() / pixels.sum())


def scores(counts: Counts, classes: Sequence[str]) -> dict[str, float]:
    """Scores over all blocks.

    Args:
        counts: Of one test.
        classes: Names of the classes.

    Returns:
        ``miou``, ``accuracy``, ``ece`` (calibration error), ``blocks``, and ``iou/CLASS`` for each
        class, NaN where it does not occur.
    """
    total = counts.confusion.sum(axis=0).astype(np.float64)
    found = {
        'miou': float(miou(total)),
        'accuracy': float(np.trace(total) / total.sum()),
        'ece': calibration_error(counts),
        'blocks': float(len(counts.block)),
    }
    return found | {f'iou/{name}': float(x) for name, x in zip(classes, iou(total))}


class Bootstrap:
    """Chance, by drawing blocks of ground with replacement.

    Pixels next to each other are no independent evidence; blocks nearly are. A block has the same
    weight wherever it is in a replicate: in all methods, tests and seeds. Differences of methods
    are so those on the same ground.
    """

    def __init__(
        self, blocks: Iterable[int], *, replicates: int = REPLICATES, seed: int = 0
    ) -> None:
        """Draw the replicates.

        Args:
            blocks: Numbers of all blocks that are in a test.
            replicates: Number ``R`` of draws.
            seed: Of the draws.
        """
        self.blocks = np.unique(np.fromiter(blocks, dtype=np.int64))
        draws = np.random.default_rng(seed)
        b = len(self.blocks)
        self.weights = draws.multinomial(b, np.full(b, 1 / b), size=replicates).astype(np.float64)

    def miou(self, tests: Sequence[Counts]) -> tuple[float, Floats]:
        """Mean over tests of the mean intersection over union.

        Args:
            tests: Counts of tests, or of seeds of one test.

        Returns:
            The score, and that of each replicate ``(R,)``.
        """
        values = np.array([float(miou(t.confusion.sum(axis=0).astype(float))) for t in tests])
        drawn = np.stack([self._drawn(test) for test in tests])  # (tests, R)
        return float(_nanmean(values, axis=0)), _nanmean(drawn, axis=0)

    def _drawn(self, test: Counts) -> Floats:
        """Score of one test in each replicate, ``(R,)``."""
        weights = self.weights[:, np.searchsorted(self.blocks, test.block)]  # (R, b)
        k = test.confusion.shape[-1]
        confusion = weights @ test.confusion.reshape(len(test.block), k * k)
        return miou(confusion.reshape(-1, k, k))


def interval(value: float, replicates: Floats, level: float = 0.95) -> tuple[float, float]:
    """Bias-corrected percentile interval (Efron 1981, doi:10.2307/3314608).

    Replicates of mIoU lie too low, as rare classes are not in all of them: the percentiles move by
    what the median of the replicates is off the score. With ten blocks or fewer in a test and
    classes in patches it still covers the truth less often than it says (a test measures it).

    Args:
        value: The score.
        replicates: That of each replicate; those without a labelled pixel do not count.
        level: How often it should cover the truth.
    """
    drawn = replicates[~np.isnan(replicates)]
    below = float(np.clip(np.mean(drawn < value), 1 / len(drawn), 1 - 1 / len(drawn)))
    normal = NormalDist()
    if np.ptp(drawn) == 0:
        return value, value
    tails = (normal.inv_cdf(p) for p in ((1 - level) / 2, (1 + level) / 2))
    low, high = np.quantile(drawn, [normal.cdf(2 * normal.inv_cdf(below) + z) for z in tails])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """A method against another on the same tests, blocks and seeds."""

    value: float  #: mIoU of the one minus mIoU of the other
    low: float
    high: float
    blocks: int  #: in all tests and seeds
    least_blocks: int  #: in one of them

    @property
    def verdict(self) -> str:
        """Say ``better``, ``worse`` or ``no difference shown``."""
        if self.low > 0:
            return 'better'
        return 'worse' if self.high < 0 else 'no difference shown'


def difference(one: Sequence[Counts], other: Sequence[Counts]) -> Difference:
    """Compare two methods.

    Args:
        one: Counts of the tests and seeds of one method.
        other: Of the other, in the same order.

    Returns:
        The difference of their mean mIoU and its 95 % interval.

    Raises:
        ValueError: If they were not tested on the same pixels.
    """
    if len(one) != len(other) or any(not _same(a, b) for a, b in zip(one, other)):
        raise ValueError('methods can be compared only on the same blocks and the same pixels')
    bootstrap = Bootstrap(block for test in one for block in test.block)
    (a, a_drawn), (b, b_drawn) = bootstrap.miou(one), bootstrap.miou(other)
    low, high = interval(a - b, a_drawn - b_drawn)
    least = min(len(test.block) for test in one)
    return Difference(a - b, low, high, len(bootstrap.blocks), least)


def _same(a: Counts, b: Counts) -> bool:
    """Whether two tests had the same truth."""
    return np.array_equal(a.block, b.block) and np.array_equal(
        a.confusion.sum(axis=2), b.confusion.sum(axis=2)
    )


def to_arrays(counts: Counts) -> Mapping[str, NDArray[Any]]:
    """Arrays to keep in a file; ``Counts(**arrays)`` is the way back."""
    return {'block': counts.block, 'confusion': counts.confusion, 'calibration': counts.calibration}

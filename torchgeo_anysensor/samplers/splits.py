# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Splits of the ground, so that no place is in two of them."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from ..datasets import MultiSensorDataset, SensorDataset
from ..datasets.geometry import crs_text, in_metres


class Splits(NamedTuple):
    """Ground of each split, in the dataset's CRS."""

    train: shapely.Geometry
    val: shapely.Geometry
    test: shapely.Geometry

    def report(self) -> str:
        """Area of each split, and proof that they share no ground."""
        lines = [f'{name:<6} {area.area / 1e6:10.3f} km2' for name, area in self._asdict().items()]
        for one, other in (('train', 'val'), ('train', 'test'), ('val', 'test')):
            a, b = getattr(self, one), getattr(self, other)
            apart = 'empty' if a.is_empty or b.is_empty else f'{a.distance(b):.0f} m apart'
            lines.append(
                f'{one} and {other}: {a.intersection(b).area / 1e6:.3f} km2 shared, {apart}'
            )
        return '\n'.join(lines)


@dataclass(frozen=True)
class BlockSplit:
    """Square blocks of ground, dealt to train, val and test at random.

    All dates of a place go with its block. Patches of a split must lie wholly inside of its ground
    (the samplers' ``roi``), so that none reaches over the border.

    Attributes:
        size: Width of a block in metres.
        fractions: Shares of train, val and test; each gets at least one block if its share is
            positive.
        buffer: Metres of ground around val and test that are in no split before them (train, and
            val next to test); one patch width keeps neighbours from looking alike.
        seed: Of the deal.
    """

    size: float
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    buffer: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If one is out of range.
        """
        if self.size <= 0 or self.buffer < 0:
            raise ValueError(f'size={self.size:g} must be positive, buffer={self.buffer:g} not < 0')
        if min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(f'fractions={self.fractions} must be 0 or more and sum to 1')

    def blocks(self, dataset: MultiSensorDataset | SensorDataset) -> NDArray[np.object_]:
        """Cut the ground that a dataset covers, whatever the seed.

        Args:
            dataset: Its index tells the ground and its lattice where blocks start.

        Returns:
            Squares in the dataset's CRS, in rows from the north-west, that touch its ground.

        Raises:
            ValueError: If the dataset is in degrees.
        """
        if not in_metres(crs_text(dataset.crs.srs)):
            raise ValueError(
                f'blocks are squares in metres, and the dataset is in {dataset.crs.name}; give its '
                'reference sensor a projected crs'
            )
        ground = shapely.union_all(dataset.index.geometry.to_numpy())
        lattice = dataset.lattice(0)
        west, south, east, north = ground.bounds
        # Blocks start at a lattice point, so that a patch of a block's width fits into it
        left = lattice.x + math.ceil((west - lattice.x - 1e-6) / lattice.step) * lattice.step
        top = lattice.y - math.ceil((lattice.y - north - 1e-6) / lattice.step) * lattice.step
        xs = np.arange(left, east, self.size)
        ys = np.arange(top, south, -self.size)
        corners = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
        blocks = shapely.box(
            corners[:, 0], corners[:, 1] - self.size, corners[:, 0] + self.size, corners[:, 1]
        )
        shapely.prepare(ground)
        blocks = blocks[shapely.intersects(ground, blocks)]
        found: NDArray[np.object_] = blocks[shapely.area(shapely.intersection(ground, blocks)) > 0]
        return found

    def __call__(self, dataset: MultiSensorDataset | SensorDataset) -> Splits:
        """Split the ground that a dataset covers.

        Args:
            dataset: See :meth:`blocks`.

        Returns:
            The ground of each split.

        Raises:
            ValueError: If there are fewer blocks than splits, or the dataset is in degrees.
        """
        blocks = self.blocks(dataset)
        ground = shapely.union_all(dataset.index.geometry.to_numpy())
        deal = np.random.default_rng(self.seed).permutation(len(blocks))
        train, val, test = (
            shapely.intersection(shapely.union_all(blocks[part]), ground)
            for part in np.split(deal, self._cuts(len(blocks)))
        )
        if self.buffer:
            val = val.difference(test.buffer(self.buffer, join_style='mitre'))
            held_out = shapely.union(val, test)
            train = train.difference(held_out.buffer(self.buffer, join_style='mitre'))
        return Splits(train, val, test)

    def _cuts(self, count: int) -> tuple[int, int]:
        """Where to cut the deal.

        Raises:
            ValueError: If a split would get no block.
        """
        wanted = [fraction > 0 for fraction in self.fractions]
        if count < sum(wanted):
            raise ValueError(
                f'{count} blocks of {self.size:g} m cannot make {sum(wanted)} splits; '
                'use smaller blocks'
            )
        sizes = [max(round(f * count), int(f > 0)) for f in self.fractions]
        while sum(sizes) != count:  # rounding: the largest split gives or takes
            sizes[int(np.argmax(sizes))] += 1 if sum(sizes) < count else -1
        return sizes[0], sizes[0] + sizes[1]

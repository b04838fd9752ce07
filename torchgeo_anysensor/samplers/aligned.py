# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Patches in metres that snap to the pixels of all sensors."""

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from torchgeo.datasets.utils import GeoSlice
from torchgeo.samplers import GeoSampler

from ..datasets import MultiSensorDataset, SensorDataset
from ..datasets.geometry import Lattice, crs_text, in_metres, project
from .positions import concatenate, in_blocks, inside, on_lattice, widest

# Patches whose random numbers are drawn at once
_DRAWN = 1024

# Enough to choose from in one ground; a 110 km tile has 3.4 million points 60 m apart
_MAX_POSITIONS = 100_000

# In all: 16 bytes each
_MAX_POSITIONS_IN_ALL = 5_000_000

# In one ground, however many there are
_MIN_POSITIONS = 64


class _AlignedSampler(GeoSampler):
    """Positions of patches that lie wholly inside of an acquisition and of a region."""

    def __init__(
        self,
        dataset: MultiSensorDataset | SensorDataset,
        *,
        size: float,
        roi: shapely.Geometry | None = None,
        min_clear: float = 0.0,
    ) -> None:
        """Find where patches fit.

        Args:
            dataset: What to sample from.
            size: Width of a patch in metres.
            roi: Region, in the dataset's CRS, that patches must not leave.
            min_clear: Least ``clear_fraction`` of the acquisitions that are sampled; where the
                index does not know it, it counts as clear.

        Raises:
            ValueError: If *size* is not a multiple of the lattice, or no patch fits anywhere.
        """
        super().__init__()
        self.size = float(size)
        self.crs = crs_text(dataset.crs.srs)
        step = _step(dataset)
        _check_multiple('size', self.size, step)
        self._left, self._right = dataset.index.index.left, dataset.index.index.right
        shared: dict[Lattice, Lattice] = {}
        rows = [dataset.lattice(row) for row in range(len(dataset.index))]
        self.lattices = [shared.setdefault(lattice, lattice) for lattice in rows]
        grounds = dataset.index.geometry.to_numpy()
        hidden = (dataset.index['clear_fraction'] < min_clear).to_numpy()
        keys = [
            (wkb, lattice.crs, lattice.x % step, lattice.y % step, bool(skip))
            for wkb, lattice, skip in zip(shapely.to_wkb(grounds), self.lattices, hidden)
        ]
        first = {key: row for row, key in reversed([*enumerate(keys)])}
        self._most = _MAX_POSITIONS_IN_ALL // len(first)  # positions of one ground
        known: dict[tuple, tuple[shapely.Geometry, NDArray[np.float64], float]] = {}
        for number, (key, row) in enumerate(sorted(first.items(), key=lambda item: item[1])):
            region = shapely.Polygon() if hidden[row] else grounds[row]
            region = region if roi is None else region.intersection(roi)
            region = project(region, self.crs, self.lattices[row].crs)
            known[key] = region, *self._fit(region, self.lattices[row], number)
        # Of each row; rows of equal ground share them
        self.regions = [known[key][0] for key in keys]  # in the CRS of the row's lattice
        self._positions = [known[key][1] for key in keys]  # (n, 2) left, top
        self._weights = np.array([known[key][2] for key in keys])  # of a position
        self._counts = np.array([len(positions) for positions in self._positions])
        if not self._counts.any():
            raise ValueError(
                f'no patch of {self.size:g} m fits: the widest ground is '
                f'{widest(self.regions):.0f} m. Use a smaller size (a multiple of {step:g} m)'
                + (' or a larger region' if roi is not None else '')
                + (' or a smaller min_clear' if hidden.any() else '')
            )

    @abstractmethod
    def _fit(
        self, region: shapely.Geometry, lattice: Lattice, number: int
    ) -> tuple[NDArray[np.float64], float]:
        """Find patches inside of a region.

        Args:
            region: In the CRS of the lattice.
            lattice: That they snap to.
            number: Of the region.

        Returns:
            Positions ``(n, 2)``, left and top in metres, and how many each stands for.
        """

    def _slices(self, row: int, left: float, top: float) -> GeoSlice:
        """Patch at a position of a row of the index."""
        x, y = self.lattices[row].query(left, top, self.size, self.crs)
        return x, y, slice(self._left[row], self._right[row])


class AlignedPatchSampler(_AlignedSampler):
    """Random patches, for training.

    An epoch is a function of the seed and the number of the epoch: it is the same however often it
    is drawn, and another one after :meth:`set_epoch`. :class:`RankSampler` deals it to ranks.

    With *neighbours*, patches come in groups that lie side by side in one acquisition, so that a
    :class:`MultiSensorDataset` decodes the files once for all of a group that are in a batch. A
    batch then holds ``batch_size / neighbours`` places. Where less of the group fits, at the edge
    of a region, it is smaller, and such ground is drawn less often.

    With *file_block*, a group also lies in as few blocks of the files as its width allows, so that
    fewer are decoded. Ground is then drawn less evenly. Groups that need two blocks across draw the
    edge of a block half as often as its middle; groups that need one draw it hardly ever, and
    nothing that lies across it.
    """

    def __init__(
        self,
        dataset: MultiSensorDataset | SensorDataset,
        *,
        size: float,
        length: int | None = None,
        neighbours: int = 1,
        spacing: float | None = None,
        file_block: float | None = None,
        roi: shapely.Geometry | None = None,
        min_clear: float = 0.0,
        seed: int | None = None,
    ) -> None:
        """Find where patches fit.

        Args:
            dataset: What to sample from.
            size: Width of a patch in metres, a multiple of the dataset's lattice (60 m for grids of
                10, 20 and 30 m).
            length: Patches in an epoch; by default as many as would cover every acquisition once.
            neighbours: Patches in a group.
            spacing: Metres between the corners of patches of a group, a multiple of the lattice; by
                default and at least *size*, so that they share no ground.
            file_block: Width in metres of the blocks in which the first sensor's finest files are
                compressed (5120 for 512 pixels of 10 m), counted from their north-west corner.
            roi: Region, in the dataset's CRS, that patches must not leave.
            min_clear: Least ``clear_fraction`` of the acquisitions that are sampled.
            seed: By default the one that ``seed_everything`` or ``torch.manual_seed`` set.

        Raises:
            ValueError: If *size* or *spacing* is not a multiple of the lattice, no patch fits, or
                *length*, *neighbours* or *file_block* is not positive.
        """
        super().__init__(dataset, size=size, roi=roi, min_clear=min_clear)
        ground = sum(region.area for region in self.regions)
        self._length = max(1, round(ground / self.size**2)) if length is None else length
        for name, value in (('length', self._length), ('neighbours', neighbours)):
            if value < 1:
                raise ValueError(f'{name}={value} must be at least 1')
        self.neighbours = neighbours
        self.spacing = float(spacing or size)
        _check_multiple('spacing', self.spacing, _step(dataset))
        if self.spacing < self.size:
            raise ValueError(f'spacing={spacing} is less than size={size:g}: patches would overlap')
        if file_block is not None and not 0 < file_block < math.inf:
            raise ValueError(f'file_block={file_block} must be a width in metres')
        self.file_block = file_block
        self.seed = torch.initial_seed() if seed is None else seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw other patches from now on.

        Args:
            epoch: Number of the epoch.
        """
        self.epoch = epoch

    def _fit(
        self, region: shapely.Geometry, lattice: Lattice, number: int
    ) -> tuple[NDArray[np.float64], float]:
        """All positions on the lattice, thinned evenly where they are very many.

        Beyond patches side by side, regions of other numbers keep other positions.
        """
        parts = [part for part in shapely.get_parts(region) if part.area > 0]
        step = self._thin(parts, lattice.step) if parts else lattice.step
        turns = max(1, round(step / self.size))
        shift = number % turns * self.size, number // turns % turns * self.size
        positions = concatenate(
            inside(
                on_lattice(part.bounds, lattice, step=step, size=self.size, shift=shift),
                part,
                self.size,
            )
            for part in parts
        )
        return positions, (step / lattice.step) ** 2

    def _thin(self, parts: Sequence[shapely.Geometry], step: float) -> float:
        """Metres between positions, so that they are not too many.

        A divisor or a multiple of the patch, so that patches side by side are among them: others
        would miss ground that is little wider than a patch.
        """
        west, south, east, north = shapely.bounds(parts).T
        wide, high = (np.maximum(side - self.size, 0) for side in (east - west, north - south))
        n = round(self.size / step)
        divisors = (step * d for d in range(1, n) if n % d == 0)
        most = max(min(self._most, _MAX_POSITIONS), _MIN_POSITIONS, len(parts))
        return next(
            thin
            for thin in itertools.chain(divisors, itertools.count(self.size, self.size))
            if ((wide // thin + 1) * (high // thin + 1)).sum() <= most
        )

    def __iter__(self) -> Iterator[GeoSlice]:
        """Draw the patches of the epoch; every position of every acquisition is equally likely.

        Yields:
            [xmin:xmax, ymin:ymax, tmin:tmax] coordinates to index a dataset.
        """
        rng = np.random.default_rng((self.seed % 2**64, self.epoch))
        return itertools.islice(self._draw(rng), len(self))

    def _draw(self, rng: np.random.Generator) -> Iterator[GeoSlice]:
        """Patches without an end."""
        weights = np.cumsum(self._counts * self._weights)
        while True:
            rows = np.searchsorted(weights, rng.random(_DRAWN) * weights[-1], side='right')
            picks = (rng.random(_DRAWN) * self._counts[rows]).astype(int)
            for row, pick in zip(rows.tolist(), picks.tolist()):
                left, top = self._positions[row][pick].tolist()
                if self.neighbours == 1:
                    yield self._slices(row, left, top)
                    continue
                for position in self._around(row, left, top, rng):
                    yield self._slices(row, *position)

    def _around(
        self, row: int, left: float, top: float, rng: np.random.Generator
    ) -> Iterator[list[float]]:
        """Positions of a group: some of a square of patches, about one that was drawn."""
        across = math.ceil(math.sqrt(self.neighbours))
        cells = np.stack(np.meshgrid(*[np.arange(across)] * 2), axis=-1).reshape(-1, 2)
        corner = self._in_blocks(row, left, top, rng)
        if corner is not None:
            group = self._fitting(row, corner + cells * self.spacing, rng)
        if corner is None or not len(group):  # with the drawn one, in any place of the square
            first = rng.integers(across, size=2)
            group = self._fitting(row, np.array([left, top]) + (cells - first) * self.spacing, rng)
        yield from group[: self.neighbours].tolist()

    def _fitting(
        self, row: int, group: NDArray[np.float64], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Those positions that lie inside of the ground of a row, mixed."""
        return inside(rng.permutation(group), self.regions[row], self.size)

    def _in_blocks(
        self, row: int, left: float, top: float, rng: np.random.Generator
    ) -> NDArray[np.float64] | None:
        """South-west position of a square in few blocks about a patch, None if there is none."""
        if self.file_block is None:
            return None
        reach = (math.ceil(math.sqrt(self.neighbours)) - 1) * self.spacing
        lattice, half = self.lattices[row], self.size / 2
        west, south, east, north = self.regions[row].bounds
        columns = left + half - lattice.x, west - lattice.x, east - lattice.x
        rows = lattice.y - top + half, lattice.y - north, lattice.y - south
        x, y = (
            in_blocks(
                *axis, width=reach + self.size, block=self.file_block, step=lattice.step, rng=rng
            )
            for axis in (columns, rows)
        )
        if x is None or y is None:
            return None
        return np.array([lattice.x + x, lattice.y - y - reach])


class AlignedGridSampler(_AlignedSampler):
    """Patches side by side over every acquisition, for evaluation.

    Each connected part of the ground gets its own grid, from its north-west corner; a last row and
    column of patches end at its far edge, so that they may overlap the ones before.
    """

    def __init__(
        self,
        dataset: MultiSensorDataset | SensorDataset,
        *,
        size: float,
        stride: float | None = None,
        roi: shapely.Geometry | None = None,
        min_clear: float = 0.0,
    ) -> None:
        """Find where patches fit.

        Args:
            dataset: What to sample from.
            size: Width of a patch in metres, a multiple of the dataset's lattice.
            stride: Metres between patches, likewise; by default *size*.
            roi: Region, in the dataset's CRS, that patches must not leave.
            min_clear: Least ``clear_fraction`` of the acquisitions that are sampled.

        Raises:
            ValueError: If *size* or *stride* is not a multiple of the lattice, or no patch fits.
        """
        self.stride = float(stride or size)
        _check_multiple('stride', self.stride, _step(dataset))
        super().__init__(dataset, size=size, roi=roi, min_clear=min_clear)
        self._length = int(self._counts.sum())

    def _fit(
        self, region: shapely.Geometry, lattice: Lattice, number: int
    ) -> tuple[NDArray[np.float64], float]:
        """A grid on each connected part."""
        positions = concatenate(
            inside(
                on_lattice(part.bounds, lattice, step=self.stride, size=self.size, flush=True),
                part,
                self.size,
            )
            for part in shapely.get_parts(region)
            if part.area > 0
        )
        return positions, 1.0

    def __iter__(self) -> Iterator[GeoSlice]:
        """Go through the patches, acquisition by acquisition, row by row.

        Yields:
            [xmin:xmax, ymin:ymax, tmin:tmax] coordinates to index a dataset.
        """
        for row, positions in enumerate(self._positions):
            for left, top in positions:
                yield self._slices(row, left, top)


def _step(dataset: MultiSensorDataset | SensorDataset) -> float:
    """Metres between the points that patches snap to.

    Raises:
        ValueError: If the dataset is in degrees.
    """
    lattice = dataset.lattice(0)
    if not in_metres(lattice.crs):
        raise ValueError(
            f'patches are squares in metres, and the dataset is in {crs_text(dataset.crs.srs)}; '
            'give it a projected crs, or put it into a MultiSensorDataset'
        )
    return lattice.step


def _check_multiple(what: str, value: float, step: float) -> None:
    """Raise if a length does not fit the lattice.

    Raises:
        ValueError: If *value* is not a positive multiple of *step*.
    """
    multiple = round(value / step)
    if multiple < 1 or abs(value - multiple * step) > 1e-6:
        near = sorted({max(1, math.floor(value / step)) * step, math.ceil(value / step) * step})
        raise ValueError(
            f'{what}={value:g} m is not a multiple of {step:g} m, the least common multiple of the '
            f'pixel sizes; use {" or ".join(f"{n:g}" for n in near if n > 0)}'
        )

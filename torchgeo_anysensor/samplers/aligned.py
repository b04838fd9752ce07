# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Patches in metres that snap to the pixels of all sensors."""

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from torchgeo.datasets.utils import GeoSlice
from torchgeo.samplers import GeoSampler

from ..datasets import MultiSensorDataset, SensorDataset
from ..datasets.geometry import Lattice, crs_text, in_metres, project

# Footprints that went through a projection miss their corners by less than this.
_SLACK_M = 0.01

# Enough to choose from; a 110 km tile has 3.4 million points 60 m apart.
_MAX_POSITIONS = 100_000


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
        self.intervals = dataset.index.index
        self.lattices = [dataset.lattice(row) for row in range(len(dataset.index))]
        self.regions: list[shapely.Geometry] = []  # ground of each row, in its lattice's CRS
        self._positions: list[NDArray[np.float64]] = []  # (n, 2) left, top; shared by equal rows
        known: dict[tuple, tuple[shapely.Geometry, NDArray[np.float64]]] = {}
        hidden = (dataset.index['clear_fraction'] < min_clear).to_numpy()
        for geometry, lattice, skip in zip(dataset.index.geometry, self.lattices, hidden):
            key = (geometry.wkb, lattice.crs, lattice.x % step, lattice.y % step, bool(skip))
            if key not in known:
                region = shapely.Polygon() if skip else geometry
                region = region if roi is None else region.intersection(roi)
                region = project(region, self.crs, lattice.crs)
                known[key] = region, self._fit(region, lattice)
            self.regions.append(known[key][0])
            self._positions.append(known[key][1])
        self._counts = np.array([len(positions) for positions in self._positions])
        if not self._counts.any():
            raise ValueError(
                f'no patch of {self.size:g} m fits: the widest ground is '
                f'{_widest(self.regions):.0f} m. Use a smaller size (a multiple of {step:g} m)'
                + (' or a larger region' if roi is not None else '')
                + (' or a smaller min_clear' if hidden.any() else '')
            )

    @abstractmethod
    def _fit(self, region: shapely.Geometry, lattice: Lattice) -> NDArray[np.float64]:
        """Positions ``(n, 2)``, left and top in metres, of patches inside of *region*."""

    def _slices(self, row: int, left: float, top: float) -> GeoSlice:
        """Patch at a position of a row of the index."""
        t = self.intervals[row]
        return *self.lattices[row].query(left, top, self.size, self.crs), slice(t.left, t.right)


class AlignedPatchSampler(_AlignedSampler):
    """Random patches, for training.

    An epoch is a function of the seed and the number of the epoch: it is the same however often it
    is drawn, and another one after :meth:`set_epoch`, which Lightning calls.
    """

    def __init__(
        self,
        dataset: MultiSensorDataset | SensorDataset,
        *,
        size: float,
        length: int | None = None,
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
            roi: Region, in the dataset's CRS, that patches must not leave.
            min_clear: Least ``clear_fraction`` of the acquisitions that are sampled.
            seed: By default the one that ``seed_everything`` or ``torch.manual_seed`` set.

        Raises:
            ValueError: If *size* is not a multiple of the lattice, no patch fits, or *length* is
                not positive.
        """
        super().__init__(dataset, size=size, roi=roi, min_clear=min_clear)
        ground = sum(region.area for region in self.regions)
        self._length = max(1, round(ground / self.size**2)) if length is None else length
        if self._length < 1:
            raise ValueError(f'length={length} must be at least 1')
        self.seed = torch.initial_seed() if seed is None else seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw other patches from now on.

        Args:
            epoch: Number of the epoch.
        """
        self.epoch = epoch

    def _fit(self, region: shapely.Geometry, lattice: Lattice) -> NDArray[np.float64]:
        """All positions on the lattice, thinned evenly where they are very many."""
        parts = [part for part in shapely.get_parts(region) if part.area > 0]
        step = self._thin(parts, lattice.step) if parts else lattice.step
        return _concatenate(
            _inside(_on_lattice(part.bounds, lattice, step=step, size=self.size), part, self.size)
            for part in parts
        )

    def _thin(self, parts: Sequence[shapely.Geometry], step: float) -> float:
        """Metres between positions, so that they are not too many.

        A divisor or a multiple of the patch, so that patches side by side are among them: others
        would miss ground that is little wider than a patch.
        """
        west, south, east, north = shapely.bounds(parts).T
        wide, high = (np.maximum(side - self.size, 0) for side in (east - west, north - south))
        n = round(self.size / step)
        divisors = (step * d for d in range(1, n) if n % d == 0)
        return next(
            thin
            for thin in itertools.chain(divisors, itertools.count(self.size, self.size))
            if ((wide // thin + 1) * (high // thin + 1)).sum() <= max(_MAX_POSITIONS, len(parts))
        )

    def __iter__(self) -> Iterator[GeoSlice]:
        """Draw the patches of the epoch; every position of every acquisition is equally likely.

        Yields:
            [xmin:xmax, ymin:ymax, tmin:tmax] coordinates to index a dataset.
        """
        rng = np.random.default_rng((self.seed % 2**64, self.epoch))
        rows = rng.choice(len(self._counts), size=len(self), p=self._counts / self._counts.sum())
        for row in rows:
            left, top = self._positions[row][rng.integers(self._counts[row])]
            yield self._slices(row, left, top)


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

    def _fit(self, region: shapely.Geometry, lattice: Lattice) -> NDArray[np.float64]:
        """A grid on each connected part."""
        return _concatenate(
            _inside(
                _on_lattice(part.bounds, lattice, step=self.stride, size=self.size, flush=True),
                part,
                self.size,
            )
            for part in shapely.get_parts(region)
            if part.area > 0
        )

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


def _on_lattice(
    bounds: tuple[float, float, float, float],
    lattice: Lattice,
    *,
    step: float,
    size: float,
    flush: bool = False,
) -> NDArray[np.float64]:
    """Positions ``(n, 2)`` of squares within bounds: left and top, in rows from the north.

    With *flush*, the last position of each axis is the farthest on the lattice that fits.
    """
    if not all(map(math.isfinite, bounds)):  # an empty region
        return np.empty((0, 2))
    west, south, east, north = bounds

    def axis(low: float, high: float) -> NDArray[np.float64]:
        """Distances from the lattice point at or after *low*, up to *high*."""
        first = math.ceil((low - _SLACK_M) / lattice.step) * lattice.step
        last = math.floor((high - size + _SLACK_M) / lattice.step) * lattice.step
        if last < first:
            return np.empty(0)
        values = np.arange(first, last + lattice.step / 2, step)
        return np.append(values, last) if flush and values[-1] < last else values

    lefts = lattice.x + axis(west - lattice.x, east - lattice.x)
    tops = lattice.y - axis(lattice.y - north, lattice.y - south)
    return np.stack(np.meshgrid(lefts, tops), axis=-1).reshape(-1, 2)


def _concatenate(positions: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    """One array ``(n, 2)`` of many or none."""
    return np.concatenate([np.empty((0, 2)), *positions])


def _inside(
    positions: NDArray[np.float64], region: shapely.Geometry, size: float
) -> NDArray[np.float64]:
    """Positions of squares that the region covers."""
    left, top = positions.T
    squares = shapely.box(
        left + _SLACK_M, top - size + _SLACK_M, left + size - _SLACK_M, top - _SLACK_M
    )
    shapely.prepare(region)
    return positions[shapely.covers(region, squares)]


def _widest(regions: Iterable[shapely.Geometry]) -> float:
    """Shorter side of the largest part of ground, in metres."""
    widest = 0.0
    for region in regions:
        for part in shapely.get_parts(region):
            if part.area > 0:
                west, south, east, north = part.bounds
                widest = max(widest, min(east - west, north - south))
    return widest

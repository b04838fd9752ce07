# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Several sensors over the same ground at about the same time."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from geopandas import GeoDataFrame
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pyproj import CRS as PROJ_CRS
from torchgeo.datasets.utils import GeoSlice

from ..types import MultiSensorSample, SensorSample
from .geometry import METRES_PER_DEGREE, Lattice, crs_text, in_metres, raster_crs, shift_between
from .grid import Grid
from .index import build_index
from .labels import LabelDataset
from .lookup import IndexedDataset, nanoseconds
from .matching import Matcher
from .neighbours import decoded_once, side_by_side
from .plot import draw_panels, true_color
from .sensor import SensorDataset

# Two squares of one centre and size share 83 % at least, however they are turned
_TURNED = 0.8


class MultiSensorDataset(IndexedDataset):
    """Combinations of acquisitions, one of each sensor, close in time over common ground.

    The first sensor is the reference: for each of its acquisitions the nearest in time of every
    other sensor is taken, if it lies within the tolerance and touches its ground. Members are never
    changed; each is read on its own pixels, at the window nearest to the patch (``dx``, ``dy`` of
    the view say how far off), or warped once if it is in another CRS.
    """

    def __init__(
        self,
        datasets: Mapping[str, SensorDataset | Sequence[SensorDataset]],
        *,
        tolerance: float | pd.Timedelta = 1.0,
        gaps: Mapping[str, tuple[float, float]] | None = None,
        require: Literal['all'] | int = 'all',
        labels: LabelDataset | None = None,
        transforms: Callable[[MultiSensorSample], MultiSensorSample] | None = None,
    ) -> None:
        """Match the acquisitions.

        Args:
            datasets: Sensor name to its dataset, or to one dataset for each of its grids. The
                first is the reference.
            tolerance: Longest gap between the reference and another sensor, in days or as a
                timedelta. Acquisitions known by date alone span that day.
            gaps: Least and greatest gap in days, before or after, of sensors that are to be
                of another date: ``{'another date': (5, 90)}``. One product may have two names.
            require: ``'all'`` sensors, or the least number of them, the reference included.
            labels: Label raster or vector; adds ``mask`` on its ``res`` if that was given, and on
                the reference sensor's finest grid otherwise.
            transforms: Called on each sample.

        Raises:
            ValueError: If there is no dataset, *require* or *tolerance* makes no sense, a CRS is
                not in metres, or no combination is found.
        """
        self.datasets: dict[str, tuple[SensorDataset, ...]] = {
            name: _finest_first(name, member) for name, member in datasets.items()
        }
        if not self.datasets:
            raise ValueError('datasets is empty: give at least one sensor')
        self.tolerance = (
            tolerance if isinstance(tolerance, pd.Timedelta) else pd.Timedelta(days=tolerance)
        )
        if self.tolerance < pd.Timedelta(0):
            raise ValueError(f'tolerance={tolerance} is negative')
        days = dict(gaps or {})
        if wrong := [n for n in days if n not in [*self.datasets][1:] or days[n][0] > days[n][1]]:
            raise ValueError(
                f'gaps={days}: {wrong} must be sensors after the first, of {list(self.datasets)}, each '
                'with its least and its greatest gap'
            )
        self.gaps = {n: tuple(pd.Timedelta(days=gap) for gap in days[n]) for n in days}
        self._least = len(self.datasets) if require == 'all' else int(require)
        if not 1 <= self._least <= len(self.datasets):
            raise ValueError(
                f"require={require!r} must be 'all' or from 1 to {len(self.datasets)}, "
                f'the number of sensors ({", ".join(self.datasets)})'
            )
        self.labels = labels
        self.transforms = transforms
        self.reference = next(iter(self.datasets.values()))[0]
        for name, members in self.datasets.items():
            for member in members:
                own = {a.crs for a in member.acquisitions.values()}
                if not (in_metres(crs_text(member.crs.srs)) or all(map(in_metres, own))):
                    raise ValueError(
                        f'{name} is in {member.crs.name}: patches are squares in metres; give the '
                        'dataset a projected crs (for example the UTM zone), and its res'
                    )
        sizes = [member.pixel for members in self.datasets.values() for member in members]
        sizes += [labels.grid_res] if labels is not None and labels.grid_res else []
        self.step = _common_multiple(sizes)
        self._res = self.reference.res
        self.index = self._match()

    # -- index ---------------------------------------------------------------------------------

    def _match(self) -> GeoDataFrame:
        """One row for each combination.

        Raises:
            ValueError: If there is none.
        """
        crs = self.reference.crs
        indexes = {
            name: [_index_in(crs, member) for member in members]
            for name, members in self.datasets.items()
        }
        # Less than a cell of the lattice holds no patch
        side = self.step if in_metres(crs_text(crs.srs)) else self.step / METRES_PER_DEGREE
        near = (pd.Timedelta(0), self.tolerance)
        within = {name: self.gaps.get(name, near) for name in indexes}
        found = [
            match
            for match in Matcher(indexes, within=within, sliver=side**2)
            if len(match.combination) >= self._least
        ]
        if not found:
            counts = ', '.join(f'{name}: {len(m[0])}' for name, m in self.datasets.items())
            raise ValueError(
                f'no combination of {self._least} sensors within {self.tolerance} over common '
                f'ground among these acquisitions: {counts}. Raise the tolerance, lower require, '
                'or check that the files cover the same place'
            )
        first = indexes[next(iter(indexes))][0]
        rows = [match.row for match in found]
        clear = {name: grids[0]['clear_fraction'].to_numpy() for name, grids in indexes.items()}
        data = {
            'filepath': first['filepath'].to_numpy()[rows],
            'combination': [match.combination for match in found],
            'clear_fraction': [_cloudiest(clear, match.rows) for match in found],
        }
        ground = [match.ground for match in found]
        times = _told_apart(first.index[rows], data['filepath'])
        return GeoDataFrame(data, index=times, geometry=ground, crs=crs)

    def lattice(self, position: int) -> Lattice:
        """Points to which the patches of one combination snap, in the CRS of its reference.

        Args:
            position: Row of the index.
        """
        acquisition = self.reference.acquisitions[self.lookup.paths[position]]
        if in_metres(acquisition.crs):
            return Lattice(*acquisition.corner, self.step, acquisition.crs)
        return Lattice(0.0, 0.0, self.step, self.lookup.crs_text)  # files in degrees

    # -- samples -------------------------------------------------------------------------------

    def __getitem__(self, index: GeoSlice) -> MultiSensorSample:  # type: ignore[override]
        """Read a patch.

        Args:
            index: ``[xmin:xmax, ymin:ymax, tmin:tmax]`` in units of :attr:`crs`. What lies off
                the lattice is moved to the nearest point of it. If several combinations answer,
                the one that shares most ground with the patch is read, the earliest of equals.

        Returns:
            The views of each sensor, and ``mask`` if there are labels.

        Raises:
            IndexError: If nothing lies there.
        """
        x, y, t = self._disambiguate_slice(index)
        position = self._answer(x, y, t)
        if position is None:
            raise IndexError(f'index: {index} not found in dataset with bounds: {self.bounds}')
        lattice = self.lattice(position)
        crs = raster_crs(lattice.crs)
        left, top, width, height = lattice.window(x, y, self.lookup.crs_text)

        def grid(res: float) -> Grid:
            return Grid.over(crs, left, top, width, height, res, res)

        sample: MultiSensorSample = {
            'sensors': {
                name: tuple(
                    _view(member, path, grid(member.pixel), width, height)
                    for member, path in zip(self.datasets[name], paths)
                )
                for name, paths in self.lookup.combinations[position].items()
            }
        }
        if self.labels is not None:
            sample['mask'] = self.labels.mask(grid(self.labels.grid_res or self.reference.pixel))
        return self.transforms(sample) if self.transforms is not None else sample

    def __getitems__(self, indices: Sequence[GeoSlice]) -> list[MultiSensorSample]:
        """Read the patches of a batch; a DataLoader calls it.

        What patches side by side share of a file is decoded once, for those of one combination.

        Args:
            indices: As for one patch.

        Returns:
            The samples, the same as one by one.

        Raises:
            IndexError: If nothing lies at one of them.
        """
        crs = self.lookup.crs_text
        boxes = []
        for index in indices:
            x, y, t = self._disambiguate_slice(index)
            position = self._answer(x, y, t)
            if position is None:
                raise IndexError(f'index: {index} not found in dataset with bounds: {self.bounds}')
            left, top, width, height = self.lattice(position).window(x, y, crs)
            boxes.append((position, (left, top - height, left + width, top)))
        samples: dict[int, MultiSensorSample] = {}
        for ground, members in side_by_side(boxes):
            lattice = self.lattice(boxes[members[0]][0])
            with decoded_once(ground, raster_crs(lattice.crs)):
                samples |= {number: self[indices[number]] for number in members}
        return [samples[number] for number in range(len(indices))]

    def _answer(self, x: slice, y: slice, t: slice) -> int | None:
        """Row of the combination that answers a query.

        It is the one that shares most ground with the query, of equals the one that ends with it. A
        sampler's query is for the lattice of one row: where two zones saw the ground at one time,
        that row is the one that is meant.
        """
        rows, shared = self.lookup(x, y, t)
        if not len(rows):
            return None
        if len(rows) > 1:
            crs = self.lookup.crs_text
            lattices = [self.lattice(row) for row in rows]
            made = {lattice: lattice.made(x, y, crs) for lattice in set(lattices)}
            meant = np.array([made[lattice] for lattice in lattices])
            meant &= shared >= _TURNED * shared.max()
            if meant.any():
                rows, shared = rows[meant], shared[meant]
        best = rows[shared >= (1 - 1e-9) * shared.max()]
        meant = self.lookup.stops[best] == nanoseconds(t.stop)
        return int(best[meant.argmax()])  # the first of all, if none is

    def plot(
        self, sample: MultiSensorSample, show_titles: bool = True, suptitle: str | None = None
    ) -> Figure:
        """Draw a sample: each sensor in true colour where it has it, and the mask.

        Args:
            sample: A sample of this dataset; ``prediction`` is drawn beside the mask.
            show_titles: Whether to name the panels.
            suptitle: Title of the figure.

        Returns:
            The figure.
        """
        return draw_panels(self._panels(sample), show_titles=show_titles, suptitle=suptitle)

    def _panels(self, sample: Any) -> Iterator[tuple[str, Any]]:
        """Titles and pictures of a sample."""
        for name, views in sample['sensors'].items():
            for member, view in zip(self.datasets[name], views):
                if member.rgb_bands and set(member.rgb_bands) <= set(member.bands):
                    order = [member.bands.index(band) for band in member.rgb_bands]
                    yield name, true_color(view['image'][order], view['valid'])
                    break
            else:
                yield name, true_color(views[0]['image'][:1], views[0]['valid'])
        for key in ('mask', 'prediction'):
            if key in sample:
                yield key, sample[key]


def _finest_first(
    name: str, member: SensorDataset | Sequence[SensorDataset]
) -> tuple[SensorDataset, ...]:
    """The grids of one sensor.

    Raises:
        ValueError: If there is none, or two have the same pixel size.
    """
    members = [member] if isinstance(member, SensorDataset) else list(member)
    sizes = [m.pixel for m in members]
    if not members or len(set(sizes)) < len(sizes):
        raise ValueError(f'{name}: give one dataset for each grid, got pixel sizes {sizes}')
    return tuple(sorted(members, key=lambda m: m.pixel))


def _common_multiple(sizes: Sequence[float]) -> float:
    """Least common multiple of pixel sizes, to the millimetre.

    Raises:
        ValueError: If it is longer than 10 km, or a size is below a millimetre: the sizes have no
            useful one.
    """
    multiple = math.lcm(*(round(size * 1000) for size in sizes)) / 1000
    if not 0 < multiple <= 10_000:  # 0: a size in degrees
        raise ValueError(
            f'pixel sizes {sorted(set(sizes))} m have no common multiple below 10 km; '
            'give the dataset with the odd one another res'
        )
    return multiple


def _view(
    member: SensorDataset, path: str, grid: Grid, width: float, height: float
) -> SensorSample:
    """One acquisition on its own pixels, or warped to *grid* if it is in another CRS.

    A CRS that is moved as a whole is no other one: see :func:`shift_between`.
    """
    own = member.acquisitions[path].crs
    crs, shift = raster_crs(own), (0.0, 0.0)
    if crs is not grid.crs and crs != grid.crs:
        moved = shift_between(grid.bounds, crs_text(grid.crs.to_string()), own)
        if moved is None:
            return member.view(path, grid)
        shift = moved
    native, dx, dy = member.native_grid(
        path, left=grid.left + shift[0], top=grid.top + shift[1], width=width, height=height
    )
    return member.view(path, native, dx=dx, dy=dy)


def _index_in(crs: PROJ_CRS, member: SensorDataset) -> GeoDataFrame:
    """A copy of a member's index in a CRS, with the name of each row's pass."""
    names = [member.acquisitions[path].name for path in member.index.filepath]
    if member.crs == crs:
        return member.index.assign(product=names)
    return build_index(member.acquisitions, crs=crs_text(crs.srs)).assign(product=names)


def _told_apart(times: pd.IntervalIndex, paths: NDArray[np.object_]) -> pd.IntervalIndex:
    """Let acquisitions of one time end microseconds apart, so that a query can mean one of them."""
    known: dict[Any, dict[str, int]] = {}
    seen = [known.setdefault(time, {}) for time in times]
    again = [of.setdefault(path, len(of)) for of, path in zip(seen, paths, strict=True)]
    if not any(again):
        return times
    left, right = times.left.as_unit('ns'), times.right.as_unit('ns')
    apart = pd.to_timedelta(again, unit='us')
    right = (right - apart).where(right - apart > left, right + apart)  # a day stays that day
    return pd.IntervalIndex.from_arrays(left, right, closed=times.closed, name=times.name)


def _cloudiest(clear: Mapping[str, NDArray[np.float64]], rows: Mapping[str, int]) -> float:
    """Least clear fraction of some acquisitions; NaN if none is known."""
    known = [clear[name][row] for name, row in rows.items()]
    return float(min((share for share in known if not math.isnan(share)), default=math.nan))

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Several sensors over the same ground at about the same time."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import pandas as pd
import shapely
import torch
from geopandas import GeoDataFrame
from matplotlib.figure import Figure
from pyproj import CRS as PROJ_CRS
from rasterio.crs import CRS
from torchgeo.datasets import GeoDataset
from torchgeo.datasets.utils import GeoSlice

from ..types import MultiSensorSample, SensorSample
from .labels import LabelDataset
from .plot import draw_panels, true_color
from .read import Grid, Lattice
from .sensor import SensorDataset

Combination = dict[str, tuple[str, ...]]


class MultiSensorDataset(GeoDataset):
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
            for crs in (member.crs for member in members):
                if crs.is_geographic or crs.axis_info[0].unit_name not in ('metre', 'meter'):
                    raise ValueError(
                        f'{name} is in {crs.name}: patches are squares in metres; give the dataset '
                        'a projected crs in metres (for example the UTM zone), and its res'
                    )
        sizes = [member.res[0] for members in self.datasets.values() for member in members]
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
        rows: list[tuple[pd.Interval, shapely.Geometry, Combination]] = []
        others = list(indexes)[1:]
        first = next(iter(indexes))
        for position in range(len(self.reference.index)):
            interval = self.reference.index.index[position]
            ground = indexes[first][0].geometry.iloc[position]
            combination: Combination = {}
            for name in (first, *others):
                own = position if name == first else None
                paths, common = _nearest(
                    indexes[name], interval, ground, tolerance=self.tolerance, position=own
                )
                if paths:
                    combination[name], ground = paths, common
            if first in combination and len(combination) >= self._least:
                rows.append((interval, ground, combination))
        if not rows:
            counts = ', '.join(f'{name}: {len(m[0])}' for name, m in self.datasets.items())
            raise ValueError(
                f'no combination of {self._least} sensors within {self.tolerance} over common '
                f'ground among these acquisitions: {counts}. Raise the tolerance, lower require, '
                'or check that the files cover the same place'
            )
        data = {
            'filepath': [combination[first][0] for _, _, combination in rows],
            'combination': [combination for _, _, combination in rows],
        }
        intervals = pd.IntervalIndex([row[0] for row in rows], closed='both', name='datetime')
        return GeoDataFrame(data, index=intervals, geometry=[row[1] for row in rows], crs=crs)

    def lattice(self, position: int) -> Lattice:
        """Points to which the patches of one combination snap.

        Args:
            position: Row of the index.
        """
        acquisition = self.reference.acquisitions[self.index.filepath.iloc[position]]
        if CRS.from_user_input(self.crs) == acquisition.crs:
            return Lattice(*acquisition.corner, self.step)
        return Lattice(0.0, 0.0, self.step)

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
        patch = shapely.box(x.start, y.start, x.stop, y.stop)
        overlaps = self.index.index.overlaps(pd.Interval(t.start, t.stop, 'both'))
        shared = self.index.geometry.intersection(patch).area.where(overlaps, 0).to_numpy()
        if not shared.max() > 0:
            raise IndexError(f'index: {index} not found in dataset with bounds: {self.bounds}')
        position = int(shared.argmax())
        window = self._snap(self.lattice(position), x, y)
        sample: MultiSensorSample = {
            'sensors': {
                name: tuple(
                    self._view(member, path, *window)
                    for member, path in zip(self.datasets[name], paths)
                )
                for name, paths in self.index.combination.iloc[position].items()
            }
        }
        if self.labels is not None:
            res = self.labels.grid_res or self.reference.res[0]
            sample['mask'] = self.labels.mask(self._grid(res, *window))
        return self.transforms(sample) if self.transforms is not None else sample

    def _snap(self, lattice: Lattice, x: slice, y: slice) -> tuple[float, float, float, float]:
        """Left, top, width and height of the patch on the lattice."""

        def nearest(value: float, origin: float) -> float:
            return origin + math.floor((value - origin) / lattice.step + 0.5) * lattice.step

        def size(value: float) -> float:
            return max(1, round(value / lattice.step)) * lattice.step

        return (
            nearest(x.start, lattice.x),
            nearest(y.stop, lattice.y),
            size(x.stop - x.start),
            size(y.stop - y.start),
        )

    def _grid(self, res: float, left: float, top: float, width: float, height: float) -> Grid:
        """The patch in pixels of *res* metres."""
        crs = CRS.from_user_input(self.crs)
        return Grid(crs, left, top, res, res, round(width / res), round(height / res))

    def _view(
        self, member: SensorDataset, path: str, left: float, top: float, *size: float
    ) -> SensorSample:
        """One acquisition on its own pixels, or warped if it is in another CRS."""
        width, height = size
        if member.acquisitions[path].crs != CRS.from_user_input(self.crs):
            return member.view(path, self._grid(member.res[0], left, top, width, height))
        grid, dx, dy = member.native_grid(path, left=left, top=top, width=width, height=height)
        view = member.view(path, grid)
        view['dx'], view['dy'] = torch.tensor(dx).float(), torch.tensor(dy).float()
        return view

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
                yield name, views[0]['image'][0]
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
    sizes = [m.res[0] for m in members]
    if not members or len(set(sizes)) < len(sizes):
        raise ValueError(f'{name}: give one dataset for each grid, got pixel sizes {sizes}')
    return tuple(sorted(members, key=lambda m: m.res[0]))


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


def _index_in(crs: PROJ_CRS, member: SensorDataset) -> GeoDataFrame:
    """A copy of a member's index in a CRS, with the name of each row's product."""
    index = member.index if member.crs == crs else member.index.to_crs(crs)
    return index.assign(product=[member.acquisitions[path].name for path in index.filepath])


def _nearest(
    grids: Sequence[GeoDataFrame],
    interval: pd.Interval,
    ground: shapely.Geometry,
    *,
    tolerance: pd.Timedelta,
    position: int | None = None,
) -> tuple[tuple[str, ...], shapely.Geometry]:
    """The acquisition of a sensor that lies nearest in time and shares ground.

    Args:
        grids: Index of each grid of the sensor, with a column ``product``.
        interval: Time of the reference acquisition.
        ground: What must be shared.
        tolerance: Longest gap between the two time intervals.
        position: Row of the finest grid, if it is known.

    Returns:
        Path of the acquisition on each grid and the ground that all share; empty if there is none.
    """
    finest = grids[0]
    times = finest.index
    gap = (times.left - interval.right).to_series().clip(lower=pd.Timedelta(0))
    gap += (interval.left - times.right).to_series().clip(lower=pd.Timedelta(0)).to_numpy()
    between = abs(times.mid - interval.mid)
    order = [position] if position is not None else between.argsort()
    for row in order:
        if position is None and gap.iloc[row] > tolerance:
            continue
        common = finest.geometry.iloc[row].intersection(ground)
        if not common.area > 0:
            continue
        paths = [finest.filepath.iloc[row]]
        for other in grids[1:]:
            same = other[(other.index.left == times.left[row]) & other.intersects(common)]
            if same.empty:
                break
            own = same[same['product'] == finest['product'].iloc[row]]
            same = same if own.empty else own  # two baselines of one datatake do not mix
            best = int(same.intersection(common).area.to_numpy().argmax())
            common = common.intersection(same.geometry.iloc[best])
            paths.append(same.filepath.iloc[best])
        if len(paths) == len(grids):
            return tuple(paths), common
    return (), ground

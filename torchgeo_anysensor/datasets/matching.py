# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Which acquisitions of several sensors belong together: near in time, over common ground.

An interval join: acquisitions are sorted by place and time, so that the few which are near enough
to one another are found by bisection, and only their footprints are laid over each other.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray

Combination = dict[str, tuple[str, ...]]

# References whose candidates are found at once: bounds memory
_CHUNK = 1024

# Pairs of footprints: bounds memory
_REMEMBERED = 100_000

# Footprints are sorted into places this much finer than they are wide
_PLACES_ACROSS = 4


class Match(NamedTuple):
    """Acquisitions that belong together."""

    row: int  #: of the reference
    ground: shapely.Geometry  #: that all share
    rows: dict[str, int]  #: sensor to row of its finest grid
    combination: Combination  #: sensor to the path on each of its grids


class Matcher:
    """Deals the ground of each reference acquisition to the nearest acquisitions of the others."""

    def __init__(
        self,
        indexes: Mapping[str, Sequence[GeoDataFrame]],
        *,
        within: Mapping[str, tuple[pd.Timedelta, pd.Timedelta]],
        sliver: float,
    ) -> None:
        """Sort the acquisitions.

        Args:
            indexes: Index of each grid of each sensor, finest first, all in one CRS, with a column
                ``product``. The first sensor is the reference.
            within: Least and greatest gap in time between the reference and each other sensor.
            sliver: Area below which ground is not worth a row.
        """
        self._first, *others = indexes
        self._overlay = _Overlay()
        self._sensors = {name: _Sensor(grids, self._overlay) for name, grids in indexes.items()}
        self._within = {name: within[name] for name in others}
        self._sliver = sliver

    def __iter__(self) -> Iterator[Match]:
        """Go through the references in the order of their index.

        Where the nearest acquisition covers a part of the ground alone, the rest goes to the next
        one. Sensors that nothing is near of are left out of the combination.

        Yields:
            Combinations; no two of one reference share ground.
        """
        reference = self._sensors[self._first]
        total = len(reference.ground)
        for start in range(0, total, _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, total))
            near = {
                name: self._sensors[name].near(reference, rows, within)
                for name, within in self._within.items()
            }
            for i, row in enumerate(rows.tolist()):
                own = reference.grids(row, reference.ground[row])
                if own is None:
                    continue
                paths, ground = own
                candidates = {name: found[i] for name, found in near.items()}
                match = Match(row, ground, {self._first: row}, {self._first: paths})
                yield from self._deal(match, candidates)

    def _deal(self, match: Match, candidates: Mapping[str, Sequence[int]]) -> Iterator[Match]:
        """Deal ground to the acquisitions of the first of the sensors, and so on.

        Args:
            match: What belongs together so far.
            candidates: Rows of each other sensor, from the nearest in time.
        """
        if not candidates:
            yield match
            return
        name, *others = candidates
        rest = {other: candidates[other] for other in others}
        ground = match.ground
        for row in candidates[name]:
            found = self._sensors[name].grids(row, match.ground)
            if found is None:
                continue
            paths, common = found
            common = self._overlay.intersection(common, ground)
            if common.area < self._sliver:
                continue
            rows, combination = match.rows | {name: row}, match.combination | {name: paths}
            yield from self._deal(Match(match.row, common, rows, combination), rest)
            ground = self._overlay.difference(ground, common)
            if ground.area < self._sliver:
                return
        yield from self._deal(match._replace(ground=ground), rest)


class _Sensor:
    """The acquisitions of one sensor, to be found by time and place."""

    def __init__(self, grids: Sequence[GeoDataFrame], overlay: '_Overlay') -> None:
        """Sort them.

        Args:
            grids: Index of each grid, finest first, with a column ``product``.
            overlay: Knows equal footprints.
        """
        finest, *coarser = grids
        self._overlay = overlay
        self._grounds = [overlay.shared(grid.geometry.to_numpy()) for grid in grids]
        self._paths = [grid['filepath'].tolist() for grid in grids]
        self.ground = self._grounds[0]
        self.bounds = shapely.bounds(self.ground)
        times = finest.index
        self.left, self.mid, self.right = map(_nanoseconds, (times.left, times.mid, times.right))
        self._longest = int((self.right - self.left).max(initial=0))
        # The rows of each coarser grid, for each row of the finest
        self._same = [_same_acquisition(finest, grid) for grid in coarser]

        self._places, place = _places(self.bounds)
        self._order = np.lexsort((self.left, place))
        self._in_time = np.sort(self.left)
        rank = np.searchsorted(self._in_time, self.left)
        self._keys = self._key(place, rank)[self._order]

    def _key(self, place: NDArray[np.int64], rank: NDArray[np.int64]) -> NDArray[np.int64]:
        """One number that sorts by place, then by rank in time."""
        return place * (len(self._in_time) + 1) + rank

    def near(
        self,
        reference: '_Sensor',
        rows: NDArray[np.int64],
        within: tuple[pd.Timedelta, pd.Timedelta],
    ) -> list[list[int]]:
        """Rows that may share ground with each of some references, from the nearest in time.

        Args:
            reference: The other sensor.
            rows: Of the other sensor.
            within: Least and greatest gap between the two time intervals.

        Returns:
            For each of *rows*; of two that are as near the first of the index comes first.
        """
        if not len(self.left):
            return [[] for _ in rows]
        left, right = reference.left[rows], reference.right[rows]
        # No gap is longer than the data, and greater numbers might not fit
        span = max(self.right.max(), right.max()) - min(self.left.min(), left.min())
        least, greatest = (min(int(gap.as_unit('ns').value), int(span) + 1) for gap in within)
        start = np.searchsorted(self._in_time, left - greatest - self._longest)
        stop = np.searchsorted(self._in_time, right + greatest, side='right')
        which, place = self._places.query(shapely.box(*reference.bounds[rows].T))
        start = np.searchsorted(self._keys, self._key(place, start[which]))
        stop = np.searchsorted(self._keys, self._key(place, stop[which]))
        which, found = _ranges(which, start, stop)
        found = self._order[found]

        gap = np.maximum(self.left[found] - right[which], 0)
        gap += np.maximum(left[which] - self.right[found], 0)
        west, south, east, north = self.bounds[found].T
        box = reference.bounds[rows[which]].T
        good = (least <= gap) & (gap <= greatest)
        good &= (west <= box[2]) & (east >= box[0]) & (south <= box[3]) & (north >= box[1])
        which, found = which[good], found[good]
        between = abs(self.mid[found] - reference.mid[rows[which]])
        order = np.lexsort((found, between, which))
        ends = np.searchsorted(which[order], np.arange(1, len(rows)))
        return [part.tolist() for part in np.split(found[order], ends)]

    def grids(
        self, row: int, ground: shapely.Geometry
    ) -> tuple[tuple[str, ...], shapely.Geometry] | None:
        """One acquisition on each of the grids.

        Args:
            row: Of the finest grid.
            ground: What is of interest.

        Returns:
            Path of the acquisition on each grid, and the ground that all share; None if there is
            none, or a grid lacks the acquisition.
        """
        common = self._overlay.intersection(self.ground[row], ground)
        paths = [self._paths[0][row]]
        for grid, same in enumerate(self._same, 1):
            shared = [self._overlay.intersection(self._grounds[grid][i], common) for i in same[row]]
            if not shared:
                return None
            best = max(range(len(shared)), key=lambda i: shared[i].area)
            common = shared[best]
            paths.append(self._paths[grid][same[row][best]])
        return (tuple(paths), common) if common.area > 0 else None


class _Overlay:
    """Intersections and differences, each made once: revisits have the footprints of each other."""

    def __init__(self) -> None:
        """Know nothing."""
        self._shapes: dict[bytes, shapely.Geometry] = {}
        # By identity, with the two geometries, which must outlive their entry
        self._made: dict[tuple[str, int, int], tuple[shapely.Geometry, ...]] = {}

    def shared(self, geometries: NDArray[np.object_]) -> list[shapely.Geometry]:
        """The geometries, equal ones as one object."""
        keys = shapely.to_wkb(geometries)
        return [self._shapes.setdefault(key, shape) for key, shape in zip(keys, geometries)]

    def intersection(self, one: shapely.Geometry, other: shapely.Geometry) -> shapely.Geometry:
        """What both cover."""
        return self._make('intersection', one, other)

    def difference(self, one: shapely.Geometry, other: shapely.Geometry) -> shapely.Geometry:
        """What *one* alone covers."""
        return self._make('difference', one, other)

    def _make(self, how: str, one: shapely.Geometry, other: shapely.Geometry) -> shapely.Geometry:
        """Look up, or compute."""
        key = how, id(one), id(other)
        if key not in self._made:
            if len(self._made) >= _REMEMBERED:
                self._made.clear()
            self._made[key] = getattr(one, how)(other), one, other
        return self._made[key][0]


def _nanoseconds(times: pd.DatetimeIndex) -> NDArray[np.int64]:
    """Nanoseconds since 1970 ``(n,)``."""
    return np.asarray(times.as_unit('ns').asi8)


def _places(bounds: NDArray[np.float64]) -> tuple[shapely.STRtree, NDArray[np.int64]]:
    """Sort boxes ``(n, 4)`` into places, boxes that are a little larger than the ones they hold.

    Returns:
        Tree of the places, and the place ``(n,)`` of each box.
    """
    sides = np.maximum(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1])
    step = float(np.median(sides) if len(sides) else 0) / _PLACES_ACROSS or 1.0
    snapped = np.hstack([np.floor(bounds[:, :2] / step), np.ceil(bounds[:, 2:] / step)])
    boxes, place = np.unique(snapped, axis=0, return_inverse=True)
    return shapely.STRtree(shapely.box(*(boxes * step).T)), place.reshape(-1)


def _ranges(
    which: NDArray[np.int64], start: NDArray[np.int64], stop: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All numbers of many ranges, each with the label of its range."""
    counts = np.maximum(stop - start, 0)
    offsets = np.repeat(start - (np.cumsum(counts) - counts), counts)
    return np.repeat(which, counts), offsets + np.arange(counts.sum())


def _same_acquisition(finest: GeoDataFrame, other: GeoDataFrame) -> list[list[int]]:
    """Rows of another grid that are the acquisition of each row of the finest.

    They have its name; where none has, as with files of the user's own, its time.
    """
    by_name, by_time = defaultdict(list), defaultdict(list)
    for row, (name, time) in enumerate(zip(other['product'], other.index.left)):
        by_name[name].append(row)
        by_time[time].append(row)
    return [
        by_name.get(name) or by_time.get(time, [])
        for name, time in zip(finest['product'], finest.index.left)
    ]

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Ground in one coordinate reference system and in another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS as PROJ_CRS
from pyproj import Geod, Transformer
from pyproj.exceptions import ProjError
from rasterio.crs import CRS

#: Of latitude, and of longitude at the equator.
METRES_PER_DEGREE = 111_320.0

# Straight lines of one CRS bend in another: so many points on each side of a box
_SIDE_POINTS = 101

_GEOD = Geod(ellps='WGS84')

# What cannot be drawn
_NOWHERE = shapely.polygons(np.full((4, 2), np.inf))


@lru_cache(maxsize=256)
def _transformer(source: str, target: str) -> Transformer:
    """Transformer with the easting or longitude first."""
    return Transformer.from_crs(source, target, always_xy=True)


@lru_cache(maxsize=256)
def crs_text(crs: str) -> str:
    """``EPSG:32632`` or, if no authority has the CRS, WKT: one text for one CRS."""
    known = PROJ_CRS.from_user_input(crs)
    code = known.to_epsg()
    return f'EPSG:{code}' if code else str(known.to_wkt())


@lru_cache(maxsize=256)
def is_geographic(crs: str) -> bool:
    """Whether coordinates are degrees."""
    return bool(PROJ_CRS.from_user_input(crs).is_geographic)


@lru_cache(maxsize=256)
def in_metres(crs: str) -> bool:
    """Whether coordinates are metres."""
    axes = PROJ_CRS.from_user_input(crs).axis_info
    return bool(axes) and axes[0].unit_name in ('metre', 'meter')


@lru_cache(maxsize=256)
def raster_crs(crs: str) -> CRS:
    """The CRS as rasterio wants it."""
    return CRS.from_user_input(crs)


def lon_lat(x: float, y: float, crs: CRS) -> tuple[float, float]:
    """Longitude and latitude of a point in degrees (WGS 84); NaN if it is nowhere on the globe."""
    try:
        lon, lat = _transformer(crs_text(crs.to_string()), 'EPSG:4326').transform(x, y)
    except ProjError:
        return math.nan, math.nan
    return (lon, lat) if math.isfinite(lon) and math.isfinite(lat) else (math.nan, math.nan)


def move_points(
    x: NDArray[np.float64], y: NDArray[np.float64], source: str, target: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points in another CRS; not finite where it has none."""
    return _transformer(source, target).transform(x, y)


def shift_between(
    bounds: tuple[float, float, float, float], source: str, target: str
) -> tuple[float, float] | None:
    """How far east and north a rectangle moves from one CRS to another, to the millimetre.

    South of the equator one ground has two UTM zones, for which some deliver it in the northern one:
    they differ by 10,000 km and nothing else.

    Args:
        bounds: West, south, east and north edge in *source*.
        source: CRS in metres, as text.
        target: CRS, as text.

    Returns:
        Metres, or None if the rectangle is not moved as a whole.
    """
    west, south, east, north = bounds
    x, y = np.array([west, east, west, east]), np.array([south, south, north, north])
    east_by, north_by = (
        new - old for new, old in zip(move_points(x, y, source, target), (x, y), strict=True)
    )
    if not np.isfinite(east_by + north_by).all() or max(np.ptp(east_by), np.ptp(north_by)) > 1e-3:
        return None
    return round(float(east_by[0]), 3), round(float(north_by[0]), 3)


def project(geometry: Any, source: str, target: str) -> Any:
    """Geometry, or an array of them, in another CRS; lines are made of many points before.

    In degrees a part beyond the antimeridian comes on its own side of the map, as in GeoJSON.

    Args:
        geometry: In *source*.
        source: CRS, as text.
        target: CRS, as text.
    """
    if source == target:
        return geometry
    step = 0.01 if is_geographic(source) else 1000.0
    moved = _split(_move(shapely.segmentize(geometry, step), source, target), target)
    if is_geographic(source) and in_metres(target):
        # Parts that the antimeridian had cut become one again where they meet to the millimetre
        return shapely.set_precision(moved, 0.001)
    return moved


def footprints(boxes: Any, crs: Sequence[str], target: str) -> NDArray[np.object_]:
    """Boxes, each in its own CRS, in one.

    Args:
        boxes: Rectangles.
        crs: One text for each.
        target: CRS, as text.

    Returns:
        Polygons, or multipolygons where the antimeridian of a map in degrees cuts one; not finite
        where *target* cannot show the place.
    """
    boxes = np.asarray(boxes, dtype=object)
    found = np.empty(len(boxes), dtype=object)
    sources = np.asarray(crs, dtype=object)
    for source in dict.fromkeys(crs):
        own = sources == source
        if source == target:
            found[own] = boxes[own]
            continue
        # A tile is seen on many days
        bounds, which = np.unique(shapely.bounds(boxes[own]), axis=0, return_inverse=True)
        west, south, east, north = bounds.T
        side = np.linspace(0, 1, _SIDE_POINTS)[:-1]
        zero, one = np.zeros_like(side), np.ones_like(side)
        x = np.concatenate([side, one, 1 - side, zero])
        y = np.concatenate([zero, side, one, 1 - side])
        points = np.stack(
            [
                west[:, None] + x * (east - west)[:, None],
                south[:, None] + y * (north - south)[:, None],
            ],
            axis=-1,
        )
        try:
            moved = _move(shapely.polygons(points), source, target)
        except ProjError:  # one of them is not bound to the globe
            found[own] = _NOWHERE
            continue
        found[own] = _split(_uncut(moved, target), target)[which.reshape(-1)]
    return found


def _uncut(polygons: NDArray[np.object_], crs: str) -> NDArray[np.object_]:
    """Polygons of many points; not finite if they lie across the edge of a map of the globe.

    Such a map shows their points at both of its ends, and what lies between is not theirs.
    """
    if is_geographic(crs):
        return polygons
    corners = shapely.get_coordinates(polygons).reshape(len(polygons), -1, 2)
    with np.errstate(invalid='ignore'):  # infinite coordinates
        leaps = abs(np.diff(corners, axis=1)).max(axis=1) > np.ptp(corners, axis=1) / 2
    return np.where(leaps.any(axis=1), _NOWHERE, polygons)


def rectangle(x: slice, y: slice, crs: str) -> shapely.Geometry:
    """Ground of a query; what reaches over the antimeridian of a map in degrees is cut there.

    Args:
        x: From the west to the east edge; in degrees maybe below -180 or above 180.
        y: From the south to the north edge.
        crs: Of both, as text.
    """
    if not is_geographic(crs) or (x.start >= -180 and x.stop <= 180):
        return shapely.box(x.start, y.start, x.stop, y.stop)
    turns = [shapely.box(x.start + t, y.start, x.stop + t, y.stop) for t in (-360, 0, 360)]
    return shapely.intersection(shapely.union_all(turns), shapely.box(-180, -90, 180, 90))


def _move(geometry: Any, source: str, target: str) -> Any:
    """Transform every point."""
    move = _transformer(source, target).transform

    def points(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack(move(xy[:, 0], xy[:, 1]), axis=-1)

    return shapely.transform(geometry, points)


def _split(geometry: Any, crs: str) -> Any:
    """Cut what reaches over the antimeridian of a map in degrees."""
    if not is_geographic(crs):
        return geometry
    geometries = np.atleast_1d(np.asarray(geometry, dtype=object))
    west, _, east, _ = shapely.bounds(geometries).T
    for i in np.flatnonzero(east - west > 180):
        # The western part lies at -180 and is put behind 180, where the ground goes on
        whole = shapely.transform(
            geometries[i], lambda xy: np.stack([xy[:, 0] % 360, xy[:, 1]], axis=-1)
        )
        east_side = shapely.intersection(whole, shapely.box(0, -90, 180, 90))
        west_side = shapely.intersection(whole, shapely.box(180, -90, 360, 90))
        west_side = shapely.transform(west_side, lambda xy: xy - np.array([360.0, 0.0]))
        geometries[i] = shapely.union(east_side, west_side)
    return geometries if np.ndim(geometry) else geometries[0]


@dataclass(frozen=True, slots=True)
class Lattice:
    """Points to which patches snap, so that every aligned grid is read untouched.

    They lie in the reference system of an acquisition, which need not be that of the dataset's
    index: a dataset may hold acquisitions of many UTM zones.
    """

    x: float  #: easting of one point, a pixel corner of the reference grid
    y: float  #: northing of it
    step: float  #: metres between points: the least common multiple of all pixel sizes
    crs: str  #: of the points

    def window(self, x: slice, y: slice, crs: str) -> tuple[float, float, float, float]:
        """The patch that a query means.

        Args:
            x: From the west to the east edge of the query.
            y: From the south to the north edge.
            crs: Of the query.

        Returns:
            Left, top, width and height on the lattice, in :attr:`crs`.
        """
        if crs != self.crs:
            x, y = _recentre(x, y, crs, self.crs)
        return (
            self._nearest(x.start, self.x),
            self._nearest(y.stop, self.y),
            self._size(x.stop - x.start),
            self._size(y.stop - y.start),
        )

    def query(self, left: float, top: float, size: float, crs: str) -> tuple[slice, slice]:
        """The query that means a patch: what :meth:`window` turns back into it.

        Args:
            left: West edge of the patch, in :attr:`crs`.
            top: North edge.
            size: Width and height in metres.
            crs: Of the query.
        """
        return self._query(left, top, size, size, crs)

    def made(self, x: slice, y: slice, crs: str) -> bool:
        """Whether :meth:`query` gave a query, of this lattice or of one with the same points.

        Tells apart acquisitions of one time and ground in two UTM zones.

        Args:
            x: From the west to the east edge of the query.
            y: From the south to the north edge.
            crs: Of the query.
        """
        again = self._query(*self.window(x, y, crs), crs)
        slack = 1e-6 * (x.stop - x.start)
        ends = ((new.start - old.start, new.stop - old.stop) for new, old in zip(again, (x, y)))
        return all(abs(end) <= slack for pair in ends for end in pair)

    def _query(
        self, left: float, top: float, width: float, height: float, crs: str
    ) -> tuple[slice, slice]:
        """The query of a rectangle on the lattice."""
        x, y = slice(left, left + width), slice(top - height, top)
        return (x, y) if crs == self.crs else _recentre(x, y, self.crs, crs)

    def _nearest(self, value: float, origin: float) -> float:
        """Nearest coordinate on the lattice."""
        return origin + math.floor((value - origin) / self.step + 0.5) * self.step

    def _size(self, value: float) -> float:
        """Nearest multiple of the step, but not nothing."""
        return max(1, round(value / self.step)) * self.step


def _recentre(x: slice, y: slice, source: str, target: str) -> tuple[slice, slice]:
    """An upright rectangle of the same centre, width and height on the ground in another CRS.

    The grids of two CRSs are turned against each other, so that the two rectangles share most of
    their ground, not all.
    """
    cx, cy = (x.start + x.stop) / 2, (y.start + y.stop) / 2
    tx, ty = _transformer(source, target).transform(cx, cy)
    own, other = _unit_metres(cx, cy, source), _unit_metres(tx, ty, target)
    width = (x.stop - x.start) * own[0] / other[0]
    height = (y.stop - y.start) * own[1] / other[1]
    return slice(tx - width / 2, tx + width / 2), slice(ty - height / 2, ty + height / 2)


def _unit_metres(x: float, y: float, crs: str) -> tuple[float, float]:
    """Metres on the ground of one unit along each axis of a CRS, at a place."""
    step = 0.001 if is_geographic(crs) else 100.0
    lon, lat = _transformer(crs, 'OGC:CRS84').transform(
        [x - step, x, x + step, x], [y, y - step, y, y + step]
    )
    _, _, lengths = _GEOD.inv(lon[:2], lat[:2], lon[2:], lat[2:])
    return lengths[0] / (2 * step), lengths[1] / (2 * step)

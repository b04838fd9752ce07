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
from pyproj import Transformer
from rasterio.crs import CRS

# Straight lines of one CRS bend in another: so many points on each side of a box
_SIDE_POINTS = 21


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
    geometry = shapely.segmentize(geometry, step)
    return _split(_move(geometry, source, target), target)


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
        west, south, east, north = shapely.bounds(boxes[own]).T
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
        found[own] = _split(_move(shapely.polygons(points), source, target), target)
    return found


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
        x, y = slice(left, left + size), slice(top - size, top)
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
    move = _transformer(source, target).transform
    # Two steps along each axis tell by how much lengths change
    hx, hy = (x.stop - x.start) / 2, (y.stop - y.start) / 2
    xs, ys = move([cx, cx - hx, cx + hx, cx, cx], [cy, cy, cy, cy - hy, cy + hy])
    tx, ty = xs[0], ys[0]
    if is_geographic(target):
        # A degree of longitude is as long as one of latitude at the equator alone
        xs = [tx + (value - tx + 180) % 360 - 180 for value in xs]
        shrink = math.cos(math.radians(ty))
        width = math.hypot((xs[2] - xs[1]) * shrink, ys[2] - ys[1]) / shrink
        height = math.hypot((xs[4] - xs[3]) * shrink, ys[4] - ys[3])
    else:
        width = math.hypot(xs[2] - xs[1], ys[2] - ys[1])
        height = math.hypot(xs[4] - xs[3], ys[4] - ys[3])
    return slice(tx - width / 2, tx + width / 2), slice(ty - height / 2, ty + height / 2)

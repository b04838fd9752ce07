# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Patches that lie side by side: what they share of a file is decoded once."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from .grid import Grid
from .handles import Raster

Bounds = tuple[float, float, float, float]

# The square around patches that are read at once is at most so many times as large as they are:
# a block of a file is far larger than a patch, so that a little more ground costs nothing
_SPARSE = 4.0

# Pixels around it: for windows nearest to a patch, and for neighbours of a pixel
_MARGIN = 2


class _Area:
    """Windows of files over some ground, read when they are first asked for."""

    def __init__(self, bounds: Bounds, crs: CRS) -> None:
        """Read nothing yet."""
        self._bounds = {crs: bounds}
        self._crs = crs
        self._kept: dict[tuple[Raster, tuple[int, ...]], tuple[Window, NDArray]] = {}

    def read(self, raster: Raster, grid: Grid, indexes: list[int], window: Window) -> NDArray:
        """Pixels of a window, which must not be written to."""
        key = raster, tuple(indexes)
        if key not in self._kept:
            own = self._window(grid)
            with raster.env():
                data = raster.src.read(indexes, window=own)
            data.flags.writeable = False
            self._kept[key] = own, data
        own, data = self._kept[key]
        row, col = window.row_off - own.row_off, window.col_off - own.col_off
        if min(row, col) < 0 or row + window.height > own.height or col + window.width > own.width:
            with raster.env():
                return raster.src.read(indexes, window=window)
        return data[:, row : row + window.height, col : col + window.width]

    def _window(self, grid: Grid) -> Window:
        """Pixels of a file that lie on the ground."""
        if grid.crs not in self._bounds:
            self._bounds[grid.crs] = transform_bounds(self._crs, grid.crs, *self._bounds[self._crs])
        west, south, east, north = self._bounds[grid.crs]
        left, right = ((x - grid.left) / grid.xres for x in (west, east))
        top, bottom = ((grid.top - y) / grid.yres for y in (north, south))
        x0, x1 = _clip(left, right, grid.width)
        y0, y1 = _clip(top, bottom, grid.height)
        return Window(x0, y0, x1 - x0, y1 - y0)


_area: ContextVar[_Area | None] = ContextVar('_area', default=None)


@contextmanager
def decoded_once(bounds: Bounds, crs: CRS) -> Iterator[None]:
    """Within this, files are decoded over all of some ground when any of it is read.

    Args:
        bounds: West, south, east and north edge of the ground.
        crs: Of the ground.
    """
    token = _area.set(_Area(bounds, crs))
    try:
        yield
    finally:
        _area.reset(token)


def read_pixels(raster: Raster, indexes: list[int], window: Window) -> NDArray:
    """Bands ``(C, H, W)`` of a window within a file, not to be written to.

    Args:
        raster: The file.
        indexes: Bands, from 1.
        window: Whole pixels.
    """
    area = _area.get()
    if area is None or raster.grid is None:
        with raster.env():
            return raster.src.read(indexes, window=window)
    return area.read(raster, raster.grid, indexes, window)


def side_by_side(boxes: Sequence[tuple[int, Bounds]]) -> list[tuple[Bounds, list[int]]]:
    """Put patches together that are worth to be read at once.

    Args:
        boxes: Of each patch, the row of the index and the ground.

    Returns:
        Ground of each group, and the numbers of its patches.
    """
    groups: dict[int, list[tuple[Bounds, float, list[int]]]] = {}
    for number, (row, box) in enumerate(boxes):
        area = (box[2] - box[0]) * (box[3] - box[1])
        own = groups.setdefault(row, [])
        for i, (ground, used, members) in enumerate(own):
            west, south = min(ground[0], box[0]), min(ground[1], box[1])
            east, north = max(ground[2], box[2]), max(ground[3], box[3])
            if (east - west) * (north - south) <= _SPARSE * (used + area):
                own[i] = (west, south, east, north), used + area, [*members, number]
                break
        else:
            own.append((box, area, [number]))
    return [(ground, members) for own in groups.values() for ground, _, members in own]


def _clip(low: float, high: float, size: int) -> tuple[int, int]:
    """Whole pixels from *low* to *high*, and a margin, within a file."""
    first = min(max(math.floor(low) - _MARGIN, 0), size)
    return first, max(min(math.ceil(high) + _MARGIN, size), first)

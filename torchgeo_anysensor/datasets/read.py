# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Pixels of one file on one grid, untouched wherever the two grids agree."""

import atexit
import math
import os
import threading
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform as warp_points
from rasterio.windows import Window

from .files import stamp
from .geometry import METRES_PER_DEGREE
from .neighbours import read_pixels

#: Formats that are read. A list, because GDAL would follow a VRT to other files and to URLs even if
#: its name ends with ``.tif``.
DRIVERS = ('GTiff', 'COG', 'JP2OpenJPEG', 'JP2KAK', 'JP2ECW', 'JP2MrSID')

# Grids whose pixel corners lie closer than this share of a pixel agree.
_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Grid:
    """Square or rectangular pixels, north up.

    ``left`` and ``top`` are the outer corner of the first pixel; lengths are in units of ``crs``.
    """

    crs: CRS
    left: float
    top: float
    xres: float
    yres: float
    width: int
    height: int

    @classmethod
    def over(
        cls,
        crs: CRS,
        left: float,
        top: float,
        width: float,
        height: float,
        xres: float,
        yres: float,
    ) -> 'Grid':
        """The grid over a rectangle, at least one pixel wide and high.

        Args:
            crs: Of all lengths.
            left: West edge.
            top: North edge.
            width: East-west extent.
            height: North-south extent.
            xres: Pixel size.
            yres: Pixel size.
        """
        columns, rows = max(1, round(width / xres)), max(1, round(height / yres))
        return cls(crs, left, top, xres, yres, columns, rows)

    @property
    def transform(self) -> Affine:
        """Affine transform from pixel to CRS coordinates."""
        return Affine(self.xres, 0, self.left, 0, -self.yres, self.top)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north edge."""
        right = self.left + self.width * self.xres
        return self.left, self.top - self.height * self.yres, right, self.top


def open_raster(path: str) -> DatasetReader:
    """Open a raster, or return the handle that this process already holds.

    A GDAL handle that a forked worker inherits shares its file position with the parent and reads
    wrong pixels without an error, and one that two threads use mixes them up, so handles are kept
    for each apart. A file that was written anew is opened anew.

    Raises:
        rasterio.errors.RasterioIOError: If the file cannot be read or is in no known format.
    """
    return _open(path, os.getpid(), threading.get_ident(), stamp(path))


@lru_cache(maxsize=256)
def _open(path: str, pid: int, thread: int, version: tuple[int, ...]) -> DatasetReader:
    """Open *path* once in a *thread* of the process *pid*, for each *version* of the file."""
    # rasterio.open takes one driver, and looking at the driver afterwards is too late: a warped VRT
    # opens its source, maybe a URL, as it is opened
    with rasterio.Env():
        return DatasetReader(path, driver=list(DRIVERS))


# GDAL is gone before Python drops the handles: closing them then fails, noisily.
atexit.register(_open.cache_clear)


def read(
    path: str, grid: Grid, *, indexes: list[int], nodata: float | None, resampling: Resampling
) -> tuple[NDArray, NDArray[np.bool_]]:
    """Read bands of one file on a grid.

    Where the file's grid agrees with the target, pixels come as they are. Where each target pixel
    lies inside one file pixel, that pixel is repeated. Everything else is resampled once; a
    resampling to coarser pixels is an area average unless *resampling* is nearest.

    Args:
        path: The file.
        grid: The target.
        indexes: Bands of the file, from 1.
        nodata: Value that marks missing pixels, kept out of any resampling.
        resampling: For grids that do not agree.

    Returns:
        Digital numbers ``(C, H, W)`` in the file's type, and ``(H, W)`` whether the file covers the
        pixel; values outside are arbitrary.
    """
    src = open_raster(path)
    # GDAL fills a truncated JPEG 2000 with zeros, silently, if it decodes with several threads.
    with rasterio.Env(GDAL_NUM_THREADS='1'):
        repeat = _repeats(src, grid)
        if repeat is not None:
            return _read_native(src, grid, indexes=indexes, repeat=repeat)
        return _read_warped(src, grid, indexes=indexes, nodata=nodata, resampling=resampling)


def _repeats(src: DatasetReader, grid: Grid) -> tuple[int, int] | None:
    """How many target pixels make one file pixel along x and y, or None if they do not nest."""
    t = src.transform
    if t.b or t.d or t.e >= 0 or src.crs != grid.crs:
        return None
    repeats = []
    for src_res, res, start in (
        (t.a, grid.xres, grid.left - t.c),
        (-t.e, grid.yres, t.f - grid.top),
    ):
        ratio, shift = src_res / res, start / res
        n = round(ratio)
        if n < 1 or abs(ratio - n) > _TOLERANCE / max(grid.width, grid.height):
            return None
        if abs(shift - round(shift)) > _TOLERANCE:
            return None
        repeats.append(n)
    return repeats[0], repeats[1]


def _read_native(
    src: DatasetReader, grid: Grid, *, indexes: list[int], repeat: tuple[int, int]
) -> tuple[NDArray, NDArray[np.bool_]]:
    """Windowed read, with each pixel repeated where the target is finer."""
    nx, ny = repeat
    col = round((grid.left - src.transform.c) / grid.xres)  # target pixels from the file's corner
    row = round((src.transform.f - grid.top) / grid.yres)
    left, top = math.floor(col / nx), math.floor(row / ny)  # file pixels
    right, bottom = math.ceil((col + grid.width) / nx), math.ceil((row + grid.height) / ny)
    x0, x1 = min(max(left, 0), src.width), min(max(right, 0), src.width)
    y0, y1 = min(max(top, 0), src.height), min(max(bottom, 0), src.height)
    shape = (bottom - top, right - left)
    data = np.zeros((len(indexes), *shape), dtype=src.dtypes[indexes[0] - 1])
    inside = np.zeros(shape, dtype=bool)
    if x1 > x0 and y1 > y0:
        block = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        data[:, *block] = read_pixels(src, indexes, Window(x0, y0, x1 - x0, y1 - y0))
        inside[block] = True
    if nx > 1 or ny > 1:
        data = data.repeat(ny, axis=1).repeat(nx, axis=2)
        inside = inside.repeat(ny, axis=0).repeat(nx, axis=1)
        rows = slice(row - top * ny, row - top * ny + grid.height)
        cols = slice(col - left * nx, col - left * nx + grid.width)
        data, inside = data[:, rows, cols], inside[rows, cols]
    return data, inside


def _read_warped(
    src: DatasetReader,
    grid: Grid,
    *,
    indexes: list[int],
    nodata: float | None,
    resampling: Resampling,
) -> tuple[NDArray, NDArray[np.bool_]]:
    """One resampling from the file's grid to the target."""
    inside = _covered(src, grid)
    shape = (len(indexes), grid.height, grid.width)
    if not inside.any():
        return np.zeros(shape, dtype=src.dtypes[indexes[0] - 1]), inside
    xscale, yscale = _scale(src, grid)
    if resampling != Resampling.nearest and max(xscale, yscale) < 1 / 1.5:
        resampling = Resampling.average
    with WarpedVRT(
        src,
        crs=grid.crs,
        transform=grid.transform,
        width=grid.width,
        height=grid.height,
        resampling=resampling,
        src_nodata=nodata,
        nodata=nodata,
        # GDAL's own guess counts the margin that it reads around the window: on a small patch it
        # blurs and shifts what is not to be scaled at all
        XSCALE=xscale,
        YSCALE=yscale,
    ) as vrt:
        return vrt.read(indexes), inside


def _scale(src: DatasetReader, grid: Grid) -> tuple[float, float]:
    """How many target pixels one file pixel spans along x and y."""
    latitude = (src.bounds.bottom + src.bounds.top) / 2 if src.crs.is_geographic else grid.top
    src_x, src_y = _in_metres(src.crs, abs(src.transform.a), abs(src.transform.e), latitude)
    grid_x, grid_y = _in_metres(grid.crs, grid.xres, grid.yres, latitude)
    return src_x / grid_x, src_y / grid_y


def _in_metres(crs: CRS, xres: float, yres: float, latitude: float) -> tuple[float, float]:
    """Pixel size in metres, if it is in degrees; otherwise as it is."""
    if not crs.is_geographic:
        return xres, yres
    east = METRES_PER_DEGREE * math.cos(math.radians(latitude))
    return xres * east, yres * METRES_PER_DEGREE


def _covered(src: DatasetReader, grid: Grid) -> NDArray[np.bool_]:
    """Whether the centre of each target pixel lies inside of the file."""
    x = grid.left + (np.arange(grid.width) + 0.5) * grid.xres
    y = grid.top - (np.arange(grid.height) + 0.5) * grid.yres
    xs, ys = (a.ravel() for a in np.meshgrid(x, y))
    if src.crs != grid.crs:
        xs, ys = (np.asarray(a) for a in warp_points(grid.crs, src.crs, xs, ys))
    cols, rows = _apply(~src.transform, xs, ys)
    inside = (cols >= 0) & (cols < src.width) & (rows >= 0) & (rows < src.height)
    return inside.reshape(grid.height, grid.width)


def _apply(t: Affine, xs: NDArray, ys: NDArray) -> tuple[NDArray, NDArray]:
    """Affine transform of many points."""
    return t.a * xs + t.b * ys + t.c, t.d * xs + t.e * ys + t.f

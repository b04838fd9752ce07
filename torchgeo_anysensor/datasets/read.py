# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Pixels of one file on one grid, untouched wherever the two grids agree."""

import atexit
import math
import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.windows import Window

from .files import stamp
from .geometry import crs_text, raster_crs
from .neighbours import read_pixels
from .resample import local_map, read_warped

#: Formats that are read. A list, because GDAL would follow a VRT to other files and to URLs even if
#: its name ends with ``.tif``.
DRIVERS = ('GTiff', 'COG', 'JP2OpenJPEG', 'JP2KAK', 'JP2ECW', 'JP2MrSID')

# Grids whose pixel corners lie closer than this share of a pixel agree.
_TOLERANCE = 0.01


# What float32 holds without loss
_EXACT = frozenset({'uint8', 'int8', 'uint16', 'int16', 'float32'})


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


@dataclass(frozen=True, slots=True, eq=False)
class _Raster:
    """An open file, and what rasterio would work out anew each time that it is asked."""

    src: DatasetReader
    grid: Grid | None  #: its pixels, if they are north up
    exact: bool  #: whether its numbers are the same in float32
    real: bool  #: whether they may be infinite, or none
    jpeg2000: bool

    def env(self) -> AbstractContextManager[object]:
        """What GDAL must be told while it reads the file."""
        # GDAL fills a truncated JPEG 2000 with zeros, silently, if it decodes with several threads.
        return rasterio.Env(GDAL_NUM_THREADS='1') if self.jpeg2000 else nullcontext()


def open_raster(path: str) -> DatasetReader:
    """Open a raster, or return the handle that this process already holds.

    A GDAL handle that a forked worker inherits shares its file position with the parent and reads
    wrong pixels without an error, and one that two threads use mixes them up, so handles are kept
    for each apart. A file that was written anew is opened anew.

    Raises:
        rasterio.errors.RasterioIOError: If the file cannot be read or is in no known format.
    """
    return _raster(path).src


def _raster(path: str) -> _Raster:
    """The open file; to look whether it has changed takes 3 us, a hundredth of opening it."""
    return _open(path, os.getpid(), threading.get_ident(), stamp(path))


# A year of one tile of three sensors, and half of the files that a process may open by default
@lru_cache(maxsize=512)
def _open(path: str, pid: int, thread: int, version: tuple[int, ...]) -> _Raster:
    """Open *path* once in a *thread* of the process *pid*, for each *version* of the file."""
    # rasterio.open takes one driver, and looking at the driver afterwards is too late: a warped VRT
    # opens its source, maybe a URL, as it is opened
    with rasterio.Env():
        src = DatasetReader(path, driver=list(DRIVERS))
    t, grid = src.transform, None
    if src.crs is not None and not (t.b or t.d or t.e >= 0):
        # The object that datasets have for this CRS: to compare two of them is slow
        crs = raster_crs(crs_text(src.crs.to_wkt()))
        grid = Grid(crs, t.c, t.f, t.a, -t.e, src.width, src.height)
    kinds = set(src.dtypes)
    return _Raster(
        src,
        grid,
        exact=kinds <= _EXACT,
        real='float32' in kinds,
        jpeg2000=src.driver.startswith('JP2'),
    )


# GDAL is gone before Python drops the handles: closing them then fails, noisily.
atexit.register(_open.cache_clear)


def read_bands(
    places: Sequence[tuple[str, int]],
    grid: Grid,
    *,
    nodata: float | None,
    saturated: float | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read the bands of one view, images alone.

    Windows of pixels that agree go from the decoder to where they stay. Pixels of another CRS, or
    between those of the file, are taken from the native window by a map that is straight over a
    patch (:func:`~.grid.local_map`), bilinear. For all else see :func:`read`.

    Args:
        places: File of each band, and its place in the file, from 1.
        grid: The target.
        nodata: Digital number of missing pixels.
        saturated: Digital number of saturated pixels.

    Returns:
        Digital numbers ``(C, H, W)`` and where all bands have a number ``(H, W)``; values elsewhere
        are arbitrary.
    """
    shape = (grid.height, grid.width)
    image = np.empty((len(places), *shape), dtype=np.float32)
    valid = np.ones(shape, dtype=bool)
    missing = [value for value in (nodata, saturated) if value is not None]
    groups = _alike(places)
    for source, bands in groups:
        rows: Any = (
            slice(None) if len(groups) == 1 else [row for band in bands for row in band.rows]
        )
        repeat = _repeats(source, grid) if source else None
        if source and repeat == (1, 1) and (window := _window(source, grid)):
            for band in bands:
                band.fill(image, window)
            real = any(band.raster.real for band in bands)
            valid &= has_data(image[rows], missing, real=real)
        elif source and repeat is None and (found := local_map(source, grid)):
            native = np.empty((len(places), *found.shape), dtype=np.float32)
            for band in bands:
                band.fill(native, Window(*found.window))
            native = native[rows]
            image[rows], own = found.bilinear(native, _bad(native, missing))
            valid &= own
        else:
            for band in bands:
                data, inside = read(
                    band.path,
                    grid,
                    indexes=band.indexes,
                    nodata=nodata,
                    resampling=Resampling.bilinear,
                )
                valid &= inside & has_data(data, missing)
                image[band.rows] = data
    return image, valid


@dataclass(slots=True)
class _Bands:
    """Bands of one file that follow each other in a view, to be read at once."""

    path: str
    raster: _Raster
    indexes: list[int]
    start: int  #: place of the first in the view

    @property
    def rows(self) -> range:
        """Places in the view."""
        return range(self.start, self.start + len(self.indexes))

    def fill(self, image: NDArray[np.float32], window: Window) -> None:
        """Decode to their places in *image*."""
        out = image[self.start : self.start + len(self.indexes)]
        with self.raster.env():
            read_pixels(self.raster.src, self.indexes, window, out=out)


def _alike(places: Sequence[tuple[str, int]]) -> list[tuple[Grid | None, list[_Bands]]]:
    """Bands by the pixels of their files; None for those that take the slower way."""
    found: list[tuple[Grid | None, list[_Bands]]] = []
    band = None
    for row, (path, index) in enumerate(places):
        if band is not None and band.path == path:
            band.indexes.append(index)
            continue
        raster = _raster(path)
        band = _Bands(path, raster, [index], row)
        grid = raster.grid if raster.exact else None
        for other, bands in found:
            if other == grid:
                bands.append(band)
                break
        else:
            found.append((grid, [band]))
    return found


def has_data(data: NDArray, missing: Sequence[float], *, real: bool = True) -> NDArray[np.bool_]:
    """Where all bands are numbers.

    Args:
        data: ``(C, H, W)``.
        missing: Values that are none.
        real: Whether there may be others that are not finite.

    Returns:
        ``(H, W)``.
    """
    good = np.ones(data.shape[1:], dtype=bool)
    for value in missing:
        good &= (data != value).all(axis=0)
    if real and data.dtype.kind == 'f':
        good &= np.isfinite(data).all(axis=0)
    return good


def _bad(data: NDArray, missing: Sequence[float]) -> NDArray[np.bool_] | None:
    """Where ``(C, H, W)`` is no number, or None if all are."""
    bad = ~np.isfinite(data)
    for value in missing:
        bad |= data == value
    return bad if bad.any() else None


def _window(source: Grid, grid: Grid) -> Window | None:
    """Where pixels that agree lie in a file, if all are there."""
    col = round((grid.left - source.left) / grid.xres)
    row = round((source.top - grid.top) / grid.yres)
    if min(col, row) < 0 or col + grid.width > source.width or row + grid.height > source.height:
        return None
    return Window(col, row, grid.width, grid.height)


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
    raster = _raster(path)
    with raster.env():
        repeat = _repeats(raster.grid, grid) if raster.grid else None
        if raster.grid and repeat:
            return _read_native(raster.src, raster.grid, grid, indexes=indexes, repeat=repeat)
        if raster.grid and resampling == Resampling.nearest:
            found = local_map(raster.grid, grid)
            if found is not None:
                data = read_pixels(raster.src, indexes, Window(*found.window))
                return found.nearest(data), np.ones((grid.height, grid.width), dtype=bool)
        return read_warped(raster.src, grid, indexes=indexes, nodata=nodata, resampling=resampling)


def _repeats(source: Grid, grid: Grid) -> tuple[int, int] | None:
    """How many target pixels make one file pixel along x and y, or None if they do not nest."""
    if source.crs is not grid.crs and source.crs != grid.crs:
        return None
    repeats = []
    for src_res, res, start in (
        (source.xres, grid.xres, grid.left - source.left),
        (source.yres, grid.yres, source.top - grid.top),
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
    src: DatasetReader, source: Grid, grid: Grid, *, indexes: list[int], repeat: tuple[int, int]
) -> tuple[NDArray, NDArray[np.bool_]]:
    """Windowed read, with each pixel repeated where the target is finer."""
    nx, ny = repeat
    col = round((grid.left - source.left) / grid.xres)  # target pixels from the file's corner
    row = round((source.top - grid.top) / grid.yres)
    left, top = math.floor(col / nx), math.floor(row / ny)  # file pixels
    right, bottom = math.ceil((col + grid.width) / nx), math.ceil((row + grid.height) / ny)
    x0, x1 = min(max(left, 0), src.width), min(max(right, 0), src.width)
    y0, y1 = min(max(top, 0), src.height), min(max(bottom, 0), src.height)
    if (x0, x1, y0, y1) == (left, right, top, bottom):
        data = read_pixels(src, indexes, Window(x0, y0, x1 - x0, y1 - y0))
        inside = np.ones((grid.height, grid.width), dtype=bool)
        return _repeat(data, grid, repeat, offset=(col - left * nx, row - top * ny)), inside
    shape = (bottom - top, right - left)
    data = np.zeros((len(indexes), *shape), dtype=src.dtypes[indexes[0] - 1])
    there = np.zeros(shape, dtype=bool)
    if x1 > x0 and y1 > y0:
        block = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        data[:, *block] = read_pixels(src, indexes, Window(x0, y0, x1 - x0, y1 - y0))
        there[block] = True
    offset = (col - left * nx, row - top * ny)
    return _repeat(data, grid, repeat, offset=offset), _repeat(there, grid, repeat, offset=offset)


def _repeat(
    data: NDArray, grid: Grid, repeat: tuple[int, int], *, offset: tuple[int, int]
) -> NDArray:
    """Repeat pixels of ``(..., rows, columns)``, and cut what the grid does not cover."""
    nx, ny = repeat
    if nx > 1 or ny > 1:
        *rest, rows, cols = data.shape
        whole = np.broadcast_to(data[..., :, None, :, None], (*rest, rows, ny, cols, nx))
        data = whole.reshape(*rest, rows * ny, cols * nx)  # the one copy
    x, y = offset
    return data[..., y : y + grid.height, x : x + grid.width]

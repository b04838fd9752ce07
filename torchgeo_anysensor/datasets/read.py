# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Pixels of one file on one grid, untouched wherever the two grids agree."""

import itertools
import math
import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from .grid import Grid
from .handles import Layers, Place, Raster, layers, raster
from .neighbours import read_pixels
from .resample import local_map, near_value, read_warped

# Grids whose pixel corners lie closer than this share of a pixel agree.
_TOLERANCE = 0.01


def read_bands(
    places: Sequence[Place], grid: Grid, *, nodata: float | None, saturated: float | None = None
) -> tuple[NDArray, NDArray[np.bool_]]:
    """Read the bands of one view, images alone.

    Windows of pixels that agree come as the decoder gives them. Pixels of another CRS, or
    between those of the file, are taken from the native window by a map that is straight over a
    patch (:func:`~.resample.local_map`), bilinear. For all else see :func:`read`.

    Args:
        places: File of each band, and its place in the file, from 1.
        grid: The target.
        nodata: Digital number of missing pixels.
        saturated: Digital number of saturated pixels.

    Returns:
        Digital numbers ``(C, H, W)``, not to be written to, in the type of the files if all are
        read as they are and in float32 otherwise; and where all bands have a number ``(H, W)``;
        values elsewhere are arbitrary.
    """
    missing = [value for value in (nodata, saturated) if value is not None]
    parts = layers(places)
    if len(parts) == 1 and (window := _window(parts[0], grid)):
        data = _decode(parts[0], window)
        return data, has_data(data, missing)
    image = np.empty((len(places), grid.height, grid.width), dtype=np.float32)
    valid = np.ones((grid.height, grid.width), dtype=bool)
    for part in parts:
        source = part.grid
        if window := _window(part, grid):
            image[part.rows] = data = _decode(part, window)
            own = has_data(data, missing)
        elif source and _repeats(source, grid) is None and (found := local_map(source, grid)):
            data = _decode(part, Window(*found.window)).astype(np.float32, copy=False)
            image[part.rows], own = found.bilinear(data, _bad(data, missing))
        else:
            image[part.rows], own = _read_each(
                part, grid, missing, nodata=nodata, saturated=saturated
            )
        valid &= own
    return image, valid


def _window(part: Layers, grid: Grid) -> Window | None:
    """Where the pixels of a grid lie in files, if they agree, and all are there."""
    source = part.grid
    if source is None or _repeats(source, grid) != (1, 1):
        return None
    col = round((grid.left - source.left) / grid.xres)
    row = round((source.top - grid.top) / grid.yres)
    if min(col, row) < 0 or col + grid.width > source.width or row + grid.height > source.height:
        return None
    return Window(col, row, grid.width, grid.height)


def _decode(part: Layers, window: Window) -> NDArray:
    """Pixels of a window, not to be written to.

    Raises:
        rasterio.errors.RasterioIOError: If a file is damaged; it is named.
    """
    try:
        return read_pixels(part.raster, part.indexes, window)
    except RasterioIOError:
        for path, index in part.places:  # which of them, and why
            read_pixels(raster(path), [index], window)
        raise


def _read_each(
    part: Layers,
    grid: Grid,
    missing: Sequence[float],
    *,
    nodata: float | None,
    saturated: float | None,
) -> tuple[NDArray, NDArray[np.bool_]]:
    """File by file, the slower way."""
    images, valid = [], np.ones((grid.height, grid.width), dtype=bool)
    mixed = part.grid is None or _repeats(part.grid, grid) is None
    for path, own in itertools.groupby(part.places, key=operator.itemgetter(0)):
        indexes = [index for _, index in own]
        data, inside = read(
            path, grid, indexes=indexes, nodata=nodata, resampling=Resampling.bilinear
        )
        valid &= inside & has_data(data, missing)
        if mixed and saturated is not None:  # in a mean it can no longer be told
            file = raster(path)
            with file.env():
                valid &= ~near_value(
                    file.src, grid, indexes=indexes, nodata=nodata, value=saturated
                )
        images.append(data)
    return np.concatenate(images), valid


def has_data(data: NDArray, missing: Sequence[float]) -> NDArray[np.bool_]:
    """Where all bands are numbers.

    Args:
        data: ``(C, H, W)``.
        missing: Values that are none.

    Returns:
        ``(H, W)``.
    """
    good = np.ones(data.shape[1:], dtype=bool)
    low, high = (data.min(), data.max()) if data.size else (0, 0)
    for value in missing:
        if not (value < low or value > high):  # or these are no numbers
            good &= (data != value).all(axis=0)
    if not (np.isfinite(low) and np.isfinite(high)):
        good &= np.isfinite(data).all(axis=0)
    return good


def _bad(data: NDArray, missing: Sequence[float]) -> NDArray[np.bool_] | None:
    """Where ``(C, H, W)`` is no number, or None if all are."""
    bad = ~np.isfinite(data)
    for value in missing:
        bad |= data == value
    return bad if bad.any() else None


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
    file = raster(path)
    repeat = _repeats(file.grid, grid) if file.grid else None
    if file.grid and repeat:
        return _read_native(file, file.grid, grid, indexes=indexes, repeat=repeat)
    if file.grid and resampling == Resampling.nearest:
        found = local_map(file.grid, grid)
        if found is not None:
            data = read_pixels(file, indexes, Window(*found.window))
            return found.nearest(data), np.ones((grid.height, grid.width), dtype=bool)
    with file.env():
        return read_warped(file.src, grid, indexes=indexes, nodata=nodata, resampling=resampling)


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
    file: Raster, source: Grid, grid: Grid, *, indexes: list[int], repeat: tuple[int, int]
) -> tuple[NDArray, NDArray[np.bool_]]:
    """Windowed read, with each pixel repeated where the target is finer."""
    nx, ny = repeat
    col = round((grid.left - source.left) / grid.xres)  # target pixels from the file's corner
    row = round((source.top - grid.top) / grid.yres)
    left, top = math.floor(col / nx), math.floor(row / ny)  # file pixels
    right, bottom = math.ceil((col + grid.width) / nx), math.ceil((row + grid.height) / ny)
    x0, x1 = min(max(left, 0), source.width), min(max(right, 0), source.width)
    y0, y1 = min(max(top, 0), source.height), min(max(bottom, 0), source.height)
    if (x0, x1, y0, y1) == (left, right, top, bottom):
        data = read_pixels(file, indexes, Window(x0, y0, x1 - x0, y1 - y0))
        inside = np.ones((grid.height, grid.width), dtype=bool)
        return _repeat(data, grid, repeat, offset=(col - left * nx, row - top * ny)), inside
    shape = (bottom - top, right - left)
    data = np.zeros((len(indexes), *shape), dtype=file.src.dtypes[indexes[0] - 1])
    there = np.zeros(shape, dtype=bool)
    if x1 > x0 and y1 > y0:
        block = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        data[:, *block] = read_pixels(file, indexes, Window(x0, y0, x1 - x0, y1 - y0))
        there[block] = True
    offset = (col - left * nx, row - top * ny)
    return _repeat(data, grid, repeat, offset=offset), _repeat(there, grid, repeat, offset=offset)


def _repeat(
    data: NDArray, grid: Grid, repeat: tuple[int, int], *, offset: tuple[int, int]
) -> NDArray:
    """Repeat pixels of ``(..., rows, columns)``, and cut what the grid does not cover."""
    nx, ny = repeat
    if nx > 1:
        data = data.repeat(nx, axis=-1)
    if ny > 1:
        data = data.repeat(ny, axis=-2)
    x, y = offset
    return data[..., y : y + grid.height, x : x + grid.width]

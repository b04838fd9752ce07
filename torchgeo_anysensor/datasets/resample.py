# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""One resampling of a patch whose pixels do not agree with the file's."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform as warp_points
from rasterio.windows import Window

from .geometry import METRES_PER_DEGREE, crs_text, move_points

if TYPE_CHECKING:
    from .grid import Grid

# Largest error of a straight map, GDAL's own too, in pixels of the file
_BEND = 0.05

# A target pixel longer than this, in pixels of the file, is an average
_STEP = 1.05

# File pixels that are so much smaller than the target's, or more, are averaged
_AVERAGE_BELOW = 1 / 1.5


@dataclass(frozen=True, slots=True, eq=False)
class LocalMap:
    """Where the pixels of a patch lie in a window of a file."""

    window: tuple[int, int, int, int]  #: column, row, width and height in the file
    x: NDArray[np.float64]  #: ``(H, W)``, of pixel centres, in pixels from the window's corner
    y: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the window."""
        return self.window[3], self.window[2]

    def nearest(self, native: NDArray) -> NDArray:
        """Pixels in which the centres lie: ``(..., H, W)`` of ``(..., rows, columns)``."""
        return native[..., self.y.astype(np.intp), self.x.astype(np.intp)]

    def bilinear(
        self, native: NDArray[np.float32], bad: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The four neighbours of each centre, weighted by their distance.

        Args:
            native: ``(C, rows, columns)`` of the window.
            bad: Of the same shape, numbers that must not enter; None if there are none.

        Returns:
            ``(C, H, W)``, and where the pixel in which the centre lies is good in all bands
            ``(H, W)``.
        """
        left, top = np.floor(self.x - 0.5), np.floor(self.y - 0.5)
        across, down = (self.x - 0.5 - left).astype('f4'), (self.y - 0.5 - top).astype('f4')
        corner = (top * self.window[2] + left).astype(np.intp)
        if bad is None:
            return self._mix(native, corner, across, down), np.ones(corner.shape, dtype=bool)
        good = np.where(bad, np.float32(0), np.float32(1))
        share = self._mix(good, corner, across, down)
        values = self._mix(np.where(bad, np.float32(0), native), corner, across, down)
        values /= np.maximum(share, np.float32(1e-6))
        return values, ~self.nearest(bad.any(axis=0))

    def _mix(
        self, native: NDArray[np.float32], corner: NDArray[np.intp], across: NDArray, down: NDArray
    ) -> NDArray[np.float32]:
        """Weighted mean of the neighbours, of which *corner* is the first."""
        flat, width = native.reshape(len(native), -1), self.window[2]
        values, right, below, last = (
            flat.take(corner + step, axis=1) for step in (0, 1, width, width + 1)
        )
        for one, other in ((values, right), (below, last)):
            other -= one
            other *= across
            one += other
        below -= values
        below *= down
        values += below
        return values


@lru_cache(maxsize=2)  # the bands of one view, and its quality bands
def local_map(source: 'Grid', target: 'Grid') -> LocalMap | None:
    """The straight map from a patch to the pixels of a file.

    Over a patch of a few kilometres two UTM zones are turned and scaled against each other, and bent by a
    thousandth of a pixel. The map is fitted to nine exact points.

    Args:
        source: Of the file.
        target: The patch.

    Returns:
        The map, or None if it would be wrong by more than 0.05 pixels of the file, if the patch is
        not wholly inside of the file with a pixel to spare, or if its pixels are coarser.
    """
    u = np.array([0.0, 0.5, 1.0])
    x, y = np.meshgrid(
        target.left + u * target.width * target.xres, target.top - u * target.height * target.yres
    )
    if source.crs is not target.crs and source.crs != target.crs:
        texts = (crs_text(grid.crs.to_string()) for grid in (target, source))
        x, y = move_points(x, y, *texts)
    cols, rows = (x - source.left) / source.xres, (source.top - y) / source.yres
    if not (np.isfinite(cols).all() and np.isfinite(rows).all()):
        return None
    plane_x, plane_y = _plane(cols), _plane(rows)
    if plane_x is None or plane_y is None:
        return None
    step = [
        math.hypot(plane_x[1] / target.width, plane_y[1] / target.width),
        math.hypot(plane_x[2] / target.height, plane_y[2] / target.height),
    ]
    if max(step) > _STEP:
        return None
    left, right = math.floor(cols.min() - 1), math.ceil(cols.max() + 1)
    top, bottom = math.floor(rows.min() - 1), math.ceil(rows.max() + 1)
    if left < 0 or top < 0 or right > source.width or bottom > source.height:
        return None
    across = (np.arange(target.width) + 0.5) / target.width
    down = ((np.arange(target.height) + 0.5) / target.height)[:, None]
    inner = [p[0] + p[1] * across + p[2] * down for p in (plane_x, plane_y)]
    return LocalMap((left, top, right - left, bottom - top), inner[0] - left, inner[1] - top)


def _plane(values: NDArray[np.float64]) -> tuple[float, float, float] | None:
    """Least squares of ``c + a u + b v`` to values at ``u, v`` in 0, 0.5 and 1; None if it bends."""
    a = (values[:, 2] - values[:, 0]).mean()
    b = (values[2] - values[0]).mean()
    c = values.mean() - (a + b) / 2
    u = np.array([0.0, 0.5, 1.0])
    if abs(values - (c + a * u + b * u[:, None])).max() > _BEND:
        return None
    return float(c), float(a), float(b)


def read_warped(
    src: DatasetReader,
    grid: 'Grid',
    *,
    indexes: list[int],
    nodata: float | None,
    resampling: Resampling,
) -> tuple[NDArray, NDArray[np.bool_]]:
    """Let GDAL resample, slowly: averages, the ends of files, large or bent patches.

    See :func:`~.read.read`.
    """
    inside = _covered(src, grid)
    shape = (len(indexes), grid.height, grid.width)
    if not inside.any():
        return np.zeros(shape, dtype=src.dtypes[indexes[0] - 1]), inside
    xscale, yscale = _scale(src, grid)
    if resampling == Resampling.bilinear and max(xscale, yscale) < _AVERAGE_BELOW:
        resampling = Resampling.average
    with WarpedVRT(
        src,
        crs=grid.crs,
        transform=grid.transform,
        width=grid.width,
        height=grid.height,
        resampling=resampling,
        tolerance=_BEND,
        src_nodata=nodata,
        nodata=nodata,
        # GDAL's own guess counts the margin that it reads around the window: on a small patch it
        # blurs and shifts what is not to be scaled at all
        XSCALE=xscale,
        YSCALE=yscale,
        # A hole in one band is none in the others, but is one
        UNIFIED_SRC_NODATA='NO',
    ) as vrt:
        return vrt.read(indexes), inside


def near_value(
    src: DatasetReader, grid: 'Grid', *, indexes: list[int], nodata: float | None, value: float
) -> NDArray[np.bool_]:
    """Where :func:`read_warped` mixes pixels of a value in, or lies beside some ``(H, W)``.

    Args:
        src: The file.
        grid: The target.
        indexes: Bands of the file, from 1.
        nodata: Value that marks missing pixels.
        value: What is looked for.
    """
    scales = _scale(src, grid)
    if max(scales) < _AVERAGE_BELOW:  # of an area: those within it
        options = {'indexes': indexes, 'nodata': nodata, 'resampling': Resampling.max}
        return (read_warped(src, grid, **options)[0] == value).any(axis=0)
    reach = math.ceil(max(1.0, *(1 / scale for scale in scales)))
    cols, rows = (np.floor(a).astype(int) for a in _places(src, grid))
    left, top = max(int(cols.min()) - reach, 0), max(int(rows.min()) - reach, 0)
    right, bottom = (
        min(int(cols.max()) + reach + 1, src.width),
        min(int(rows.max()) + reach + 1, src.height),
    )
    if left >= right or top >= bottom:
        return np.zeros((grid.height, grid.width), dtype=bool)
    found = src.read(indexes, window=Window(left, top, right - left, bottom - top)) == value
    hit = torch.from_numpy(found.any(axis=0)).float()[None, None]
    wide = F.max_pool2d(hit, 2 * reach + 1, stride=1, padding=reach)[0, 0].bool().numpy()
    rows, cols = np.clip(rows - top, 0, bottom - top - 1), np.clip(cols - left, 0, right - left - 1)
    return wide[rows, cols].reshape(grid.height, grid.width)


def _scale(src: DatasetReader, grid: 'Grid') -> tuple[float, float]:
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


def _covered(src: DatasetReader, grid: 'Grid') -> NDArray[np.bool_]:
    """Whether the centre of each target pixel lies inside of the file."""
    cols, rows = _places(src, grid)
    inside = (cols >= 0) & (cols < src.width) & (rows >= 0) & (rows < src.height)
    return inside.reshape(grid.height, grid.width)


def _places(src: DatasetReader, grid: 'Grid') -> tuple[NDArray, NDArray]:
    """Columns and rows of the file, with fractions, of the centres of all target pixels."""
    x = grid.left + (np.arange(grid.width) + 0.5) * grid.xres
    y = grid.top - (np.arange(grid.height) + 0.5) * grid.yres
    xs, ys = (a.ravel() for a in np.meshgrid(x, y))
    if src.crs != grid.crs:
        xs, ys = (np.asarray(a) for a in warp_points(grid.crs, src.crs, xs, ys))
    return _apply(~src.transform, xs, ys)


def _apply(t: Affine, xs: NDArray, ys: NDArray) -> tuple[NDArray, NDArray]:
    """Affine transform of many points."""
    return t.a * xs + t.b * ys + t.c, t.d * xs + t.e * ys + t.f

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Write rasters the way the agencies do, with the same bytes each time."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import Affine, from_origin

from ..sensors import Band


@dataclass(frozen=True, slots=True)
class Grid:
    """Position of a raster, north up."""

    epsg: int
    left: float  #: easting of the west edge in metres
    top: float  #: northing of the north edge in metres
    res: float  #: side of a pixel in metres

    @property
    def transform(self) -> Affine:
        """Of pixel corners."""
        return from_origin(self.left, self.top, self.res, self.res)

    def coarser(self, res: float) -> 'Grid':
        """The same corner with other pixels."""
        return replace(self, res=res)


def to_dn(
    values: NDArray[np.float32],
    *,
    band: Band,
    dtype: str,
    nodata: float,
    missing: NDArray[np.bool_],
) -> NDArray[Any]:
    """Digital numbers of calibrated values, by the scale and offset of the band.

    A valid pixel never gets the nodata value.

    Args:
        values: In the band's unit.
        band: Its facts.
        dtype: Of the file.
        nodata: Of the file.
        missing: Pixels without data.
    """
    limits = np.iinfo(dtype)
    low = max(limits.min, int(nodata) + 1)
    dn = np.rint((values.astype(np.float64) - band.offset) / band.scale)
    return np.where(missing, nodata, np.clip(dn, low, limits.max)).astype(dtype)


def write_tif(
    path: Path,
    image: NDArray[Any],
    *,
    grid: Grid,
    nodata: float | None = None,
    tags: dict[str, str] | None = None,
    colormap: dict[int, tuple[int, int, int]] | None = None,
    description: str | None = None,
) -> None:
    """Write one band ``(H, W)``, or several ``(C, H, W)``, as a tiled GeoTIFF with deflate compression."""
    image = image[None] if image.ndim == 2 else image
    count, height, width = image.shape
    # One plane after the other where there are several, since they are read one by one
    planes = {'interleave': 'band'} if count > 1 else {}
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        width=width,
        height=height,
        count=count,
        dtype=image.dtype.name,
        crs=f'EPSG:{grid.epsg}',
        transform=grid.transform,
        nodata=nodata,
        tiled=True,
        blockxsize=256,
        blockysize=256,
        compress='deflate',
        # Difference to the left neighbour: a third smaller for reflectance
        predictor=2,
        **planes,
    ) as dst:
        # Before the pixels, or GDAL cannot mark the file as one with a palette
        if colormap:
            dst.write_colormap(1, colormap)
        dst.write(image)
        dst.update_tags(**(tags or {}))
        if description:
            dst.set_band_description(1, description)


def write_jp2(path: Path, image: NDArray[Any], *, grid: Grid) -> None:
    """Write one band as a lossless JPEG 2000."""
    height, width = image.shape
    with rasterio.open(
        path,
        'w',
        driver='JP2OpenJPEG',
        width=width,
        height=height,
        count=1,
        dtype=image.dtype.name,
        crs=f'EPSG:{grid.epsg}',
        transform=grid.transform,
        QUALITY=100,
        REVERSIBLE='YES',
    ) as dst:
        dst.write(image, 1)

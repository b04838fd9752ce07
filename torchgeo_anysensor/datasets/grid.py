# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""A grid of pixels."""

from dataclasses import dataclass

from rasterio.crs import CRS
from rasterio.transform import Affine


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

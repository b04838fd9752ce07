# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Where the places are, when satellites pass, and how their pixels lie on the fine cells."""

from dataclasses import dataclass

import numpy as np

from .landcover import CELL_M
from .raster import Grid
from .responses import PLATFORMS
from .scene import Acquisition

#: All places are in one zone, so that one dataset reads them without warping
EPSG = 32631
#: Landsat sees this much more on each side than the others, in metres. An odd multiple of 15:
#: its pixels lie half a pixel off the grid of a Sentinel-2 tile
MARGIN_M = 135

# Military grid tile, its upper left corner, and path and row of the Landsat scene
_TILES = (
    ('31UES', (499980, 5700000), (199, 24)),
    ('31UFS', (600000, 5700000), (198, 24)),
    ('31UER', (499980, 5600040), (199, 25)),
    ('31UFR', (600000, 5600040), (198, 25)),
    ('31UEQ', (499980, 5500020), (199, 26)),
    ('31UFQ', (600000, 5500020), (198, 26)),
)
#: Most places that can be simulated: each has a tile of its own
MAX_PLACES = len(_TILES)


@dataclass(frozen=True, slots=True)
class Place:
    """A square on the ground."""

    number: int
    tile: str  #: as 31UES
    corner: tuple[float, float]  #: easting and northing of its upper left corner
    path_row: tuple[int, int]  #: of Landsat
    size_m: int

    @property
    def cells(self) -> int:
        """Fine cells along a side, with the margin."""
        return (self.size_m + 2 * MARGIN_M) // CELL_M

    @property
    def inner(self) -> slice:
        """Fine cells without the margin."""
        return slice(MARGIN_M // CELL_M, (self.size_m + MARGIN_M) // CELL_M)

    def grid(self, res: float, *, margin: bool = False) -> Grid:
        """Grid of the place, or of the place with its margin."""
        left, top = self.corner
        more = MARGIN_M if margin else 0
        return Grid(EPSG, left - more, top + more, res)


def make_place(number: int, *, size_m: int) -> Place:
    """Place by number, somewhere inside a tile of its own."""
    tile, (left, top), path_row = _TILES[number]
    # Multiples of 60 m, so that pixels of 10, 20, 30 and 60 m all begin at the corner
    east = 60 * (400 + 137 * number % 500)
    south = 60 * (600 + 211 * number % 500)
    return Place(number, tile, (left + east, top - south), path_row, size_m)


def sentinel2_passes() -> tuple[Acquisition, ...]:
    """Passes of Sentinel-2, relative orbit 94, in spring and summer."""
    return (
        _pass('S2A', '2023-05-03T10:56:21', (155.0, 52.6), 0.0),
        _pass('S2B', '2023-07-17T10:56:29', (150.0, 57.8), 1.0),
    )


def landsat_passes() -> tuple[Acquisition, ...]:
    """Passes of Landsat, a day after and two days before those of Sentinel-2."""
    return (
        _pass('LC08', '2023-05-04T10:39:52', (150.5, 51.9), 0.0),
        _pass('LC09', '2023-07-15T10:40:17', (146.0, 56.6), 1.0),
    )


def spectrometer_passes() -> tuple[Acquisition, ...]:
    """Passes of the imaging spectrometer, two days after and one day after those of Sentinel-2."""
    return (
        _pass('SPEC', '2023-05-05T11:02:44', (157.0, 53.3), 0.0),
        _pass('SPEC', '2023-07-18T11:04:10', (152.5, 58.1), 1.0),
    )


def _pass(code: str, time: str, sun: tuple[float, float], season: float) -> Acquisition:
    """One pass."""
    return Acquisition(PLATFORMS[code], np.datetime64(time, 's'), sun, season)

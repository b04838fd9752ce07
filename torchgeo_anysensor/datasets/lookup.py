# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Rows of an index by time and ground, without a look at all of them."""

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from pyproj import CRS as PROJ_CRS
from torchgeo.datasets import GeoDataset

from .geometry import crs_text, is_geographic, rectangle

# Before any time that nanoseconds can tell
_NEVER = np.iinfo(np.int64).min


class Lookup:
    """An index, sorted by time."""

    def __init__(self, index: GeoDataFrame) -> None:
        """Sort it.

        Args:
            index: Of a dataset.
        """
        self.index = index
        self.crs: PROJ_CRS = index.crs
        self.crs_text = crs_text(index.crs.srs)
        self._plane = not is_geographic(self.crs_text)
        # Lists: a cell of a table takes longer to find
        self.paths: list[str] = index['filepath'].tolist()
        self.combinations = index['combination'].tolist() if 'combination' in index else []
        self._ground = index.geometry.to_numpy()
        left, right = (
            np.asarray(t.as_unit('ns').asi8) for t in (index.index.left, index.index.right)
        )
        self.stops = right  #: nanoseconds since 1970, when each row ends
        self._rows = np.argsort(left, kind='stable')
        self._left, self._right = left[self._rows], right[self._rows]
        self._longest = int((right - left).max(initial=0))
        west, south, east, north = shapely.bounds(self._ground)[self._rows].T
        self._west, self._south, self._east, self._north = west, south, east, north
        area = shapely.area(self._ground)[self._rows]
        self._straight = np.isclose(area, (east - west) * (north - south), rtol=1e-9, atol=0)
        west, south, east, north = index.total_bounds
        self.x, self.y = (west, east), (south, north)
        self.t = index.index.left.min(), index.index.right.max()

    def __call__(
        self, x: slice, y: slice, t: slice
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rows that share ground with a query at its time.

        Args:
            x: From the west to the east edge.
            y: From the south to the north edge.
            t: From the first to the last time; a common instant is enough.

        Returns:
            Rows from the earliest, and the area that each shares.
        """
        start, stop = nanoseconds(t.start), nanoseconds(t.stop)
        first = np.searchsorted(self._left, max(start - self._longest, _NEVER))
        near = slice(first, np.searchsorted(self._left, stop, side='right'))
        # In metres, the antimeridian is far
        ground = None if self._plane else rectangle(x, y, self.crs_text)
        box = (x.start, y.start, x.stop, y.stop) if ground is None else ground.bounds
        west, south, east, north = box
        width = np.minimum(self._east[near], east) - np.maximum(self._west[near], west)
        height = np.minimum(self._north[near], north) - np.maximum(self._south[near], south)
        good = (self._right[near] >= start) & (width > 0) & (height > 0)
        rows, shared = self._rows[near][good], (width * height)[good]
        if ground is not None or not self._straight[near][good].all():
            ground = rectangle(x, y, self.crs_text) if ground is None else ground
            shared = shapely.area(shapely.intersection(self._ground[rows], ground))
        return rows[shared > 0], shared[shared > 0]  # a common edge alone is no answer


class IndexedDataset(GeoDataset):
    """A dataset that finds rows, its own bounds and CRS without a look at the whole index.

    To change the index, put another one in its place, or set :attr:`crs`.
    """

    _lookup: Lookup | None = None

    @property
    def lookup(self) -> Lookup:
        """The index, sorted; anew where another one was put in its place."""
        if self._lookup is None or self._lookup.index is not self.index:
            self._lookup = Lookup(self.index)
        return self._lookup

    @property
    def bounds(self) -> tuple[slice, slice, slice]:
        """Bounds of the index: x, y and t."""
        known, (xres, yres) = self.lookup, self.res
        return slice(*known.x, xres), slice(*known.y, yres), slice(*known.t, 1)

    @property
    def crs(self) -> PROJ_CRS:
        """CRS of the index."""
        return self.lookup.crs

    @crs.setter
    def crs(self, new_crs: PROJ_CRS) -> None:
        """Put the index, and the size of a pixel, into another CRS."""
        GeoDataset.crs.__set__(self, new_crs)  # type: ignore[attr-defined]
        self._lookup = None  # the index is changed in place


def nanoseconds(time: pd.Timestamp) -> int:
    """Nanoseconds since 1970."""
    return int(pd.Timestamp(time).as_unit('ns').value)

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Rows of an index by time and ground, without a look at all of them."""

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from torchgeo.datasets import GeoDataset

from .geometry import crs_text, rectangle

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
        self.crs = index.crs
        self.crs_text = crs_text(index.crs.srs)
        self._ground = index.geometry.to_numpy()
        left, right = (
            np.asarray(t.as_unit('ns').asi8) for t in (index.index.left, index.index.right)
        )
        self._rows = np.argsort(left, kind='stable')
        self._left, self._right = left[self._rows], right[self._rows]
        self._longest = int((right - left).max(initial=0))
        self._west, self._south, self._east, self._north = shapely.bounds(self._ground)[
            self._rows
        ].T
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
        ground = rectangle(x, y, self.crs_text)
        west, south, east, north = ground.bounds
        start, stop = _nanoseconds(t.start), _nanoseconds(t.stop)
        first = np.searchsorted(self._left, max(start - self._longest, _NEVER))
        near = slice(first, np.searchsorted(self._left, stop, side='right'))
        good = (self._right[near] >= start) & (self._west[near] < east) & (self._east[near] > west)
        good &= (self._south[near] < north) & (self._north[near] > south)
        rows = self._rows[near][good]
        shared = shapely.area(shapely.intersection(self._ground[rows], ground))
        return rows[shared > 0], shared[shared > 0]  # a common edge alone is no answer


class IndexedDataset(GeoDataset):
    """A dataset that finds rows and its own bounds without a look at the whole index."""

    _lookup: Lookup | None = None

    @property
    def lookup(self) -> Lookup:
        """The index, sorted; anew where it was exchanged or put into another CRS."""
        known, index = self._lookup, self.index
        if known is None or known.index is not index or known.crs is not index.crs:
            known = self._lookup = Lookup(index)
        return known

    @property
    def bounds(self) -> tuple[slice, slice, slice]:
        """Bounds of the index: x, y and t."""
        known, (xres, yres) = self.lookup, self.res
        return slice(*known.x, xres), slice(*known.y, yres), slice(*known.t, 1)


def _nanoseconds(time: pd.Timestamp) -> int:
    """Nanoseconds since 1970."""
    return int(pd.Timestamp(time).as_unit('ns').value)

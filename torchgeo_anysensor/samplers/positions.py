# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Squares on a lattice that lie inside of a region."""

import math
from collections.abc import Iterable

import numpy as np
import shapely
from numpy.typing import NDArray

from ..datasets.geometry import Lattice

# Footprints that went through a projection miss their corners by less than this.
_SLACK_M = 0.01
# Their sides are chords there, which miss those of a tile of 110 km by less than this.
_CHORD_M = 0.1


def on_lattice(
    bounds: tuple[float, float, float, float],
    lattice: Lattice,
    *,
    step: float,
    size: float,
    flush: bool = False,
    shift: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.float64]:
    """Positions ``(n, 2)`` of squares within bounds: left and top, in rows from the north.

    With *flush*, the last position of each axis is the farthest on the lattice that fits. The first
    lies a *shift* from the edge, where there is room.
    """
    if not all(map(math.isfinite, bounds)):  # an empty region
        return np.empty((0, 2))
    west, south, east, north = bounds

    def axis(low: float, high: float, shift: float) -> NDArray[np.float64]:
        """Distances from the lattice point at or after *low*, up to *high*."""
        first = math.ceil((low - _SLACK_M) / lattice.step) * lattice.step
        last = math.floor((high - size + _SLACK_M) / lattice.step) * lattice.step
        if last < first:
            return np.empty(0)
        first += shift if first + shift <= last else 0
        values = np.arange(first, last + lattice.step / 2, step)
        return np.append(values, last) if flush and values[-1] < last else values

    lefts = lattice.x + axis(west - lattice.x, east - lattice.x, shift[0])
    tops = lattice.y - axis(lattice.y - north, lattice.y - south, shift[1])
    return np.stack(np.meshgrid(lefts, tops), axis=-1).reshape(-1, 2)


def concatenate(positions: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    """One array ``(n, 2)`` of many or none."""
    return np.concatenate([np.empty((0, 2)), *positions])


def inside(
    positions: NDArray[np.float64], region: shapely.Geometry, size: float
) -> NDArray[np.float64]:
    """Positions of squares that the region covers."""
    west, south, east, north = region.bounds
    left, top = positions.T
    if region.area >= (1 - 1e-12) * (east - west) * (north - south):  # a box
        good = (left >= west - _SLACK_M) & (left + size <= east + _SLACK_M)
        return positions[good & (top - size >= south - _SLACK_M) & (top <= north + _SLACK_M)]
    squares = shapely.box(
        left + _CHORD_M, top - size + _CHORD_M, left + size - _CHORD_M, top - _CHORD_M
    )
    shapely.prepare(region)
    return positions[shapely.covers(region, squares)]


def in_blocks(
    place: float,
    low: float,
    high: float,
    *,
    width: float,
    block: float,
    step: float,
    rng: np.random.Generator,
) -> float | None:
    """Beginning of a stretch near a place that lies in as few blocks of a file as its width allows.

    Each run of so many blocks of which one holds the place is equally likely, and in it each point
    of the lattice. All lengths are metres from the corner of the file, along one axis.

    Args:
        place: In one of the blocks.
        low: Where the ground begins, which the stretch must not leave.
        high: Where the ground ends.
        width: Of the stretch.
        block: Width of a block.
        step: Between points of the lattice.
        rng: Source of chance.

    Returns:
        A multiple of *step*, or None if no such stretch fits.
    """
    # Between blocks that begin off the lattice, a stretch may have to begin a step later
    slack = 0.0 if math.isclose(block / step, round(block / step)) else step
    blocks = math.ceil((width + slack - _SLACK_M) / block)
    for turn in rng.permutation(blocks).tolist():
        first = math.floor(place / block) - turn
        begin = max(first * block, low)
        end = min((first + blocks) * block, high)
        points = (
            math.ceil((begin - _SLACK_M) / step),
            math.floor((end - width + _SLACK_M) / step) + 1,
        )
        if points[0] < points[1]:
            return int(rng.integers(*points)) * step
    return None


def widest(regions: Iterable[shapely.Geometry]) -> float:
    """Shorter side of the largest part of ground, in metres."""
    widest = 0.0
    for region in regions:
        for part in shapely.get_parts(region):
            if part.area > 0:
                west, south, east, north = part.bounds
                widest = max(widest, min(east - west, north - south))
    return widest

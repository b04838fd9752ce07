# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""An invented landscape: fields, forests, a river and a lake, wetland, roads and a town.

Everything is drawn on cells of :data:`CELL_M`, at angles that no pixel grid follows, so that
pixels of 10 m and more are mixed along every edge.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .fields import Field, fractal

#: Side of a cell in metres; divides the corner of every grid, Landsat's 15 m included
CELL_M = 5

WATER, BROADLEAF, CONIFER, GRASS, CEREAL, LEGUME, BARE, BUILT, WETLAND = range(1, 10)

# Sides of a field in cells
_FIELD_SIDE = (20, 64)


@dataclass(frozen=True, slots=True)
class Landscape:
    """What covers the ground of a place, on fine cells, north up."""

    classes: NDArray[np.uint8]  #: ``(N, N)`` codes of ``LAND_COVER``
    parcels: NDArray[np.int32]  #: ``(N, N)`` number of the field; 0 outside of fields
    relief: Field  #: ``(N, N)`` height, no unit


@dataclass(frozen=True, slots=True)
class _Frame:
    """A turned frame: coordinates in cells along and across, with bends."""

    along: Field
    across: Field


def _frame(rng: np.random.Generator, *, size: int, bend: float) -> _Frame:
    """Frame at a random angle through the middle of the place."""
    angle = np.deg2rad(rng.uniform(12, 78))
    axis = (np.arange(size) - size / 2).astype(np.float32)
    x, y = axis[None, :], axis[:, None]
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
    for _ in range(3):
        period = size * rng.uniform(0.25, 0.8)
        phase = rng.uniform(0, 2 * np.pi)
        across = across + np.float32(bend / 3) * np.sin(along * (2 * np.pi / period) + phase)
    return _Frame(along.astype(np.float32), across.astype(np.float32))


def _split(rng: np.random.Generator, *, side: int) -> NDArray[np.int32]:
    """Number the rectangles of a square that is cut again and again."""
    canvas = np.zeros((side, side), dtype=np.int32)
    stack = [(0, side, 0, side)]
    count = 0
    low, high = _FIELD_SIDE
    while stack:
        top, bottom, left, right = stack.pop()
        height, width = bottom - top, right - left
        longest = max(height, width)
        if longest < 2 * low or (longest < high and rng.random() < 0.45):
            count += 1
            canvas[top:bottom, left:right] = count
            continue
        share = rng.uniform(0.35, 0.65)
        if height >= width:
            cut = top + max(low, round(height * share))
            stack += [(top, cut, left, right), (cut, bottom, left, right)]
        else:
            cut = left + max(low, round(width * share))
            stack += [(top, bottom, left, cut), (top, bottom, cut, right)]
    return canvas


def _fields(rng: np.random.Generator, *, size: int) -> NDArray[np.int32]:
    """Number of the field of every cell, with straight and slightly bent edges."""
    frame = _frame(rng, size=size, bend=size * 0.02)
    side = int(size * 1.6)
    canvas = _split(rng, side=side)
    row = np.clip((frame.across + side / 2).astype(np.int32), 0, side - 1)
    column = np.clip((frame.along + side / 2).astype(np.int32), 0, side - 1)
    return canvas[row, column]


def _crops(rng: np.random.Generator, parcels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """One crop for each field."""
    crops = np.array([GRASS, CEREAL, LEGUME, BARE], dtype=np.uint8)
    choice = rng.choice(crops, size=int(parcels.max()) + 1, p=[0.26, 0.32, 0.24, 0.18])
    return choice[parcels]


def _distance(frame: _Frame, *, along: float, across: float) -> Field:
    """Distance to a point given in a frame."""
    return np.hypot(frame.along - np.float32(along), frame.across - np.float32(across))


def _town(
    rng: np.random.Generator, classes: NDArray[np.uint8], *, ragged: Field
) -> NDArray[np.bool_]:
    """Draw a town: streets around blocks, houses and gardens in them. Returns its area."""
    size = classes.shape[0]
    frame = _frame(rng, size=size, bend=size * 0.01)
    radius = 0.14 * size
    where = rng.uniform(-0.12, 0.12, 2) * size
    distance = _distance(frame, along=float(where[0]), across=float(where[1]))
    depth = 1 - distance / (radius * (1 + 0.22 * ragged))
    inside = depth > 0
    row = np.floor(frame.across).astype(np.int64)
    column = np.floor(frame.along).astype(np.int64)
    # Lots of 4 cells; a street of 2 cells every 16
    lots = rng.random((size, size), dtype=np.float32)
    lot = lots[(row // 4) % size, (column // 4) % size]
    classes[inside] = GRASS
    classes[inside & (lot < 0.10)] = BROADLEAF
    classes[inside & (lot > 0.48 - 0.38 * np.clip(2 * depth, 0, 1))] = BUILT
    streets = (row % 16 < 2) | (column % 22 < 2)
    classes[inside & streets] = BUILT
    # A park
    park = _distance(frame, along=float(where[0]) + 0.5 * radius, across=float(where[1]))
    park = park / (1 + 0.35 * ragged)
    classes[park < 0.22 * radius] = GRASS
    classes[park < 0.12 * radius] = BROADLEAF
    return inside


def _waters(
    rng: np.random.Generator, classes: NDArray[np.uint8], *, ragged: Field
) -> NDArray[np.bool_]:
    """Draw a river with wet banks and a lake. Returns the river and the lake."""
    size = classes.shape[0]
    river = _frame(rng, size=size, bend=size * 0.12)
    offset = rng.choice([-1, 1]) * rng.uniform(0.20, 0.26) * size
    bank = np.abs(river.across - np.float32(offset))
    width = max(0.010 * size, 3.5)
    lake = _distance(river, along=rng.uniform(-0.3, 0.3) * size, across=-0.8 * offset)
    shore = lake / (0.075 * size * (1 + 0.3 * ragged))
    wet = (bank < width + 0.05 * size * np.clip(ragged, 0, 1.2)) | (
        (shore >= 1) & (shore < 1 + 0.7 * np.clip(ragged + 0.4, 0, 1))
    )
    classes[wet] = WETLAND
    water = (bank < width * (1 + 0.15 * ragged)) | (shore < 1)
    classes[water] = WATER
    return water


def _roads(rng: np.random.Generator, classes: NDArray[np.uint8]) -> None:
    """Draw roads of 10 to 15 m; they cross the river on bridges."""
    size = classes.shape[0]
    for half_width in (1.5, 1.0, 1.0):
        road = _frame(rng, size=size, bend=size * 0.03)
        offset = np.float32(rng.uniform(-0.2, 0.2) * size)
        classes[np.abs(road.across - offset) < half_width] = BUILT


def make_landscape(rng: np.random.Generator, *, size: int) -> Landscape:
    """Invent a landscape.

    Args:
        rng: Source of everything random.
        size: Cells along a side.
    """
    parcels = _fields(rng, size=size)
    classes = _crops(rng, parcels)
    forest = fractal(rng, size=size, largest=size / 4, smallest=8, slope=2.0)
    kind = fractal(rng, size=size, largest=size / 5, smallest=10, slope=2.2)
    ragged = fractal(rng, size=size, largest=size / 8, smallest=6, slope=2.0)
    wooded = forest > np.quantile(forest, 0.74)
    classes[wooded] = np.where(kind > np.median(kind[wooded]), CONIFER, BROADLEAF)[wooded]
    built = _town(rng, classes, ragged=ragged)
    water = _waters(rng, classes, ragged=ragged)
    _roads(rng, classes)
    fields = np.isin(classes, (GRASS, CEREAL, LEGUME, BARE)) & ~built & ~water
    relief = fractal(rng, size=size, largest=size / 2, smallest=20, slope=2.6)
    return Landscape(classes, np.where(fields, parcels, 0).astype(np.int32), relief)

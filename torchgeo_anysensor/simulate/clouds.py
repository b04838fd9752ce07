# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Clouds and their shadows over a place."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .fields import Field, box_mean, fractal

# Opacity and shadow above which a cell is not ground any more
_SEEN = 0.02


@dataclass(frozen=True, slots=True)
class Clouds:
    """Clouds of one acquisition, on fine cells."""

    opacity: Field  #: ``(N, N)`` 0 clear to 1
    shadow: Field  #: ``(N, N)`` 0 lit to 1
    texture: Field  #: ``(N, N)`` brightness of the cloud, about 1

    @property
    def cloudy(self) -> NDArray[np.bool_]:
        """Cells with any cloud."""
        return self.opacity > _SEEN

    @property
    def shaded(self) -> NDArray[np.bool_]:
        """Cells with any shadow, under a cloud or not."""
        return self.shadow > _SEEN


def make_clouds(
    rng: np.random.Generator, *, size: int, cover: float, sun: tuple[float, float], cell_m: float
) -> Clouds:
    """Cumulus clouds with soft edges.

    Args:
        rng: Source of everything random.
        size: Cells along a side.
        cover: Share of the place under cloud; 0 is none.
        sun: Azimuth and elevation in degrees.
        cell_m: Side of a cell.
    """
    if cover <= 0:
        none = np.zeros((size, size), dtype=np.float32)
        return Clouds(none, none, none + 1)
    field = fractal(rng, size=size, largest=size / 6, smallest=10, slope=2.2)
    texture = 1 + 0.05 * fractal(rng, size=size, largest=size / 10, smallest=6, slope=1.6)
    threshold = np.quantile(field, 1 - cover)
    opacity = np.clip((field - threshold) / 0.22, 0, 1).astype(np.float32)
    # A cloud at this height throws its shadow away from the sun; in a small place, clouds are
    # lower, so that shadow and cloud are both inside
    azimuth, elevation = np.deg2rad(sun)
    height_m = rng.uniform(500, 900) * min(1, size * cell_m / 6000)
    reach = height_m / np.tan(elevation) / cell_m
    shift = (round(reach * np.cos(azimuth)), round(-reach * np.sin(azimuth)))
    # The field repeats beyond the edges, so clouds outside throw their shadows into the place
    shadow = np.roll(opacity, shift, axis=(0, 1))
    return Clouds(opacity, box_mean(shadow, 5), texture.astype(np.float32))

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""From what could be seen on fine cells to the pixels of a grid."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..sensors import Band
from .classes import LAND_COVER
from .fields import Field, area_mean, block_any, dilate, majority
from .landcover import CELL_M
from .responses import noise_sigma
from .scene import Scene, see

type Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Flags:
    """What the quality band of a product tells of each pixel."""

    missing: Mask  #: outside of the swath
    cloud: Mask  #: any cloud in the pixel
    dense: Mask  #: cloud over most of the pixel
    shadow: Mask  #: any shadow in the pixel and no cloud
    near: Mask  #: next to a cloud or shadow and neither
    cover: NDArray[np.uint8]  #: most frequent class on the ground

    @property
    def cloud_percent(self) -> float:
        """Share of pixels under cloud."""
        seen = ~self.missing
        return 100 * float((self.cloud & seen).sum()) / max(int(seen.sum()), 1)


def pixel_flags(scene: Scene, *, region: slice, res: float) -> Flags:
    """Quality of the pixels of a grid.

    Args:
        scene: The scene.
        region: Fine cells that the grid covers, in both directions.
        res: Side of a pixel in metres.
    """
    factor = round(res / CELL_M)
    window = (region, region)
    cloud = block_any(scene.clouds.cloudy[window], factor)
    shadow = block_any(scene.clouds.shaded[window], factor) & ~cloud
    around = dilate(cloud | shadow, steps=max(1, round(60 / res)))
    return Flags(
        missing=block_any(scene.missing[window], factor),
        cloud=cloud,
        dense=area_mean(scene.clouds.opacity[window], factor) > 0.6,
        shadow=shadow,
        near=around & ~cloud & ~shadow,
        cover=majority(scene.ground.classes[window], factor=factor, count=max(LAND_COVER) + 1),
    )


def pixels(scene: Scene, band: Band, *, region: slice, res: float) -> Field:
    """Noise-free pixels of a band: the mean over the ground of each pixel.

    Args:
        scene: The scene.
        band: A band of the satellite.
        region: Fine cells that the grid covers, in both directions.
        res: Side of a pixel in metres.
    """
    return area_mean(see(scene, band)[region, region], round(res / CELL_M))


def noisy(
    values: Field, *, scene: Scene, band: Band, rng: np.random.Generator, averaged: float = 1
) -> Field:
    """Pixels with the noise of the instrument.

    Args:
        values: Noise-free pixels, in the band's unit.
        scene: Where the pixels come from.
        band: The band.
        rng: Source of the noise.
        averaged: Number of native pixels that a pixel is the mean of.
    """
    acquisition = scene.acquisition
    sigma = noise_sigma(
        band,
        platform=acquisition.platform,
        reflectance=values,
        sun_elevation_deg=acquisition.sun[1],
    )
    noise = rng.standard_normal(values.shape, dtype=np.float32)
    return values + sigma / np.float32(np.sqrt(averaged)) * noise


def repeat(values: Field, factor: int) -> Field:
    """Every pixel as *factor* x *factor* finer ones."""
    return values.repeat(factor, axis=0).repeat(factor, axis=1)

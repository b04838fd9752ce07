# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Write the products of Harmonized Landsat Sentinel-2 (HLS) v2.0, S30 and L30."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..sensors import Band, get_sensor
from .fields import Field, generator
from .landcover import WATER
from .landsat import landsat_name
from .place import Place
from .raster import to_dn, write_tif
from .safe import safe_name
from .sampling import Flags, noisy, pixel_flags, pixels, repeat
from .scene import Scene

_RES = 30


def fmask(flags: Flags) -> NDArray[np.uint8]:
    """Bits of Fmask: 1 cloud, 2 next to it, 3 shadow, 5 water, 6-7 aerosol (low); 255 is fill."""
    bits = np.full(flags.cloud.shape, 1 << 6, dtype=np.uint8)
    bits[flags.cover == WATER] |= 1 << 5
    bits[flags.near] |= 1 << 2
    bits[flags.shadow] |= 1 << 3
    bits[flags.cloud] |= 1 << 1
    bits[flags.missing] = 255
    return bits


def _seen(scene: Scene, band: Band, *, place: Place, rng: np.random.Generator) -> Field:
    """Pixels of a band with noise: HLS averages pixels finer than 30 m, and repeats coarser ones.

    The small changes that HLS makes to reflectance (nadir view, Sentinel-2 moved towards OLI) are
    left out: both depend on facts that a simulated scene lacks.
    """
    if band.unit == 'reflectance' and band.gsd_m > _RES:
        coarse = pixels(scene, band, region=place.inner, res=band.gsd_m)
        coarse = noisy(coarse, scene=scene, band=band, rng=rng)
        return repeat(coarse, round(band.gsd_m / _RES))
    clean = pixels(scene, band, region=place.inner, res=_RES)
    native = {b.name: b.gsd_m for b in get_sensor('sentinel2_l1c').bands}
    is_msi = scene.acquisition.platform.code.startswith('S2')
    averaged = (_RES / native[band.name]) ** 2 if is_msi else 1.0
    return noisy(clean, scene=scene, band=band, rng=rng, averaged=averaged)


def write_hls(root: Path, scene: Scene, *, place: Place, seed: int) -> Path:
    """Write one product: S30 if the satellite is a Sentinel-2, L30 if it is a Landsat.

    Args:
        root: Folder that gets the product.
        scene: What the satellite could see.
        place: The place.
        seed: Seed of the noise.

    Returns:
        The product folder.
    """
    acquisition = scene.acquisition
    kind = 'S30' if acquisition.platform.code.startswith('S2') else 'L30'
    sensor = get_sensor(f'hls_{kind.lower()}')
    day, clock = str(acquisition.time).split('T')
    first = np.datetime64(f'{day[:4]}-01-01')
    number = int((np.datetime64(day) - first).astype(int)) + 1
    date = f'{day[:4]}{number:03}T{clock.replace(":", "")}'
    name = f'HLS.{kind}.T{place.tile}.{date}.v2.0'
    folder = root / name
    folder.mkdir(parents=True)
    grid = place.grid(_RES)
    flags = pixel_flags(scene, region=place.inner, res=_RES)
    # The Level-1 product that it is made of
    source = (
        {'PRODUCT_URI': safe_name(place, scene).replace('L2A', 'L1C')}
        if kind == 'S30'
        else {'LANDSAT_PRODUCT_ID': landsat_name(place, scene).replace('L2SP', 'L1TP')}
    )
    for band in sensor.bands:
        rng = generator(seed, name, band.name)
        dn = to_dn(
            _seen(scene, band, place=place, rng=rng),
            band=band,
            dtype='int16',
            nodata=sensor.nodata,
            missing=flags.missing,
        )
        tags = source | {
            'scale_factor': f'{band.scale:g}',
            'add_offset': f'{band.offset:g}',
            'SENSING_TIME': f'{acquisition.time}.0240000Z',
            'SENTINEL2_TILEID': place.tile,
            'MEAN_SUN_ZENITH_ANGLE': f'{90 - acquisition.sun[1]:.4f}',
            'MEAN_SUN_AZIMUTH_ANGLE': f'{acquisition.sun[0]:.4f}',
            'cloud_coverage': f'{flags.cloud_percent:.0f}',
        }
        path = folder / f'{name}.{band.name}.tif'
        write_tif(path, dn, grid=grid, nodata=sensor.nodata, tags=tags)
    write_tif(folder / f'{name}.Fmask.tif', fmask(flags), grid=grid, nodata=255)
    return folder

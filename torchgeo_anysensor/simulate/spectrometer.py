# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Write what an imaging spectrometer sees: a file with all bands for each pass, and their table."""

import csv
from dataclasses import fields
from pathlib import Path

import numpy as np

from ..sensors import Band
from .fields import generator
from .place import Place
from .raster import to_dn, write_tif
from .sampling import noisy, pixel_flags, pixels
from .scene import Scene

RES = 30
NODATA = -32768
#: First and last wavelength and distance of the bands in um, which is also their width. The range,
#: the pixels and the noise are those of EnMAP, its bands joined two by two; where the air hides the
#: ground (1.34 to 1.45 and 1.79 to 1.97 um) there are none.
_STRETCHES = (
    (0.420, 0.990, 0.015),
    (1.010, 1.335, 0.025),
    (1.460, 1.785, 0.025),
    (1.980, 2.430, 0.025),
)


def _bands() -> tuple[Band, ...]:
    """The bands, by rising wavelength."""
    centers = [
        (round(float(center), 4), step)
        for low, high, step in _STRETCHES
        for center in np.arange(low, high + step / 2, step)
    ]
    return tuple(
        Band(f'S{number:02}', None, center, width, RES, 1e-4, 0.0)
        for number, (center, width) in enumerate(centers, start=1)
    )


BANDS = _bands()


def write_band_table(folder: Path) -> None:
    """Write ``bands.csv``, which :func:`~..sensors.read_sensor` reads."""
    names = [field.name for field in fields(Band)]
    with (folder / 'bands.csv').open('w', newline='') as file:
        rows = csv.writer(file, lineterminator='\n')
        rows.writerow(names)
        for band in BANDS:
            values = [getattr(band, name) for name in names]
            rows.writerow('' if value is None else value for value in values)


def write_spectrometer(root: Path, scene: Scene, *, place: Place, seed: int) -> Path:
    """Write one pass; pixels without a clear view of the ground are no data.

    Args:
        root: Folder that gets the file.
        scene: What the satellite could see.
        place: The place.
        seed: Seed of the noise.

    Returns:
        The file.
    """
    flags = pixel_flags(scene, region=place.inner, res=RES)
    hidden = flags.missing | flags.cloud | flags.shadow
    day = str(scene.acquisition.time)[:10].replace('-', '')
    name = f'SPECTROMETER_{place.tile}_{day}'
    planes = []
    for band in BANDS:
        clean = pixels(scene, band, region=place.inner, res=RES)
        seen = noisy(clean, scene=scene, band=band, rng=generator(seed, name, band.name))
        planes.append(to_dn(seen, band=band, dtype='int16', nodata=NODATA, missing=hidden))
    path = root / f'{name}.tif'
    write_tif(path, np.stack(planes), grid=place.grid(RES), nodata=NODATA)
    return path

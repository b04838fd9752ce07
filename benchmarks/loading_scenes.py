# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Scenes to load from: product trees of full bands with texture that compresses as real ground does.

Sentinel-2 Level-1C (13 bands on grids of 10, 20 and 60 m), Landsat 8 Level-2 on its own grid, 15 m
off, and HLS S30, all in one UTM zone and seen at one time; Landsat of the same ground in the next
zone; Sentinel-2 as JPEG 2000. Deflate in blocks of 512 pixels, with the predictor. The names of the
Sentinel-2 folders tell the processing baseline, and so the calibration; TorchGeo would want more of
a metadata file than is worth writing.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds

from torchgeo_anysensor.sensors import SENSORS

EPSG, NEXT_ZONE = 32632, 32633
LEFT, TOP = 679_980, 4_900_020  # on multiples of 60 m, near the edge of zone 32
#: Acquisitions whose pixels differ; later dates are these again.
DISTINCT = 3

S2_BANDS = SENSORS['sentinel2_l1c'].band_names
LANDSAT_BANDS = SENSORS['landsat_c2l2'].band_names
HLS_BANDS = SENSORS['hls_s30'].band_names

_DEFLATE = {'compress': 'deflate', 'tiled': True, 'blockxsize': 512, 'blockysize': 512}
_JP2 = {'QUALITY': 100, 'REVERSIBLE': 'YES', 'blockxsize': 1024, 'blockysize': 1024}


@dataclass(frozen=True)
class Scenes:
    """Scenes of one place.

    Folders are ``sentinel2``, ``landsat``, ``hls``, ``landsat_next_zone`` and ``sentinel2_jp2``.
    """

    root: Path
    km: float  #: width of the Sentinel-2 tile
    dates: int

    @property
    def times(self) -> pd.DatetimeIndex:
        """Of the acquisitions."""
        return pd.date_range('2020-06-14T10:15:59', periods=self.dates, freq='10D')

    @cached_property
    def files(self) -> dict[str, list[dict[str, Path]]]:
        """Folder to the files of each date, by band; quality bands are the last."""
        names = {
            'sentinel2': [*S2_BANDS, 'CLASSI_B00'],
            'landsat': [*LANDSAT_BANDS, 'QA_PIXEL', 'QA_RADSAT'],
            'hls': [*HLS_BANDS, 'Fmask'],
        }
        names |= {'landsat_next_zone': names['landsat'], 'sentinel2_jp2': names['sentinel2']}
        return {
            folder: [self._of(folder, bands, time) for time in self.times]
            for folder, bands in names.items()
        }

    def _of(self, folder: str, bands: Sequence[str], time: pd.Timestamp) -> dict[str, Path]:
        """Files of one date."""
        names = [f'{time:%Y%m%dT%H%M%S}_', f'.{time:%Y%jT%H%M%S}.', f'_{time:%Y%m%d}_2021']
        paths = [p for p in (self.root / folder).rglob('*.*') if any(n in str(p) for n in names)]
        ends = {path.stem: path for path in paths}
        return {
            band: path
            for band in bands
            for stem, path in ends.items()
            if stem.endswith((f'_{band}', f'.{band}'))
        }


def write_scenes(root: Path, *, km: float, dates: int, jp2: bool = False, seed: int = 0) -> Scenes:
    """Write the scenes; dates beyond the third are links to the files of the first three.

    Args:
        root: An empty folder.
        km: Width of the Sentinel-2 tile, rounded to multiples of 60 m.
        dates: Acquisitions of each sensor, ten days apart.
        jp2: Also write the first Sentinel-2 product as lossless JPEG 2000.
        seed: Of the texture.
    """
    scenes = Scenes(root, km, dates)
    size = round(km * 1000 / 60) * 60
    rng = np.random.default_rng(seed)
    fields = np.stack([_texture(rng, size // 10) for _ in range(3)])
    cloud = fields[0] > 1.5
    for number, time in enumerate(scenes.times):
        plans = _plans(root, time, size, first=number == 0, jp2=jp2 and number == 0)
        for path, (band, res, corner, epsg, shape) in plans.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if number >= DISTINCT:
                source = _same(path, time, scenes.times[number % DISTINCT])
                os.link(source, path)
                continue
            image = _pixels(fields, cloud, band=band, res=res, shape=shape, rng=rng)
            _write(path, image, res=res, corner=corner, epsg=epsg)
    return scenes


_Plan = tuple[str, int, tuple[float, float], int, tuple[int, int]]


def _plans(
    root: Path, time: pd.Timestamp, size: int, *, first: bool, jp2: bool
) -> Mapping[Path, _Plan]:
    """Band, pixel size, corner, CRS and shape of each file of one date."""
    plans: dict[Path, _Plan] = {}
    date = f'{time:%Y%m%dT%H%M%S}'
    for folder, extension in [('sentinel2', 'tif'), ('sentinel2_jp2', 'jp2')][: 1 + jp2]:
        safe = root / folder / f'S2A_MSIL1C_{date}_N0509_R065_T32TPQ_20220101T000000.SAFE'
        granule = safe / 'GRANULE' / f'L1C_T32TPQ_A026000_{date}'
        for band in SENSORS['sentinel2_l1c'].bands:
            res = int(band.gsd_m)
            path = granule / 'IMG_DATA' / f'T32TPQ_{date}_{band.name}.{extension}'
            plans[path] = band.name, res, (LEFT, TOP), EPSG, (size // res,) * 2
        path = granule / 'QI_DATA' / f'MSK_CLASSI_B00.{extension}'
        plans[path] = 'MSK_CLASSI', 60, (LEFT, TOP), EPSG, (size // 60,) * 2
    name = f'HLS.S30.T32TPQ.{time:%Y%jT%H%M%S}.v2.0'
    for band in (*HLS_BANDS, 'Fmask'):
        path = root / 'hls' / name / f'{name}.{band}.tif'
        plans[path] = band, 30, (LEFT, TOP), EPSG, (size // 30,) * 2
    name = f'LC08_L2SP_192029_{time:%Y%m%d}_20210101_02_T1'
    places = {'landsat': (EPSG, LEFT - 1515, TOP + 1515, size // 30 + 101, size // 30 + 101)}
    if first:
        bounds = transform_bounds(EPSG, NEXT_ZONE, LEFT, TOP - size, LEFT + size, TOP)
        west, south, east, north = (round(edge / 30) * 30 + 15 for edge in bounds)
        n, m = round((north - south) / 30) + 200, round((east - west) / 30) + 200
        places['landsat_next_zone'] = NEXT_ZONE, west - 3000, north + 3000, n, m
    for folder, (epsg, left, top, *shape) in places.items():
        for band in (*LANDSAT_BANDS, 'QA_PIXEL', 'QA_RADSAT'):
            path = root / folder / name / f'{name}_{band}.TIF'
            plans[path] = band, 30, (left, top), epsg, (shape[0], shape[1])
    return plans


def _same(path: Path, time: pd.Timestamp, source: pd.Timestamp) -> Path:
    """The file of another date."""
    text = str(path)
    for form in ('%Y%m%dT%H%M%S', '%Y%jT%H%M%S', '%Y%m%d'):
        text = text.replace(f'{time:{form}}', f'{source:{form}}')
    return Path(text)


def _texture(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    """Noise of which the amplitude falls with the frequency to the power 1.4, as over land."""
    wave = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None])
    wave[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((n, n))) * wave**-1.4, (n, n))
    return (field / field.std()).astype('float32')


def _pixels(
    fields: NDArray[np.float32],
    cloud: NDArray[np.bool_],
    *,
    band: str,
    res: int,
    shape: tuple[int, int],
    rng: np.random.Generator,
) -> NDArray:
    """Digital numbers or codes of a band."""
    n = res // 10
    side = fields.shape[-1] // n * n
    rows, cols = (np.arange(length) % (side // n) for length in shape)
    if band in ('MSK_CLASSI', 'QA_PIXEL', 'QA_RADSAT', 'Fmask'):
        hidden = cloud[:side:n, :side:n][np.ix_(rows, cols)]
        clear, hid, kind = {
            'MSK_CLASSI': (0, 1, 'uint8'),
            'QA_PIXEL': (21824, 22280, 'uint16'),
            'QA_RADSAT': (0, 0, 'uint16'),
            'Fmask': (64, 2, 'uint8'),
        }[band]
        codes = np.where(hidden, hid, clear).astype(kind)
        return np.stack([codes, 0 * codes, 0 * codes]) if band == 'MSK_CLASSI' else codes[None]
    mix = np.tensordot(rng.uniform(-1, 1, 3).astype('float32'), fields[:, :side, :side], 1)
    mean = mix.reshape(side // n, n, side // n, n).mean(axis=(1, 3), dtype='float32')
    landsat = band in LANDSAT_BANDS
    level, spread, noise = (14_000, 2500, 90) if landsat else (2500, 700, 25)
    image = level + spread * mean[np.ix_(rows, cols)]
    image += noise * rng.standard_normal(shape, dtype='float32')
    return image.clip(1, 30_000).round().astype('uint16')[None]


def _write(path: Path, image: NDArray, *, res: int, corner: tuple[float, float], epsg: int) -> None:
    """Write one file."""
    jp2 = path.suffix == '.jp2'
    options = _JP2 if jp2 else _DEFLATE | {'predictor': 2}
    if path.parts[-3] == 'hls' and image.dtype == 'uint16':
        image = image.astype('int16')
    with rasterio.open(
        path,
        'w',
        driver='JP2OpenJPEG' if jp2 else 'GTiff',
        count=len(image),
        height=image.shape[1],
        width=image.shape[2],
        dtype=image.dtype,
        crs=f'EPSG:{epsg}',
        transform=from_origin(*corner, res, res),
        num_threads='all_cpus',
        **options,
    ) as dst:
        dst.write(image)

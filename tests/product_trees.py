# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""A small world of product trees whose pixels say where they lie.

Bands take turns: the bands at even places of a sensor's table hold the easting of the pixel's
centre, those at odd places the northing, at two digital numbers a metre (see :func:`encode`). A
linear field, so that the truth after an area average or a bilinear resampling is known as well.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.crs import CRS

from torchgeo_anysensor.datasets.grid import Grid
from torchgeo_anysensor.sensors import SENSORS

EPSG = 32632
LEFT, TOP = 600_000.0, 4_900_020.0  # a tile corner, on multiples of 60 m
SIZE = 1200.0  # metres along each side of a tile
BASE, STEP, PER_METRE = 8000, 10, 2  # clear of nodata, and in the valid range of every product

Edit = Callable[[np.ndarray], Any]
#: What was written before, by pixels and options: most trees hold the same files.
_FILES: dict[tuple[Any, ...], bytes] = {}


def encode(place: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Digital number of the band at *place* of the table for a pixel centred at (x, y)."""
    metres = x - LEFT if place % 2 == 0 else y - TOP
    return BASE + STEP * place + PER_METRE * metres


def decode(place: int, dn: np.ndarray) -> np.ndarray:
    """Easting or northing that a digital number tells."""
    return (dn - BASE - STEP * place) / PER_METRE + (LEFT if place % 2 == 0 else TOP)


def centres(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Eastings and northings ``(H, W)`` of the pixel centres."""
    x = grid.left + (np.arange(grid.width) + 0.5) * grid.xres
    y = grid.top - (np.arange(grid.height) + 0.5) * grid.yres
    xs, ys = np.meshgrid(x, y)
    return xs, ys


def make_grid(
    left: float, top: float, res: float, shape: tuple[int, int], *, epsg: int = EPSG
) -> Grid:
    """Square pixels."""
    return Grid(CRS.from_epsg(epsg), left, top, res, res, shape[1], shape[0])


def write_raster(path: Path, data: np.ndarray, grid: Grid, **profile: Any) -> Path:
    """Write ``(C, H, W)`` or ``(H, W)`` on a grid."""
    data = data if data.ndim == 3 else data[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {'driver': 'GTiff', 'dtype': str(data.dtype), 'crs': grid.crs} | profile
    shape = {'count': len(data), 'height': data.shape[1], 'width': data.shape[2]}
    options |= shape | {'transform': grid.transform}
    key = (data.tobytes(), *options.items())
    if key in _FILES:
        path.write_bytes(_FILES[key])
        return path
    with rasterio.open(path, 'w', **options) as dst:
        dst.write(data)
    if options['driver'] == 'GTiff':  # others may write a second file beside it
        _FILES[key] = path.read_bytes()
    return path


@dataclass
class World:
    """Builder of product trees under one folder.

    All builders take ``left`` and ``top`` (corner in metres), ``size`` (metres), ``epsg``,
    ``bands`` to write fewer, and ``edit``: from a band to a function that changes its array in
    place, with a suffix ``_20`` where it is for the file of one grid alone.
    """

    root: Path

    def bands(
        self,
        sensor: str,
        path_of: Callable[[str, float], Path],
        grids: Mapping[str, Sequence[float]],
        *,
        qa_value: int,
        dtype: str = 'uint16',
        left: float = LEFT,
        top: float = TOP,
        size: float = SIZE,
        epsg: int = EPSG,
        bands: Sequence[str] | None = None,
        edit: Mapping[str, Edit] | None = None,
        profile: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the files of one acquisition."""
        table, edit = SENSORS[sensor], edit or {}
        for band, sizes in grids.items():
            if bands is not None and band not in bands:
                continue
            for res in sizes:
                n = round(size / res)
                grid = make_grid(left, top, res, (n, n), epsg=epsg)
                if band in {qa.band for qa in table.qa}:
                    kind = 'uint16' if band.startswith('QA_') else 'uint8'
                    value = 0 if band == 'QA_RADSAT' else qa_value
                    data = np.full((n, n), value, dtype=kind)
                else:
                    place = table.band_names.index(band)
                    data = np.round(encode(place, *centres(grid))).astype(dtype)
                for key in (band, f'{band}_{res:g}'):
                    if key in edit:
                        edit[key](data)
                write_raster(path_of(band, res), data, grid, **(profile or {}))

    def sentinel2_l2a(
        self,
        time: str = '20200614T101559',
        *,
        tile: str | None = None,
        platform: str = 'S2A',
        baseline: str = '0509',
        offset: int | None = -1000,
        xml: str | None = None,
        extension: str = 'tif',
        **options: Any,
    ) -> Path:
        """A Level-2A tree; *offset* None leaves the list of offsets out of the metadata."""
        tile = tile or mgrs(options)
        safe = self.root / f'{platform}_MSIL2A_{time}_N{baseline}_R065_{tile}_20220101T000000.SAFE'
        images = safe / 'GRANULE' / f'L2A_{tile}_A026000_{time}' / 'IMG_DATA'
        table = SENSORS['sentinel2_l2a']
        grids = {b.name: [r for r in (10, 20, 60) if r >= b.gsd_m] for b in table.bands}
        grids |= {'B08': [10], 'SCL': [20, 60]}

        def path_of(band: str, res: float) -> Path:
            return images / f'R{res:g}m' / f'{tile}_{time}_{band}_{res:g}m.{extension}'

        self.bands('sentinel2_l2a', path_of, grids, qa_value=4, **options)
        metadata = s2_metadata(safe.name, offset) if xml is None else xml
        if metadata:
            (safe / 'MTD_MSIL2A.xml').write_text(metadata)
        return safe

    def sentinel2_l1c(
        self,
        time: str = '20200614T101559',
        *,
        tile: str | None = None,
        platform: str = 'S2A',
        baseline: str = '0509',
        offset: int | None = -1000,
        xml: str | None = None,
        extension: str = 'tif',
        clouds: Sequence[tuple[str, str]] = (),
        **options: Any,
    ) -> Path:
        """A Level-1C tree, with the cloud mask of its baseline.

        *clouds* are kinds and rings of polygons, ``('OPAQUE', 'x y x y ...')``, for baselines
        before 04.00.
        """
        tile = tile or mgrs(options)
        safe = self.root / f'{platform}_MSIL1C_{time}_N{baseline}_R065_{tile}_20220101T000000.SAFE'
        granule = safe / 'GRANULE' / f'L1C_{tile}_A026000_{time}'
        grids = {b.name: [b.gsd_m] for b in SENSORS['sentinel2_l1c'].bands}

        def path_of(band: str, res: float) -> Path:
            return granule / 'IMG_DATA' / f'{tile}_{time}_{band}.{extension}'

        self.bands('sentinel2_l1c', path_of, grids, qa_value=0, **options)
        if baseline >= '0400':
            left, top = options.get('left', LEFT), options.get('top', TOP)
            n = round(options.get('size', SIZE) / 60)
            masks = np.zeros((3, n, n), dtype='uint8')
            options.get('edit', {}).get('MSK_CLASSI', lambda data: None)(masks)
            grid = make_grid(left, top, 60, (n, n), epsg=options.get('epsg', EPSG))
            write_raster(granule / 'QI_DATA' / f'MSK_CLASSI_B00.{extension}', masks, grid)
        else:
            mask = granule / 'QI_DATA' / 'MSK_CLOUDS_B00.gml'
            mask.parent.mkdir(parents=True, exist_ok=True)
            mask.write_text(cloud_polygons(clouds))
        metadata = s2_metadata(safe.name, offset) if xml is None else xml
        if metadata:
            (safe / 'MTD_MSIL1C.xml').write_text(metadata)
        return safe

    def landsat_c2l2(
        self,
        date: str = '20200614',
        *,
        time: str | None = '10:04:31.1234560Z',
        pathrow: str = '193029',
        prefix: str = 'LC08_L2SP',
        tier: str = 'T1',
        left: float = LEFT - 15,
        top: float = TOP + 15,
        size: float = SIZE + 30,
        **options: Any,
    ) -> Path:
        """A Level-2 scene on Landsat's own grid; *time* None leaves the MTL file out."""
        product = f'{prefix}_{pathrow}_{date}_20210101_02_{tier}'
        folder = self.root / product
        bands = (*SENSORS['landsat_c2l2'].band_names, 'QA_PIXEL', 'QA_RADSAT')
        self.bands(
            'landsat_c2l2',
            lambda band, _: folder / f'{product}_{band}.TIF',
            {band: [30] for band in bands},
            qa_value=0b1000000,
            left=left,
            top=top,
            size=size,
            **options,
        )
        if time is not None:
            (folder / f'{product}_MTL.txt').write_text(mtl(date, time))
        return folder

    def landsat_c2l1(
        self,
        date: str = '20200614',
        *,
        prefix: str = 'LC09_L1TP',
        tier: str = 'T1',
        time: str | None = '10:04:31.1234560Z',
        left: float = LEFT - 15,
        top: float = TOP + 15,
        size: float = SIZE + 30,
        **options: Any,
    ) -> Path:
        """A Level-1 scene with the panchromatic band at 15 m."""
        product = f'{prefix}_193029_{date}_20210101_02_{tier}'
        folder = self.root / product
        names = (*SENSORS['landsat_c2l1'].band_names, 'QA_PIXEL', 'QA_RADSAT')
        self.bands(
            'landsat_c2l1',
            lambda band, _: folder / f'{product}_{band}.TIF',
            {band: [15 if band == 'B8' else 30] for band in names},
            qa_value=0b1000000,
            left=left,
            top=top,
            size=size,
            **options,
        )
        if time is not None:
            (folder / f'{product}_MTL.txt').write_text(mtl(date, time))
        return folder

    def hls(
        self,
        product: str = 'S30',
        time: str = '2020166T101559',
        *,
        tile: str | None = None,
        tags: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Path:
        """A granule of HLS S30 or L30; *tags* go into all its files."""
        tile = tile or mgrs(options)
        sensor, name = f'hls_{product.lower()}', f'HLS.{product}.{tile}.{time}.v2.0'
        folder = self.root / name
        bands = (*SENSORS[sensor].band_names, 'Fmask')
        self.bands(
            sensor,
            lambda band, _: folder / f'{name}.{band}.tif',
            {band: [30] for band in bands},
            qa_value=0b01100000,
            dtype='int16',
            **options,
        )
        for path in folder.iterdir() if tags else ():
            with rasterio.open(path, 'r+') as dst:
                dst.update_tags(**tags)
        return folder


def mgrs(options: Mapping[str, Any]) -> str:
    """A tile of the zone that the options ask for."""
    return f'T{options.get("epsg", EPSG) % 100:02d}TPQ'


def s2_metadata(product: str, offset: int | None, *, extra: str = '') -> str:
    """What a dataset reads of ``MTD_MSIL*.xml``: one quantification value, 13 offsets."""
    platform, level, time, baseline, _, tile, _ = product.split('_')
    boa = level == 'MSIL2A'
    prefix, quantification = ('BOA', 'BOA_') if boa else ('RADIO', '')
    offsets = ''.join(
        f'<{prefix}_ADD_OFFSET band_id="{i}">{offset}</{prefix}_ADD_OFFSET>'
        for i in range(13 if offset is not None else 0)
    )
    start = f'{time[:4]}-{time[4:6]}-{time[6:8]}T{time[9:11]}:{time[11:13]}:{time[13:15]}.024Z'
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<n1:Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/Product.xsd">'
        '<n1:General_Info><Product_Info>'
        f'<PROCESSING_LEVEL>Level-{level[-2:]}</PROCESSING_LEVEL>'
        f'<PROCESSING_BASELINE>{baseline[1:3]}.{baseline[3:]}</PROCESSING_BASELINE>'
        f'<SPACECRAFT_NAME>Sentinel-{platform[1:]}</SPACECRAFT_NAME>'
        f'<DATATAKE_SENSING_START>{start}</DATATAKE_SENSING_START>'
        f'<IMAGE_FILE>GRANULE/{level[-3:]}_{tile}_A026000_{time}/IMG_DATA/{tile}_{time}_B02</IMAGE_FILE>'
        '</Product_Info><Product_Image_Characteristics>'
        f'<{quantification}QUANTIFICATION_VALUE unit="none">10000</{quantification}QUANTIFICATION_VALUE>'
        f'<AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE>{offsets}'
        f'</Product_Image_Characteristics></n1:General_Info>{extra}</n1:Product>'
    )


def cloud_polygons(clouds: Sequence[tuple[str, str]]) -> str:
    """``MSK_CLOUDS_B00.gml`` with one feature for each kind and ring."""
    features = ''.join(
        f'<eop:MaskFeature><eop:maskType>{kind}</eop:maskType><eop:extentOf><gml:Polygon>'
        f'<gml:exterior><gml:LinearRing><gml:posList srsDimension="2">{ring}</gml:posList>'
        '</gml:LinearRing></gml:exterior></gml:Polygon></eop:extentOf></eop:MaskFeature>'
        for kind, ring in clouds
    )
    members = f'<eop:maskMembers>{features}</eop:maskMembers>' if clouds else ''
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<eop:Mask xmlns:eop="http://www.opengis.net/eop/2.0" '
        f'xmlns:gml="http://www.opengis.net/gml/3.2">{members}</eop:Mask>'
    )


def mtl(date: str, time: str, extra: Sequence[str] = ()) -> str:
    """What a dataset reads of ``*_MTL.txt``, with the thermal numbers of a real Landsat 9 scene.

    *extra* are lines that go before those of the same name.
    """
    lines = [
        *extra,
        f'DATE_ACQUIRED = {date[:4]}-{date[4:6]}-{date[6:]}',
        f'SCENE_CENTER_TIME = "{time}"',
        'SUN_ELEVATION = 30.00000000',
        *(f'REFLECTANCE_MULT_BAND_{n} = 2.0000E-05' for n in range(1, 10)),
        *(f'REFLECTANCE_ADD_BAND_{n} = -0.100000' for n in range(1, 10)),
        'RADIANCE_MULT_BAND_10 = 3.8000E-04',
        'RADIANCE_MULT_BAND_11 = 3.4900E-04',
        'RADIANCE_ADD_BAND_10 = 0.10000',
        'RADIANCE_ADD_BAND_11 = 0.10000',
        'K1_CONSTANT_BAND_10 = 799.0284',
        'K2_CONSTANT_BAND_10 = 1329.2405',
        'K1_CONSTANT_BAND_11 = 475.6581',
        'K2_CONSTANT_BAND_11 = 1198.3494',
    ]
    body = '\n'.join(f'    {line}' for line in lines)
    return (
        'GROUP = LANDSAT_METADATA_FILE\n  GROUP = IMAGE_ATTRIBUTES\n'
        f'{body}\n  END_GROUP = IMAGE_ATTRIBUTES\n'
        # A Level-2 file repeats names of its Level-1 source further down
        '  GROUP = LEVEL1\n    SUN_ELEVATION = 89.0\n  END_GROUP = LEVEL1\nEND_GROUP\nEND\n'
    )

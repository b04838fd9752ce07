# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Write a Landsat 8 or 9 Collection 2 Level-2 product."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..sensors import Band, get_sensor
from .fields import generator
from .landcover import WATER
from .place import Place
from .raster import to_dn, write_tif
from .sampling import Flags, noisy, pixel_flags, pixels
from .scene import Scene

_RES = 30
_WHOLE = slice(None)
# QA_PIXEL, LSDS-1619 table 6-3. Confidences of cloud, shadow, snow and cirrus have two bits each,
# from bits 8, 10, 12 and 14; 1 is low and 3 high
_CLEAR, _WATER_BIT = 1 << 6, 1 << 7
_LOW = (1 << 8) + (1 << 10) + (1 << 12) + (1 << 14)
_HIGH_CLOUD, _HIGH_SHADOW = 2 << 8, 2 << 10


def landsat_name(place: Place, scene: Scene) -> str:
    """Product identifier."""
    day = scene.acquisition.time.astype('datetime64[D]')
    made = day + np.timedelta64(9, 'D')
    path, row = place.path_row
    dates = '_'.join(str(date).replace('-', '') for date in (day, made))
    return f'{scene.acquisition.platform.code}_L2SP_{path:03}{row:03}_{dates}_02_T1'


def qa_pixel(flags: Flags) -> NDArray[np.uint16]:
    """Bits of QA_PIXEL: 0 fill, 1 dilated cloud, 3 cloud, 4 shadow, 6 clear, 7 water."""
    qa = np.full(flags.cloud.shape, _LOW + _CLEAR, dtype=np.uint16)
    qa[flags.near] = _LOW + (1 << 1)
    qa[flags.shadow] = _LOW + _CLEAR + _HIGH_SHADOW + (1 << 4)
    qa[flags.cover == WATER] += _WATER_BIT
    qa[flags.cloud] = _LOW + _HIGH_CLOUD + (1 << 3)
    qa[flags.missing] = 1
    return qa


def write_landsat(root: Path, scene: Scene, *, place: Place, seed: int) -> Path:
    """Write one product.

    Args:
        root: Folder that gets the product.
        scene: What Landsat could see.
        place: The place.
        seed: Seed of the noise.

    Returns:
        The product folder.
    """
    sensor = get_sensor('landsat_c2l2')
    name = landsat_name(place, scene)
    folder = root / name
    folder.mkdir(parents=True)
    grid = place.grid(_RES, margin=True)
    flags = pixel_flags(scene, region=_WHOLE, res=_RES)
    # As in the real files, the raster says that its coordinates are of pixel centres
    tags = {'AREA_OR_POINT': 'Point'}
    for band in sensor.bands:
        clean = pixels(scene, band, region=_WHOLE, res=_RES)
        rng = generator(seed, 'landsat', place.number, str(scene.acquisition.time), band.name)
        dn = to_dn(
            noisy(clean, scene=scene, band=band, rng=rng),
            band=band,
            dtype='uint16',
            nodata=sensor.nodata,
            missing=flags.missing,
        )
        path = folder / f'{name}_{band.name}.TIF'
        write_tif(path, dn, grid=grid, nodata=sensor.nodata, tags=tags)
    write_tif(folder / f'{name}_QA_PIXEL.TIF', qa_pixel(flags), grid=grid, nodata=1, tags=tags)
    radsat = np.zeros(flags.missing.shape, dtype=np.uint16)  # nothing is saturated or occluded
    write_tif(folder / f'{name}_QA_RADSAT.TIF', radsat, grid=grid, tags=tags)
    (folder / f'{name}_MTL.txt').write_text(_metadata(name, place=place, scene=scene, flags=flags))
    return folder


def _metadata(name: str, *, place: Place, scene: Scene, flags: Flags) -> str:
    """Text of the MTL file, in the object description language of USGS."""
    return _odl(
        'LANDSAT_METADATA_FILE',
        {
            'PRODUCT_CONTENTS': _contents(name),
            'IMAGE_ATTRIBUTES': _attributes(scene, place=place, flags=flags),
            'PROJECTION_ATTRIBUTES': _projection(place, shape=flags.cloud.shape),
            'LEVEL2_SURFACE_REFLECTANCE_PARAMETERS': _scaling('reflectance', 'REFLECTANCE'),
            'LEVEL2_SURFACE_TEMPERATURE_PARAMETERS': _scaling('kelvin', 'TEMPERATURE'),
        },
    )


def _key(band: Band) -> str:
    """Name of a band in the MTL: BAND_1 for SR_B1, BAND_ST_B10 for ST_B10."""
    return band.name.replace('SR_B', 'BAND_').replace('ST_B', 'BAND_ST_B')


def _contents(name: str) -> dict[str, str]:
    """Identity and files of the product."""
    files = {_key(band): band.name for band in get_sensor('landsat_c2l2').bands} | {
        'QUALITY_L1_PIXEL': 'QA_PIXEL',
        'QUALITY_L1_RADIOMETRIC_SATURATION': 'QA_RADSAT',
    }
    return {
        'LANDSAT_PRODUCT_ID': f'"{name}"',
        'PROCESSING_LEVEL': '"L2SP"',
        'COLLECTION_NUMBER': '02',
        'COLLECTION_CATEGORY': '"T1"',
        'OUTPUT_FORMAT': '"GEOTIFF"',
        **{f'FILE_NAME_{key}': f'"{name}_{suffix}.TIF"' for key, suffix in files.items()},
    }


def _attributes(scene: Scene, *, place: Place, flags: Flags) -> dict[str, str]:
    """Satellite, time, sun and clouds."""
    acquisition = scene.acquisition
    day, clock = str(acquisition.time).split('T')
    return {
        'SPACECRAFT_ID': f'"{acquisition.platform.title}"',
        'SENSOR_ID': '"OLI_TIRS"',
        'WRS_TYPE': '2',
        'WRS_PATH': str(place.path_row[0]),
        'WRS_ROW': str(place.path_row[1]),
        'DATE_ACQUIRED': day,
        'SCENE_CENTER_TIME': f'"{clock}.0240000Z"',
        'CLOUD_COVER': f'{flags.cloud_percent:.2f}',
        'SUN_AZIMUTH': f'{acquisition.sun[0]:.8f}',
        'SUN_ELEVATION': f'{acquisition.sun[1]:.8f}',
    }


def _projection(place: Place, *, shape: tuple[int, ...]) -> dict[str, str]:
    """Position and size."""
    grid = place.grid(_RES, margin=True)
    return {
        'MAP_PROJECTION': '"UTM"',
        'DATUM': '"WGS84"',
        'ELLIPSOID': '"WGS84"',
        'UTM_ZONE': str(grid.epsg % 100),
        'GRID_CELL_SIZE_REFLECTIVE': f'{_RES:.2f}',
        'REFLECTIVE_LINES': str(shape[0]),
        'REFLECTIVE_SAMPLES': str(shape[1]),
        'ORIENTATION': '"NORTH_UP"',
        # Of the centre of the first pixel
        'CORNER_UL_PROJECTION_X_PRODUCT': f'{grid.left + _RES / 2:.3f}',
        'CORNER_UL_PROJECTION_Y_PRODUCT': f'{grid.top - _RES / 2:.3f}',
    }


def _scaling(unit: str, quantity: str) -> dict[str, str]:
    """Scale and offset of the bands of one unit."""
    bands = [band for band in get_sensor('landsat_c2l2').bands if band.unit == unit]
    return {f'{quantity}_MULT_{_key(band)}': f'{band.scale:g}' for band in bands} | {
        f'{quantity}_ADD_{_key(band)}': f'{band.offset:.1f}' for band in bands
    }


def _odl(name: str, groups: dict[str, dict[str, str]]) -> str:
    """Nested groups as text."""
    rows = [f'GROUP = {name}']
    for group, entries in groups.items():
        rows.append(f'  GROUP = {group}')
        rows += [f'    {key} = {value}' for key, value in entries.items()]
        rows.append(f'  END_GROUP = {group}')
    rows += [f'END_GROUP = {name}', 'END', '']
    return '\n'.join(rows)

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Harmonized Landsat Sentinel-2 (HLS) version 2.0, as LP DAAC delivers it.

S30 and L30 use the same band names for different light: ``B05`` is red edge on S30 and near
infrared on L30. They are two sensors, and never one.

Names, scales, fill and Fmask bits are from the HLS v2.0 User Guide.

All files are on one 30 m grid. ``gsd_m`` is 30, except where the instrument sees less than that:
60 m for B01, B09 and B10 of MSI, 100 m for the bands of TIRS.

The wavelengths are those of the instrument that took the picture: MSI in S30, OLI and TIRS in L30.
Which platform it was stands in the tags of the files, not in their names. HLS moves S30 reflectance
a little towards OLI, by a linear fit for each platform, in the bands that both have (not the red
edge, B08, B09, B10); the light that was measured stays what it is.
"""

from dataclasses import replace

from .base import QA, Band, Sensor
from .landsat import OLI_TIRS_CODES, light, oli_tirs_platforms
from .sentinel2 import MSI_BANDS, MSI_CODES, MSI_PLATFORMS

# Bits of Fmask: 1 cloud, 2 next to cloud or shadow, 3 cloud shadow. Bit 0 (cirrus) is reserved and
# not used in v2.0. Kept: 4 (snow and ice: a surface), 5 (water), 6-7 (aerosol level). The fill
# value 255 has all bits set, and so is bad without a rule of its own.
_FMASK = QA(band='Fmask', bad_bits=(1, 2, 3), fill=255)

_SCALE = 1e-4


def _granule(product: str) -> str:
    """Pattern of a granule's name."""
    return (
        rf'^(?P<product>HLS\.{product}\.(?P<tile>T\d{{2}}[A-Z]{{3}})'
        r'\.(?P<date>\d{7}T\d{6})\.v2\.0)'
    )


def _oli(number: int, common_name: str) -> Band:
    """A band of nadir surface reflectance, but of the top of the atmosphere for cirrus (B09)."""
    return Band(f'B{number:02}', common_name, *light(number), 30, _SCALE, 0.0)


def _tirs(number: int, common_name: str) -> Band:
    """A thermal band, at the top of the atmosphere, unlike ST_B10 of Landsat Level-2."""
    return Band(f'B{number}', common_name, *light(number), 100, 0.01, 0.0, 'celsius')


HLS_S30 = Sensor(
    name='hls_s30',
    title='HLS v2.0 S30 (Sentinel-2)',
    level='surface',
    # Nadir surface reflectance, but of the top of the atmosphere for B09 and B10
    bands=tuple(
        replace(band, gsd_m=max(band.gsd_m, 30), scale=_SCALE, offset=0.0) for band in MSI_BANDS
    ),
    nodata=-9999,
    qa=(_FMASK,),
    filename_regex=rf"""
        {_granule('S30')}
        \.(?P<band>B0[1-9]|B8A|B1[0-2]|Fmask)
        \.tif$
    """,
    date_format='%Y%jT%H%M%S',
    source='HLS v2.0 User Guide, COPE-GSEG-EOPG-TN-15-0007',
    platforms=MSI_PLATFORMS,
    platform_codes=MSI_CODES,
)

HLS_L30 = Sensor(
    name='hls_l30',
    title='HLS v2.0 L30 (Landsat 8-9)',
    level='surface',
    bands=(
        _oli(1, 'coastal'),
        _oli(2, 'blue'),
        _oli(3, 'green'),
        _oli(4, 'red'),
        _oli(5, 'nir08'),
        _oli(6, 'swir16'),
        _oli(7, 'swir22'),
        _oli(9, 'cirrus'),
        _tirs(10, 'lwir11'),
        _tirs(11, 'lwir12'),
    ),
    nodata=-9999,
    qa=(_FMASK,),
    filename_regex=rf"""
        {_granule('L30')}
        \.(?P<band>B0[1-7]|B09|B1[01]|Fmask)
        \.tif$
    """,
    date_format='%Y%jT%H%M%S',
    source='HLS v2.0 User Guide, LSDS-1574, doi:10.3390/rs61010232, NASA L9_OLI2_Ball_BA_RSR.v2',
    platforms=oli_tirs_platforms({n: f'B{n:02}' for n in (*range(1, 8), 9, 10, 11)}),
    platform_codes=OLI_TIRS_CODES,
)

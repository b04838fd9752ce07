# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Landsat 8 and 9 OLI/TIRS, Collection 2, as USGS delivers it.

Names, scales and QA bits are from the Level 2 Science Product Guide (USGS LSDS-1619) and the Level
1 Data Format Control Book (LSDS-1822). For wavelengths and widths see the table below.

``gsd_m`` of a thermal band is what TIRS measures, 100 m. USGS resamples it to the 30 m grid of OLI,
so the file has pixels of 30 m; a dataset takes the grid from the file.
"""

from .base import QA, Band, Sensor

# Centre wavelength and FWHM in um on Landsat 8 and 9, by the number of the band. The centre is
# halfway between the edges at half of the maximum.
# OLI: Barsi et al. 2014 (doi:10.3390/rs61010232). TIRS: the band edges in the Landsat 8 Data Users
# Handbook (LSDS-1574), given to 0.01 um; the measured response has 0.58 and 1.00 um of width.
# OLI-2: NASA's table of the responses of version 2 (L9_OLI2_Ball_BA_RSR.v2). TIRS-2: computed from
# its band-average response (L9_TIRS2_Relative_Spectral_Responses.BA.v1.0), as no table is known.
_LIGHT = {
    1: ((0.44296, 0.01598), (0.44281, 0.01551)),
    2: ((0.48204, 0.06004), (0.48189, 0.05987)),
    3: ((0.56141, 0.05733), (0.56095, 0.05650)),
    4: ((0.65459, 0.03747), (0.65432, 0.03688)),
    5: ((0.86467, 0.02825), (0.86464, 0.02877)),
    6: ((1.60886, 0.08472), (1.60815, 0.08615)),
    7: ((2.20073, 0.18666), (2.20012, 0.18948)),
    8: ((0.58950, 0.17240), (0.58932, 0.17247)),
    9: ((1.37343, 0.02039), (1.37413, 0.02090)),
    10: ((10.895, 0.59), (10.826, 0.746)),
    11: ((12.005, 1.01), (12.037, 0.918)),
}

OLI_TIRS_CODES = {
    f'{sensor}0{number}': f'landsat-{number}' for number in (8, 9) for sensor in ('LC', 'LO', 'LT')
}

# The lowest bits of QA_PIXEL: 0 fill, 1 dilated cloud, 2 cirrus, 3 cloud, 4 cloud shadow.
# Bit 5, snow, is a surface and is kept, as are 6 (clear) and 7 (water). Fill has bit 0 alone.
_QA_PIXEL = QA(band='QA_PIXEL', bad_bits=(0, 1, 2, 3, 4), fill=1)


def light(number: int) -> tuple[float, float]:
    """Centre wavelength and FWHM in um of an OLI or TIRS band of Landsat 8."""
    return _LIGHT[number][0]


def oli_tirs_platforms(names: dict[int, str]) -> dict[str, dict[str, tuple[float, float]]]:
    """What the platforms see differently from the first.

    Args:
        names: Number of a band to its name in the product.
    """
    return {
        'landsat-8': {},
        'landsat-9': {name: _LIGHT[number][1] for number, name in names.items()},
    }


def _radsat(names: dict[int, str]) -> QA:
    """Saturation of each band, and ground that the terrain hides from the sensor (bit 11).

    Bit n - 1 is of band n, for 1 to 7 and 9. Bands 8, 10 and 11 have none. Level 2 carries the file
    of Level 1, with the bit of band 9, which it does not have.
    """
    numbers = [number for number in names if number <= 7 or number == 9]
    bits = tuple((names[number], number - 1) for number in numbers)
    return QA(band='QA_RADSAT', bad_bits=(11,), band_bits=bits)


def _product(level: str, *, instruments: str) -> str:
    """Pattern of a product's name, of which the first of the dates is the acquisition."""
    return rf"""
        ^(?P<product>
            (?P<platform>L[{instruments}]0[89])_{level}_(?P<tile>\d{{6}})
            _(?P<date>\d{{8}})_\d{{8}}_02_(?:T1|T2|RT)
        )
    """


def _sr(number: int, common_name: str) -> Band:
    """A band of Level-2 surface reflectance."""
    return Band(f'SR_B{number}', common_name, *light(number), 30, 2.75e-5, -0.2)


def _toa(number: int, common_name: str, gsd_m: float = 30) -> Band:
    """A band of Level-1 reflectance, still to be divided by the sine of the sun's elevation."""
    return Band(f'B{number}', common_name, *light(number), gsd_m, 2e-5, -0.1)


_L2_NAMES = {number: f'SR_B{number}' for number in range(1, 8)} | {10: 'ST_B10'}
_L2_PRODUCT = _product('L2S[PR]', instruments='CO')

LANDSAT_C2L2 = Sensor(
    name='landsat_c2l2',
    title='Landsat 8-9 C2 Level-2',
    level='surface',
    bands=(
        _sr(1, 'coastal'),
        _sr(2, 'blue'),
        _sr(3, 'green'),
        _sr(4, 'red'),
        _sr(5, 'nir08'),
        _sr(6, 'swir16'),
        _sr(7, 'swir22'),
        Band('ST_B10', 'lwir11', *light(10), 100, 0.00341802, 149.0, 'kelvin'),
    ),
    nodata=0,
    qa=(_QA_PIXEL, _radsat(_L2_NAMES)),
    filename_regex=rf"""
        {_L2_PRODUCT}
        _(?P<band>SR_B[1-7]|ST_B10|QA_PIXEL|QA_RADSAT)
        \.(?:TIF|tif)$
    """,
    date_format='%Y%m%d',
    source='USGS LSDS-1619, LSDS-1574, doi:10.3390/rs61010232, NASA L9_OLI2_Ball_BA_RSR.v2',
    archive_regex=rf'{_L2_PRODUCT}\.tar$',
    metadata_regex=rf'{_L2_PRODUCT}_MTL\.(?:txt|json|xml)$',
    platforms=oli_tirs_platforms(_L2_NAMES),
    platform_codes=OLI_TIRS_CODES,
)

_L1_NAMES = {number: f'B{number}' for number in _LIGHT}
_L1_PRODUCT = _product('L1(?:TP|GT|GS)', instruments='COT')

LANDSAT_C2L1 = Sensor(
    name='landsat_c2l1',
    title='Landsat 8-9 C2 Level-1',
    level='top of atmosphere',
    bands=(
        _toa(1, 'coastal'),
        _toa(2, 'blue'),
        _toa(3, 'green'),
        _toa(4, 'red'),
        _toa(5, 'nir08'),
        _toa(6, 'swir16'),
        _toa(7, 'swir22'),
        _toa(8, 'pan', 15),
        _toa(9, 'cirrus'),
        # Here DN * scale + offset is radiance in W m-2 sr-1 um-1, with the gain of Landsat 8.
        # Gain, K1 and K2 are in the MTL of the scene (Landsat 9: 3.8e-4 and 3.49e-4), and the
        # inverse Planck function K2 / ln(K1 / radiance + 1) then gives kelvin, at the sensor.
        Band('B10', 'lwir11', *light(10), 100, 3.342e-4, 0.1, 'kelvin'),
        Band('B11', 'lwir12', *light(11), 100, 3.342e-4, 0.1, 'kelvin'),
    ),
    nodata=0,
    qa=(_QA_PIXEL, _radsat(_L1_NAMES)),
    filename_regex=rf"""
        {_L1_PRODUCT}
        _(?P<band>B[1-9]|B1[01]|QA_PIXEL|QA_RADSAT)
        \.(?:TIF|tif)$
    """,
    date_format='%Y%m%d',
    source='USGS LSDS-1822, LSDS-1574, doi:10.3390/rs61010232, NASA L9_OLI2_Ball_BA_RSR.v2',
    archive_regex=rf'{_L1_PRODUCT}\.tar$',
    metadata_regex=rf'{_L1_PRODUCT}_MTL\.(?:txt|json|xml)$',
    platforms=oli_tirs_platforms(_L1_NAMES),
    platform_codes=OLI_TIRS_CODES,
)

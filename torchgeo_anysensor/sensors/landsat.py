# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Landsat 8 and 9 OLI/TIRS, Collection 2, as USGS delivers it.

Names, scales and QA bits are from the Level 2 Science Product Guide (USGS LSDS-1619) and the Level
1 Data Format Control Book (LSDS-1822). Wavelengths and widths are those of Landsat 8: OLI from
Barsi et al. 2014 (doi:10.3390/rs61010232), TIRS from the band edges in the Landsat 8 Data Users
Handbook (LSDS-1574). OLI-2 on Landsat 9 agrees within 3 nm. TIRS-2 is further off: its B10 lies
0.07 um lower and is 0.75 um wide.

``gsd_m`` of a thermal band is what TIRS measures, 100 m. USGS resamples it to the 30 m grid of OLI,
so the file has pixels of 30 m; a dataset takes the grid from the file.
"""

from .base import QA, Band, Sensor

# The lowest bits of QA_PIXEL: 0 fill, 1 dilated cloud, 2 cirrus, 3 cloud, 4 cloud shadow.
# Bit 5, snow, is a surface and is kept, as are 6 (clear) and 7 (water).
_QA_PIXEL = QA(band='QA_PIXEL', bad_bits=(0, 1, 2, 3, 4))


def _sr(name: str, common_name: str, center_wavelength_um: float, fwhm_um: float) -> Band:
    """A band of Level-2 surface reflectance."""
    return Band(name, common_name, center_wavelength_um, fwhm_um, 30, 2.75e-5, -0.2)


def _toa(
    name: str, common_name: str, center_wavelength_um: float, fwhm_um: float, gsd_m: float = 30
) -> Band:
    """A band of Level-1 reflectance, still to be divided by the sine of the sun's elevation."""
    return Band(name, common_name, center_wavelength_um, fwhm_um, gsd_m, 2e-5, -0.1)


LANDSAT_C2L2 = Sensor(
    name='landsat_c2l2',
    title='Landsat 8-9 C2 Level-2',
    bands=(
        _sr('SR_B1', 'coastal', 0.44296, 0.01598),
        _sr('SR_B2', 'blue', 0.48204, 0.06004),
        _sr('SR_B3', 'green', 0.56141, 0.05733),
        _sr('SR_B4', 'red', 0.65459, 0.03747),
        _sr('SR_B5', 'nir08', 0.86467, 0.02825),
        _sr('SR_B6', 'swir16', 1.60886, 0.08472),
        _sr('SR_B7', 'swir22', 2.20073, 0.18666),
        Band('ST_B10', 'lwir11', 10.895, 0.59, 100, 0.00341802, 149.0, 'kelvin'),
    ),
    nodata=0,
    qa=_QA_PIXEL,
    filename_glob='L[CO]0[89]_L2S[PR]_*.[Tt][Ii][Ff]',
    # Of the two dates, the first is the acquisition and the second the processing
    filename_regex=r"""
        ^(?P<product>
            L[CO]0[89]_L2S[PR]_\d{6}_(?P<date>\d{8})_\d{8}_02_(?:T1|T2|RT)
        )
        _(?P<band>SR_B[1-7]|ST_B10|QA_PIXEL)
        \.(?:TIF|tif)$
    """,
    date_format='%Y%m%d',
    source='USGS LSDS-1619, LSDS-1574, doi:10.3390/rs61010232',
)

LANDSAT_C2L1 = Sensor(
    name='landsat_c2l1',
    title='Landsat 8-9 C2 Level-1',
    bands=(
        _toa('B1', 'coastal', 0.44296, 0.01598),
        _toa('B2', 'blue', 0.48204, 0.06004),
        _toa('B3', 'green', 0.56141, 0.05733),
        _toa('B4', 'red', 0.65459, 0.03747),
        _toa('B5', 'nir08', 0.86467, 0.02825),
        _toa('B6', 'swir16', 1.60886, 0.08472),
        _toa('B7', 'swir22', 2.20073, 0.18666),
        _toa('B8', 'pan', 0.58950, 0.17240, 15),
        _toa('B9', 'cirrus', 1.37343, 0.02039),
        # Here DN * scale + offset is radiance in W m-2 sr-1 um-1, with the gain of Landsat 8.
        # Gain, K1 and K2 are in the MTL of the scene (Landsat 9: 3.8e-4 and 3.49e-4), and the
        # inverse Planck function K2 / ln(K1 / radiance + 1) then gives kelvin, at the sensor.
        Band('B10', 'lwir11', 10.895, 0.59, 100, 3.342e-4, 0.1, 'kelvin'),
        Band('B11', 'lwir12', 12.005, 1.01, 100, 3.342e-4, 0.1, 'kelvin'),
    ),
    nodata=0,
    qa=_QA_PIXEL,
    filename_glob='L[COT]0[89]_L1[TG]?_*.[Tt][Ii][Ff]',
    filename_regex=r"""
        ^(?P<product>
            L[COT]0[89]_L1(?:TP|GT|GS)_\d{6}_(?P<date>\d{8})_\d{8}_02_(?:T1|T2|RT)
        )
        _(?P<band>B[1-9]|B1[01]|QA_PIXEL)
        \.(?:TIF|tif)$
    """,
    date_format='%Y%m%d',
    source='USGS LSDS-1822, LSDS-1574, doi:10.3390/rs61010232',
)

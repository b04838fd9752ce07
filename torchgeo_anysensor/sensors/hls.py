# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Harmonized Landsat Sentinel-2 (HLS) version 2.0, as LP DAAC delivers it.

S30 and L30 use the same band names for different light: ``B05`` is red edge on S30 and near
infrared on L30. They are two sensors, and never one.

Names, scales, fill and Fmask bits are from the HLS v2.0 User Guide.

All files are on one 30 m grid. ``gsd_m`` is 30, except where the instrument sees less than that:
60 m for B01, B09 and B10 of MSI, 100 m for the bands of TIRS.

The wavelengths are those of the instrument that took the picture: Sentinel-2A in S30 (ESA
COPE-GSEG-EOPG-TN-15-0007), Landsat 8 in L30 (doi:10.3390/rs61010232, USGS LSDS-1574). HLS moves S30
reflectance a little towards OLI, by a linear fit, in the bands that both have (not the red edge,
B08, B09, B10).
"""

from .base import QA, Band, Sensor

# Bits of Fmask: 1 cloud, 2 next to cloud or shadow, 3 cloud shadow. Bit 0 (cirrus) is reserved and
# not used in v2.0. Kept: 4 (snow and ice: a surface), 5 (water), 6-7 (aerosol level). The fill
# value 255 has all bits set, and so is bad without a rule of its own.
_FMASK = QA(band='Fmask', bad_bits=(1, 2, 3))


def _reflectance(
    name: str, common_name: str, center_wavelength_um: float, fwhm_um: float, gsd_m: float = 30
) -> Band:
    """A band of reflectance.

    It is nadir surface reflectance, but that of the top of the atmosphere in the cirrus and water
    vapour bands (B09 and B10 of S30, B09 of L30).
    """
    return Band(name, common_name, center_wavelength_um, fwhm_um, gsd_m, 1e-4, 0.0)


HLS_S30 = Sensor(
    name='hls_s30',
    title='HLS v2.0 S30 (Sentinel-2)',
    bands=(
        _reflectance('B01', 'coastal', 0.4427, 0.020, 60),
        _reflectance('B02', 'blue', 0.4927, 0.065),
        _reflectance('B03', 'green', 0.5598, 0.035),
        _reflectance('B04', 'red', 0.6646, 0.030),
        _reflectance('B05', 'rededge071', 0.7041, 0.014),
        _reflectance('B06', 'rededge075', 0.7405, 0.014),
        _reflectance('B07', 'rededge078', 0.7828, 0.019),
        _reflectance('B08', 'nir', 0.8328, 0.105),
        _reflectance('B8A', 'nir08', 0.8647, 0.021),
        _reflectance('B09', 'nir09', 0.9451, 0.019, 60),
        _reflectance('B10', 'cirrus', 1.3735, 0.029, 60),
        _reflectance('B11', 'swir16', 1.6137, 0.090),
        _reflectance('B12', 'swir22', 2.2024, 0.174),
    ),
    nodata=-9999,
    qa=_FMASK,
    filename_glob='HLS.S30.T*.v2.0.*.tif',
    filename_regex=r"""
        ^(?P<product>HLS\.S30\.T\d{2}[A-Z]{3}\.(?P<date>\d{7}T\d{6})\.v2\.0)
        \.(?P<band>B0[1-9]|B8A|B1[0-2]|Fmask)
        \.tif$
    """,
    date_format='%Y%jT%H%M%S',
    source='HLS v2.0 User Guide, COPE-GSEG-EOPG-TN-15-0007',
)

HLS_L30 = Sensor(
    name='hls_l30',
    title='HLS v2.0 L30 (Landsat 8-9)',
    bands=(
        _reflectance('B01', 'coastal', 0.44296, 0.01598),
        _reflectance('B02', 'blue', 0.48204, 0.06004),
        _reflectance('B03', 'green', 0.56141, 0.05733),
        _reflectance('B04', 'red', 0.65459, 0.03747),
        _reflectance('B05', 'nir08', 0.86467, 0.02825),
        _reflectance('B06', 'swir16', 1.60886, 0.08472),
        _reflectance('B07', 'swir22', 2.20073, 0.18666),
        _reflectance('B09', 'cirrus', 1.37343, 0.02039),
        # At the top of the atmosphere, unlike ST_B10 of Landsat Level-2
        Band('B10', 'lwir11', 10.895, 0.59, 100, 0.01, 0.0, 'celsius'),
        Band('B11', 'lwir12', 12.005, 1.01, 100, 0.01, 0.0, 'celsius'),
    ),
    nodata=-9999,
    qa=_FMASK,
    filename_glob='HLS.L30.T*.v2.0.*.tif',
    filename_regex=r"""
        ^(?P<product>HLS\.L30\.T\d{2}[A-Z]{3}\.(?P<date>\d{7}T\d{6})\.v2\.0)
        \.(?P<band>B0[1-7]|B09|B1[01]|Fmask)
        \.tif$
    """,
    date_format='%Y%jT%H%M%S',
    source='HLS v2.0 User Guide, LSDS-1574, doi:10.3390/rs61010232',
)

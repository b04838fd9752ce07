# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Sentinel-2 MSI, as ESA delivers it.

Wavelengths and widths are those of Sentinel-2A, from ESA's spectral response document
(COPE-GSEG-EOPG-TN-15-0007); names, grids, scale, offset and class codes are from the Products
Specification Document (S2-PDGS-TAS-DI-PSD). Sentinel-2B and 2C see light up to 17 nm away (B12:
2202.4 nm on 2A, 2185.7 nm on 2B), always less than half of the width of the band.

``offset`` is that of processing baseline 04.00 and later (``RADIO_ADD_OFFSET`` in L1C and
``BOA_ADD_OFFSET`` in L2A, -1000 DN). Older baselines have none, and old scenes were reprocessed: a
dataset takes the offset from the metadata of the product, not from the date.
"""

from .base import QA, Band, Sensor

_SOURCE = 'COPE-GSEG-EOPG-TN-15-0007, S2-PDGS-TAS-DI-PSD'


def _msi(
    name: str, common_name: str, center_wavelength_um: float, fwhm_um: float, gsd_m: float
) -> Band:
    """One band of the MultiSpectral Instrument."""
    # QUANTIFICATION_VALUE 10000, ADD_OFFSET -1000
    return Band(name, common_name, center_wavelength_um, fwhm_um, gsd_m, 1e-4, -0.1)


_BANDS = (
    _msi('B01', 'coastal', 0.4427, 0.020, 60),
    _msi('B02', 'blue', 0.4927, 0.065, 10),
    _msi('B03', 'green', 0.5598, 0.035, 10),
    _msi('B04', 'red', 0.6646, 0.030, 10),
    _msi('B05', 'rededge071', 0.7041, 0.014, 20),
    _msi('B06', 'rededge075', 0.7405, 0.014, 20),
    _msi('B07', 'rededge078', 0.7828, 0.019, 20),
    _msi('B08', 'nir', 0.8328, 0.105, 10),
    _msi('B8A', 'nir08', 0.8647, 0.021, 20),
    _msi('B09', 'nir09', 0.9451, 0.019, 60),
    _msi('B10', 'cirrus', 1.3735, 0.029, 60),
    _msi('B11', 'swir16', 1.6137, 0.090, 20),
    _msi('B12', 'swir22', 2.2024, 0.174, 20),
)

# Codes of the scene classification: 0 no data, 1 saturated or defective, 3 cloud shadow,
# 8 and 9 cloud of medium and high probability, 10 thin cirrus. Kept, because the ground is seen:
# 2 (the shadow of terrain, and dark ground before baseline 04.00: dim, but measured),
# 7 (unclassified: mostly bright roofs and sand) and 11 (snow and ice: a surface).
_SCL = QA(band='SCL', bad_values=(0, 1, 3, 8, 9, 10))

SENTINEL2_L2A = Sensor(
    name='sentinel2_l2a',
    title='Sentinel-2 MSI Level-2A',
    # Cirrus sees no ground and is not corrected
    bands=tuple(band for band in _BANDS if band.name != 'B10'),
    nodata=0,
    qa=_SCL,
    filename_glob='T*_[BS]??_?0m.*',
    filename_regex=r"""
        ^(?P<product>T\d{2}[A-Z]{3}_(?P<date>\d{8}T\d{6}))
        _(?P<band>B0[1-9]|B8A|B1[12]|SCL)
        _(?P<res>10|20|60)m
        \.(?:jp2|tif)$
    """,
    date_format='%Y%m%dT%H%M%S',
    source=_SOURCE,
)

SENTINEL2_L1C = Sensor(
    name='sentinel2_l1c',
    title='Sentinel-2 MSI Level-1C',
    bands=_BANDS,
    nodata=0,
    # The masks of the L1C (MSK_*) are vectors before baseline 04.00 and rasters after it
    qa=None,
    filename_glob='T*_B??.*',
    filename_regex=r"""
        ^(?P<product>T\d{2}[A-Z]{3}_(?P<date>\d{8}T\d{6}))
        _(?P<band>B0[1-9]|B8A|B1[0-2])
        \.(?:jp2|tif)$
    """,
    date_format='%Y%m%dT%H%M%S',
    source=_SOURCE,
)

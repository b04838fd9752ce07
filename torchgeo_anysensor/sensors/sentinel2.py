# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Sentinel-2 MSI, as ESA delivers it.

Names, grids, scale, offset, special values and class codes are from the Products Specification
Document (S2-PDGS-TAS-DI-PSD). Wavelengths and widths go back to ESA's spectral response document
(COPE-GSEG-EOPG-TN-15-0007); see the table below. The platforms differ by up to 17 nm (B12: 2202.4
nm on 2A, 2185.7 nm on 2B), always less than half of the width of the band.

``offset`` is that of processing baseline 04.00 and later (``RADIO_ADD_OFFSET`` in L1C and
``BOA_ADD_OFFSET`` in L2A, -1000 DN). Older baselines have none, and old scenes were reprocessed: a
dataset takes the offset from the metadata of the product, not from the date.
"""

from .base import QA, Band, Sensor

_SOURCE = 'COPE-GSEG-EOPG-TN-15-0007, S2-PDGS-TAS-DI-PSD'

# Centre wavelength and FWHM in um on Sentinel-2A, 2B and 2C. The centre is the mean weighted by
# the response: <CENTRAL> in the metadata of products of 2A and 2B, computed from version 4.0 of the
# responses for 2C. The width of 2A is as ESA publishes it, to the nanometre; for 2B and 2C it was
# computed at half of the maximum, from the metadata and from version 4.0.
_LIGHT = {
    'B01': ((0.4427, 0.020), (0.4423, 0.020), (0.4442, 0.020)),
    'B02': ((0.4927, 0.065), (0.4923, 0.065), (0.4890, 0.065)),
    'B03': ((0.5598, 0.035), (0.5590, 0.035), (0.5606, 0.035)),
    'B04': ((0.6646, 0.030), (0.6650, 0.030), (0.6665, 0.030)),
    'B05': ((0.7041, 0.014), (0.7038, 0.014), (0.7071, 0.015)),
    'B06': ((0.7405, 0.014), (0.7391, 0.014), (0.7411, 0.015)),
    'B07': ((0.7828, 0.019), (0.7797, 0.020), (0.7847, 0.020)),
    'B08': ((0.8328, 0.105), (0.8330, 0.105), (0.8346, 0.096)),
    'B8A': ((0.8647, 0.021), (0.8640, 0.021), (0.8656, 0.020)),
    'B09': ((0.9451, 0.019), (0.9432, 0.020), (0.9472, 0.020)),
    'B10': ((1.3735, 0.029), (1.3769, 0.030), (1.3722, 0.033)),
    'B11': ((1.6137, 0.090), (1.6104, 0.094), (1.6120, 0.090)),
    'B12': ((2.2024, 0.174), (2.1857, 0.183), (2.1913, 0.183)),
}

#: What the platforms see differently from the first, for all bands of MSI.
MSI_PLATFORMS: dict[str, dict[str, tuple[float, float]]] = {
    'sentinel-2a': {},
    'sentinel-2b': {band: light[1] for band, light in _LIGHT.items()},
    'sentinel-2c': {band: light[2] for band, light in _LIGHT.items()},
}


def _msi(name: str, common_name: str, gsd_m: float) -> Band:
    """One band of the MultiSpectral Instrument."""
    # QUANTIFICATION_VALUE 10000, ADD_OFFSET -1000
    return Band(name, common_name, *_LIGHT[name][0], gsd_m, 1e-4, -0.1)


#: All bands, as Sentinel-2A sees them.
MSI_BANDS = (
    _msi('B01', 'coastal', 60),
    _msi('B02', 'blue', 10),
    _msi('B03', 'green', 10),
    _msi('B04', 'red', 10),
    _msi('B05', 'rededge071', 20),
    _msi('B06', 'rededge075', 20),
    _msi('B07', 'rededge078', 20),
    _msi('B08', 'nir', 10),
    _msi('B8A', 'nir08', 20),
    _msi('B09', 'nir09', 60),
    _msi('B10', 'cirrus', 60),
    _msi('B11', 'swir16', 20),
    _msi('B12', 'swir22', 20),
)

MSI_CODES = {'S2A': 'sentinel-2a', 'S2B': 'sentinel-2b', 'S2C': 'sentinel-2c'}

# SPECIAL_VALUE_TEXT SATURATED in the metadata of products
_SATURATED = 65535

# Codes of the scene classification: 0 no data, 1 saturated or defective, 3 cloud shadow,
# 8 and 9 cloud of medium and high probability, 10 thin cirrus. Kept, because the ground is seen:
# 2 (the shadow of terrain, and dark ground before baseline 04.00: dim, but measured),
# 4 vegetation, 5 no vegetation, 6 water, 7 (unclassified: mostly bright roofs and sand) and
# 11 (snow and ice: a surface).
_SCL = QA(band='SCL', bad_values=(0, 1, 3, 8, 9, 10), fill=0)

# No file has this band: a dataset composes it of the product's own cloud masks, which are vectors
# before baseline 04.00 (MSK_CLOUDS) and rasters of three layers after it (MSK_CLASSI). Bit 0 is
# opaque cloud, 1 cirrus, 2 snow or ice; snow is a surface and is kept.
_CLASSI = QA(band='MSK_CLASSI', bad_bits=(0, 1))

SENTINEL2_L2A = Sensor(
    name='sentinel2_l2a',
    title='Sentinel-2 MSI Level-2A',
    level='surface',
    # Cirrus sees no ground and is not corrected
    bands=tuple(band for band in MSI_BANDS if band.name != 'B10'),
    nodata=0,
    qa=(_SCL,),
    # ESA's names, with L2A_ in front up to baseline 02.06, or the bare band of public clouds.
    # With a tile the grid is a must: without it, the file is of Level-1C.
    filename_regex=r"""
        ^(?:(?:L2A_)?(?P<tile>T\d{2}[A-Z]{3})_(?P<date>\d{8}T\d{6})_)?
        (?P<band>B0[1-9]|B8A|B1[12]|SCL)
        (?(tile)(?=_))(?:_(?P<res>10|20|60)m)?
        \.(?:jp2|tiff?)$
    """,
    date_format='%Y%m%dT%H%M%S',
    source=_SOURCE,
    saturated=_SATURATED,
    archive_regex=r'^S2[A-Z]_MSIL2A_.+\.zip$',
    metadata_regex=r'^MTD_MSIL2A\.xml$',
    platforms={
        platform: {band: light for band, light in lights.items() if band != 'B10'}
        for platform, lights in MSI_PLATFORMS.items()
    },
    platform_codes=MSI_CODES,
)

SENTINEL2_L1C = Sensor(
    name='sentinel2_l1c',
    title='Sentinel-2 MSI Level-1C',
    level='top of atmosphere',
    bands=MSI_BANDS,
    nodata=0,
    qa=(_CLASSI,),
    filename_regex=r"""
        ^(?:(?P<tile>T\d{2}[A-Z]{3})_(?P<date>\d{8}T\d{6})_)?
        (?P<band>B0[1-9]|B8A|B1[0-2])
        \.(?:jp2|tiff?)$
    """,
    date_format='%Y%m%dT%H%M%S',
    source=_SOURCE,
    saturated=_SATURATED,
    archive_regex=r'^S2[A-Z]_MSIL1C_.+\.zip$',
    metadata_regex=r"""
        ^(?:MTD_MSIL1C\.xml|MSK_CLASSI_B00\.(?:jp2|tif)|MSK_CLOUDS_B00\.gml)$
    """,
    platforms=MSI_PLATFORMS,
    platform_codes=MSI_CODES,
)

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Sentinel-2 products in the SAFE format."""

import os
import re
from pathlib import Path
from xml.etree import ElementTree

from ..sensors import get_sensor
from .index import Acquisition
from .sensor import SensorDataset

# Bands as in the file names, in the order of bandId in the metadata (Spectral_Information).
_BAND_IDS = (
    'B01',
    'B02',
    'B03',
    'B04',
    'B05',
    'B06',
    'B07',
    'B08',
    'B8A',
    'B09',
    'B10',
    'B11',
    'B12',
)

# First processing baseline that adds an offset to the digital numbers.
_FIRST_WITH_OFFSET = (4, 0)


class _Sentinel2(SensorDataset):
    """What Level-1C and Level-2A share: the SAFE tree and its calibration."""

    def _product(self, path: str, match: re.Match[str]) -> str:
        """The SAFE folder, so that two baselines of one datatake stay apart."""
        safe = _safe_folder(path)
        return os.path.join(safe or os.path.dirname(path), match['product'])

    def _describe(self, acquisition: Acquisition) -> None:
        """Take quantification and offsets from the product, never from the date.

        Raises:
            ValueError: If neither the metadata nor the name of the product tells the offset.
        """
        if not self.calibrate:
            return
        path = acquisition.file(self.bands[0], 0)
        safe = _safe_folder(path)
        metadata = sorted(Path(safe).glob('MTD_MSIL*.xml')) if safe else []
        if metadata:
            quantification, offsets = read_offsets(metadata[0])
            acquisition.scale = dict.fromkeys(_BAND_IDS, 1 / quantification)
        else:
            offset = _offset_from_name(os.path.basename(safe or ''))
            if offset is None:
                raise ValueError(
                    f'{path}: cannot tell whether the reflectance has an offset: there is neither '
                    'MTD_MSIL*.xml nor a folder name with the processing baseline (_N0509_). '
                    'Keep the files in their .SAFE folder, or use StackDataset and give the offset'
                )
            quantification, offsets = 1e4, dict.fromkeys(_BAND_IDS, offset)
        acquisition.offset = {band: value / quantification for band, value in offsets.items()}


class Sentinel2L2A(_Sentinel2):
    """Sentinel-2 Level-2A surface reflectance, masked by the scene classification (SCL).

    Source: Sentinel-2 Products Specification Document, S2-PDGS-TAS-DI-PSD.
    """

    sensor = get_sensor('sentinel2_l2a')


class Sentinel2L1C(_Sentinel2):
    """Sentinel-2 Level-1C top-of-atmosphere reflectance; nodata is masked, clouds are not.

    Source: Sentinel-2 Products Specification Document, S2-PDGS-TAS-DI-PSD.
    """

    sensor = get_sensor('sentinel2_l1c')


def _safe_folder(path: str) -> str | None:
    """The ``.SAFE`` folder above a file, if there is one."""
    for parent in Path(path).parents:
        if parent.suffix.upper() == '.SAFE':
            return str(parent)
    return None


def _offset_from_name(name: str) -> float | None:
    """Offset in DN that the baseline in a product name implies."""
    match = re.search(r'_N(\d{2})(\d{2})_', name)
    if match is None:
        return None
    return -1000.0 if (int(match[1]), int(match[2])) >= _FIRST_WITH_OFFSET else 0.0


def read_offsets(path: Path) -> tuple[float, dict[str, float]]:
    """Read the calibration of a product.

    Args:
        path: ``MTD_MSIL1C.xml`` or ``MTD_MSIL2A.xml``.

    Returns:
        Quantification value, and the offset in DN of each band (0 in baselines that have none).

    Raises:
        ValueError: If the file is no such metadata.
    """
    text = path.read_text(encoding='utf-8')
    if '<!DOCTYPE' in text or '<!ENTITY' in text:  # products have none; entities could expand
        raise ValueError(f'{path}: a Sentinel-2 metadata file has no DOCTYPE, this one does')
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f'{path}: not a readable XML file ({error})') from None
    quantification = 0.0
    offsets = dict.fromkeys(_BAND_IDS, 0.0)
    for element in root.iter():
        tag = element.tag.rpartition('}')[2]
        if tag in ('QUANTIFICATION_VALUE', 'BOA_QUANTIFICATION_VALUE'):
            quantification = float(element.text or 0)
        elif tag in ('RADIO_ADD_OFFSET', 'BOA_ADD_OFFSET'):
            offsets[_BAND_IDS[int(element.attrib['band_id'])]] = float(element.text or 'nan')
    if not quantification > 0:
        raise ValueError(f'{path}: has no QUANTIFICATION_VALUE; is it the metadata of a product?')
    return quantification, offsets

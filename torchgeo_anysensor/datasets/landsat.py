# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Landsat 8 and 9 Collection 2."""

import math
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..sensors import get_sensor
from .index import Acquisition
from .sensor import SensorDataset


class _Landsat(SensorDataset):
    """What the levels share: the metadata file beside the bands."""

    def _product(self, path: str, match: re.Match[str]) -> str:
        """Folder and product: the folder holds the metadata."""
        return os.path.join(os.path.dirname(path), match['product'])

    def _describe(self, acquisition: Acquisition) -> None:
        """Take the time of day from the metadata, if it is there; the name has the date alone."""
        path = Path(f'{acquisition.name}_MTL.txt')
        if path.exists():
            metadata = read_mtl(path)
            time = metadata['DATE_ACQUIRED'] + ' ' + metadata['SCENE_CENTER_TIME'].rstrip('Z')
            acquisition.start = pd.Timestamp(time).floor('s')
            acquisition.stop = acquisition.start + pd.Timedelta('999999us')


class LandsatC2L2(_Landsat):
    """Landsat 8/9 Collection 2 Level-2: surface reflectance and surface temperature.

    Source: Landsat 8-9 Collection 2 Level 2 Science Product Guide, LSDS-1619.
    """

    sensor = get_sensor('landsat_c2l2')


class LandsatC2L1(_Landsat):
    """Landsat 8/9 Collection 2 Level-1: top-of-atmosphere reflectance, brightness temperature.

    Needs ``*_MTL.txt`` beside the bands: reflectance is divided by the sine of the sun's elevation
    at the scene's centre, and radiance becomes kelvin by the scene's thermal constants.

    Source: Landsat 8-9 Calibration and Validation Algorithm Description Document, LSDS-1747.
    """

    sensor = get_sensor('landsat_c2l1')

    def _describe(self, acquisition: Acquisition) -> None:
        """Take gains, offsets and the sun's elevation from the metadata.

        Raises:
            ValueError: If there is no metadata file.
        """
        super()._describe(acquisition)
        if not self.calibrate:
            return
        path = Path(f'{acquisition.name}_MTL.txt')
        if not path.exists():
            raise ValueError(
                f'{path} is missing: Level-1 reflectance needs the sun elevation of the scene. '
                'Put the MTL file beside the bands, or read digital numbers with calibrate=False'
            )
        metadata = read_mtl(path)
        sun = math.sin(math.radians(float(metadata['SUN_ELEVATION'])))
        for band in self._bands:
            number = band.name.removeprefix('B')
            thermal = band.unit == 'kelvin'
            kind, norm = ('RADIANCE', 1.0) if thermal else ('REFLECTANCE', sun)
            acquisition.scale[band.name] = float(metadata[f'{kind}_MULT_BAND_{number}']) / norm
            acquisition.offset[band.name] = float(metadata[f'{kind}_ADD_BAND_{number}']) / norm

    def _to_units(self, dn: NDArray[np.float32], acquisition: Acquisition) -> NDArray[np.float32]:
        """Digital numbers ``(C, H, W)`` to reflectance and, by Planck's law, kelvin."""
        image = super()._to_units(dn, acquisition)
        metadata = None
        for position, band in enumerate(self._bands):
            if band.unit != 'kelvin':
                continue
            metadata = metadata or read_mtl(Path(f'{acquisition.name}_MTL.txt'))
            number = band.name.removeprefix('B')
            k1 = np.float32(metadata[f'K1_CONSTANT_BAND_{number}'])
            k2 = np.float32(metadata[f'K2_CONSTANT_BAND_{number}'])
            radiance = np.maximum(image[position], np.float32(1e-6))
            image[position] = k2 / np.log(k1 / radiance + 1)
        return image


def read_mtl(path: Path) -> dict[str, str]:
    """Read the metadata of a Landsat product.

    Args:
        path: ``*_MTL.txt``, in the Object Description Language.

    Returns:
        Value by name, without the groups: where a name occurs twice, as in a Level-2 file that
        repeats the Level-1 metadata, the first counts.

    Raises:
        ValueError: If the file has no ``NAME = VALUE`` line.
    """
    values: dict[str, str] = {}
    for line in path.read_text(encoding='utf-8').splitlines():
        key, equals, value = line.partition('=')
        if equals and key.strip() not in ('GROUP', 'END_GROUP'):
            values.setdefault(key.strip(), value.strip().strip('"'))
    if not values:
        raise ValueError(f'{path}: not a Landsat metadata file; expected lines NAME = VALUE')
    return values

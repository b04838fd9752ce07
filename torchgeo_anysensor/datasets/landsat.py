# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Landsat 8 and 9 Collection 2: folders, and the archives that they are delivered in."""

import math
import os
import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..sensors import get_sensor
from .files import folder_name, read_bytes
from .index import Tile, set_time
from .mtl import acquired, read_mtl
from .sensor import SensorDataset


class _Landsat(SensorDataset):
    """What the levels share: the metadata file beside the bands."""

    def _name(self, path: str, match: re.Match[str]) -> str:
        """Folder and product: the folder holds the metadata."""
        return os.path.join(folder_name(path), match['product'])

    def _attach(self, tile: Tile, folders: dict[str, list[str]]) -> None:
        """Find ``*_MTL.txt``, or else the same as JSON or XML."""
        found = folders.get(folder_name(tile.name), ())
        own = [path for path in found if path.startswith(f'{tile.name}_MTL')]
        tile.metadata = sorted(own, key=lambda path: path[-4:] != '.txt')[:1]

    def _describe(self, tile: Tile) -> None:
        """Take the time of day from the metadata, if they are there; the name has the date alone.

        Raises:
            ValueError: If the metadata cannot be read.
        """
        set_time(tile, self.date_format)
        tile.baseline = tile.name[-5:].replace('_', ' ')  # collection and tier: 02 T1
        values = self._metadata(tile)
        if values is None:
            return
        tile.start = acquired(values)
        tile.stop = tile.start + pd.Timedelta('999999us')
        cover = float(values.get('CLOUD_COVER', -1))
        if cover >= 0:  # -1: not assessed
            tile.clear_fraction = 1 - cover / 100

    def _metadata(self, tile: Tile) -> Mapping[str, str] | None:
        """Values of the MTL file."""
        if not tile.metadata:
            return None
        return read_mtl(read_bytes(tile.metadata[0]), source=tile.metadata[0])

    def _pass(self, tile: Tile) -> str:
        """Rows of one path that were seen on one day."""
        return f'{self.sensor.name} {tile.platform} {tile.tile[:3]} {tile.date} {tile.baseline}'


class LandsatC2L2(_Landsat):
    """Landsat 8/9 Collection 2 Level-2: surface reflectance and surface temperature.

    Masked by QA_PIXEL (cloud, shadow, cirrus) and, for the bands that are read, by QA_RADSAT
    (saturation).

    Source: Landsat 8-9 Collection 2 Level 2 Science Product Guide, LSDS-1619.
    """

    sensor = get_sensor('landsat_c2l2')


class LandsatC2L1(_Landsat):
    """Landsat 8/9 Collection 2 Level-1: top-of-atmosphere reflectance, brightness temperature.

    Needs the MTL file beside the bands: reflectance is divided by the sine of the sun's elevation
    at the scene's centre, and radiance becomes kelvin by the scene's thermal constants.

    Source: Landsat 8-9 Calibration and Validation Algorithm Description Document, LSDS-1747.
    """

    sensor = get_sensor('landsat_c2l1')

    def _describe(self, tile: Tile) -> None:
        """Take gains, offsets and the sun's elevation from the metadata.

        Raises:
            ValueError: If the metadata cannot be read or lack a value.
        """
        super()._describe(tile)
        values = self._metadata(tile)
        if values is None:
            tile.uncalibrated = (
                '*_MTL.txt (or .json, .xml) is missing: Level-1 reflectance needs the sun '
                'elevation of the scene. Put the file beside the bands, or read digital numbers with calibrate=False'
            )
            return
        try:
            height = float(values['SUN_ELEVATION'])
            sun = math.sin(math.radians(height))
            for band in self.sensor.bands:
                if band.name not in tile.files:
                    continue
                number = band.name.removeprefix('B')
                thermal = band.unit == 'kelvin'
                if not thermal and height <= 0:
                    place = tile.place(band.name, 0)
                    tile.problems[place] = f'seen by night (SUN_ELEVATION={height:g})'
                    continue
                kind, norm = ('RADIANCE', 1.0) if thermal else ('REFLECTANCE', sun)
                tile.scale[band.name] = float(values[f'{kind}_MULT_BAND_{number}']) / norm
                tile.offset[band.name] = float(values[f'{kind}_ADD_BAND_{number}']) / norm
                if thermal:
                    k1, k2 = (float(values[f'K{i}_CONSTANT_BAND_{number}']) for i in (1, 2))
                    tile.planck[band.name] = k1, k2
        except KeyError as error:
            raise ValueError(f'{tile.metadata[0]}: has no {error.args[0]}') from None

    def _to_units(self, dn: NDArray, tile: Tile) -> NDArray[np.float32]:
        """Digital numbers ``(C, H, W)`` to reflectance and, by Planck's law, kelvin."""
        image = super()._to_units(dn, tile)
        for position, band in enumerate(self._bands):
            if band.name in tile.planck:
                k1, k2 = np.array(tile.planck[band.name], dtype=np.float32)
                radiance = np.maximum(image[position], np.float32(1e-6))
                image[position] = k2 / np.log(k1 / radiance + 1)
        return image

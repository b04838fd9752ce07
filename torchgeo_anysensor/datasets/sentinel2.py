# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Sentinel-2 products: SAFE trees, their archives, and the flat layouts of public clouds."""

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.features import rasterize

from ..sensors import QA, get_sensor
from .files import Paths, base_name, folder_name, read_bytes, stamp
from .geometry import crs_text, project
from .grid import Grid
from .index import Tile, set_time
from .read import read
from .safe import (
    BAND_IDS,
    ProductName,
    SafeMetadata,
    baseline_offset,
    clear_fraction,
    product_name,
    read_cloud_polygons,
    read_metadata,
)
from .sensor import SensorDataset

_DAY = pd.Timedelta(days=1) - pd.Timedelta('1us')

# Names and metadata tell the start of a datatake, to the second; the next one is hours later
_SAME = pd.Timedelta(minutes=1)

# Bands of MSK_CLASSI, and kinds in MSK_CLOUDS, to the bits of the quality band that they become
_CLASSES = ('OPAQUE', 'CIRRUS', 'SNOW')


class _Sentinel2(SensorDataset):
    """What Level-1C and Level-2A share: the layouts and the calibration."""

    def __init__(
        self, paths: Paths = 'data', *, baseline: str | None = None, **kwargs: Any
    ) -> None:
        """Find the acquisitions.

        Args:
            paths: Folders to search, files, patterns, or archives.
            baseline: Processing baseline, ``'05.09'``, that tells the offset where neither
                metadata nor folder names do. It goes before both: for files whose provider has
                removed the offset already, give one from before 04.00.
            **kwargs: See :class:`SensorDataset`.

        Raises:
            DatasetNotFoundError: If no complete acquisition is found.
            ValueError: If nothing tells the offset; also see :class:`SensorDataset`.
        """
        self._offset = None if baseline is None else baseline_offset(baseline)
        digits = re.sub(r'\D', '', baseline or '')
        self._baseline = f'{digits[:2]}.{digits[2:]}'
        super().__init__(paths, **kwargs)

    def _tiles(self, files: Iterable[str]) -> list[Tile]:
        """Group files by product; the other level has files of the same names."""
        return [tile for tile in super()._tiles(files) if not self._is_other(tile)]

    def _is_other(self, tile: Tile) -> bool:
        """Whether a product is of the other level, by its name or by the metadata beside it."""
        levels = ['L1C', 'L2A']
        levels.remove(self.sensor.name[-3:].upper())
        name = _product(tile)
        if name is not None:
            return name.level in levels
        folder = _root(_any_file(tile))
        other = os.path.join(folder, f'MTD_MSI{levels[0]}.xml')
        return not (tile.tile or tile.metadata) and os.path.exists(other)

    def _name(self, path: str, match: re.Match[str]) -> str:
        """Product folder and tile, so that two baselines of one datatake stay apart."""
        root = _root(path)
        tile = '_'.join(filter(None, match.group('tile', 'date')))
        return f'{root}{os.sep}{tile}' if root and tile else root or tile

    def _attach(self, tile: Tile, folders: dict[str, list[str]]) -> None:
        """Find the metadata above the bands, and the masks beside them."""
        path = _any_file(tile)
        root, folder = _root(path), folder_name(path)
        while True:
            for name in (folder, os.path.join(folder, 'QI_DATA')):
                for found in folders.get(name, ()):
                    if base_name(found).startswith('MSK_'):
                        tile.files['MSK_CLASSI'] = {0.0: found}
                    elif base_name(found).startswith('MTD_MSI'):
                        tile.metadata.append(found)
            if folder == root or not folder.startswith(root):
                return
            folder = folder_name(folder)

    def _describe(self, tile: Tile) -> None:
        """Take quantification and offsets from the product, never from the date.

        Raises:
            ValueError: If the metadata cannot be read, or nothing tells the time.
        """
        name = _product(tile)
        start = None
        if tile.date:
            set_time(tile, self.date_format)
        if name is not None:
            tile.tile, tile.baseline, start = (
                tile.tile or name.tile,
                name.baseline or '',
                name.start,
            )
            tile.platform = self.sensor.platform_codes.get(name.platform, '')
        metadata = _metadata(tile)
        if metadata is not None:
            tile.platform, tile.baseline = metadata.platform, metadata.baseline
            tile.clear_fraction = clear_fraction(metadata)
            tile.scale = dict.fromkeys(BAND_IDS, 1 / metadata.quantification)
            tile.offset = {
                band: offset / metadata.quantification for band, offset in metadata.offsets.items()
            }
            if len(metadata.tiles) == 1:
                tile.tile = tile.tile or metadata.tiles[0]
            start = metadata.start
        else:
            self._guess_nothing(tile)
        if not tile.date:
            _set_start(tile, start)

    def _guess_nothing(self, tile: Tile) -> None:
        """Take the offset from the baseline in the name, or say why there is none."""
        if not tile.baseline:
            tile.uncalibrated = (
                'cannot tell whether the reflectance has an offset: there is neither '
                'its MTD_MSIL*.xml nor a folder name with the processing baseline (_N0509_). Keep the '
                "files in their .SAFE folder, put the metadata beside them, or give baseline='05.09'"
            )
            return
        try:
            offset = baseline_offset(tile.baseline)
        except ValueError as error:
            tile.uncalibrated = str(error)
            return
        tile.offset = dict.fromkeys(BAND_IDS, offset / 1e4)

    def _settle(self, tile: Tile) -> None:
        """Let the baseline that the user gave go before everything.

        Raises:
            ValueError: If nothing tells the offset.
        """
        if self._offset is not None:
            tile.baseline = tile.baseline or self._baseline
            scale = tile.scale.get('B02', 1e-4)
            tile.offset = dict.fromkeys(BAND_IDS, self._offset * scale)
            tile.uncalibrated = ''
        super()._settle(tile)

    def _pass(self, tile: Tile) -> str:
        """Datatake and baseline."""
        if tile.stop - tile.start >= _DAY:
            return tile.name
        return f'{self.sensor.name} {tile.platform} {tile.start} {tile.baseline}'


class Sentinel2L2A(_Sentinel2):
    """Sentinel-2 Level-2A surface reflectance, masked by the scene classification (SCL).

    Reads ``.SAFE`` trees, the ``.zip`` that they are delivered in, and folders with one file a
    band (``B02.tif``, or ``T32TPQ_20200614T101559_B02_10m.tif``).

    Source: Sentinel-2 Products Specification Document, S2-PDGS-TAS-DI-PSD.
    """

    sensor = get_sensor('sentinel2_l2a')


class Sentinel2L1C(_Sentinel2):
    """Sentinel-2 Level-1C top-of-atmosphere reflectance, masked by the product's cloud masks.

    The masks are rasters from baseline 04.00 on (``MSK_CLASSI_B00``) and polygons before
    (``MSK_CLOUDS_B00.gml``). Either becomes a bit field: bit 0 opaque cloud, 1 cirrus, 2 snow or
    ice. Pixels outside of the detectors' footprint are 0, which is nodata.

    Source: Sentinel-2 Products Specification Document, S2-PDGS-TAS-DI-PSD.
    """

    sensor = get_sensor('sentinel2_l1c')

    def _describe(self, tile: Tile) -> None:
        """Also give the polygons of clouds, which have no header, the pixels that they follow.

        Raises:
            ValueError: If the metadata cannot be read, or nothing tells the time.
        """
        super()._describe(tile)
        mask = tile.files.get('MSK_CLASSI', {}).get(0.0, '')
        if not mask.lower().endswith('.gml'):
            return
        try:
            _polygons(mask, stamp(mask))
        except (ValueError, OSError) as error:
            tile.problems['MSK_CLASSI', 0.0] = str(error).removeprefix(f'{mask}: ')
            return
        coarsest = max(tile.headers.values(), key=lambda header: header.xres)
        tile.headers['MSK_CLASSI', 0.0] = coarsest

    def _quality_codes(self, tile: Tile, qa: QA, grid: Grid) -> tuple[NDArray, NDArray[np.bool_]]:
        """The cloud masks as one bit field ``(H, W)``."""
        path, _ = self._locate(tile, qa.band)
        codes = np.zeros((grid.height, grid.width), dtype=np.uint8)
        if not path.lower().endswith('.gml'):
            masks, inside = read(
                path, grid, indexes=[1, 2, 3], nodata=None, resampling=Resampling.nearest
            )
            if masks.any():
                for bit, mask in enumerate(masks):
                    codes |= (mask > 0).view(np.uint8) << bit
            return codes, inside
        target = crs_text(grid.crs.to_string())
        for bit, kind in enumerate(_CLASSES):
            shapes = [
                (project(polygon, tile.crs, target), 1)
                for polygon, own in _polygons(path, stamp(path))
                if own == kind
            ]
            if shapes:
                codes |= (
                    rasterize(
                        shapes, out_shape=codes.shape, transform=grid.transform, dtype='uint8'
                    )
                    << bit
                )
        return codes, np.ones(codes.shape, dtype=bool)


@lru_cache(maxsize=64)
def _polygons(path: str, version: tuple[int, int]) -> list[tuple[shapely.Polygon, str]]:
    """Cloud polygons of a file, for each *version* of it."""
    return read_cloud_polygons(read_bytes(path), source=path)


def _any_file(tile: Tile) -> str:
    """One of the files of bands."""
    return next(iter(next(iter(tile.files.values())).values()))


def _product(tile: Tile) -> ProductName | None:
    """What the names of folders tell."""
    return product_name(_any_file(tile))


def _root(path: str) -> str:
    """Folder of a product: the one that is named like one, or else that of the file."""
    folder = folder_name(path)
    return _product_folder(folder) or folder


@lru_cache(maxsize=8192)
def _product_folder(folder: str) -> str:
    """The folder, or the one above it, that is named like a product; empty if none is."""
    name = base_name(folder)
    if name.upper().endswith('.SAFE') or product_name(name):
        return folder
    # Not pathlib: it writes the two slashes of /vsizip//data as one
    above = folder_name(folder)
    return _product_folder(above) if above != folder else ''


def _metadata(tile: Tile) -> SafeMetadata | None:
    """Metadata of a product; None if there are none, or those of another one.

    A flat folder may hold several products, of which one alone can have its metadata there.

    Raises:
        ValueError: If they cannot be read.
    """
    if not tile.metadata:
        return None
    source = tile.metadata[0]
    found = read_metadata(read_bytes(source), source=source)
    elsewhere = tile.tile and found.tiles and tile.tile not in found.tiles
    at_other_time = tile.date and abs(tile.start - found.start) > _SAME
    return None if elsewhere or at_other_time else found


def _set_start(tile: Tile, start: pd.Timestamp | None) -> None:
    """Set the time of a product whose files have none in their names.

    Raises:
        ValueError: If nothing tells it.
    """
    if start is None:
        raise ValueError(
            'nothing tells when it was acquired: neither the names of its files '
            '(T32TPQ_20200614T101559_B02_10m.tif) or folder nor MTD_MSIL*.xml beside them'
        )
    tile.start = start
    whole_day = start == start.normalize()  # a name with a date alone
    tile.stop = start + (_DAY if whole_day else pd.Timedelta('999999us'))

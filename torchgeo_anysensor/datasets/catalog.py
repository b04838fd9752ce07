# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Finding the products of a sensor: the half of a dataset that knows files, not pixels."""

import math
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import CRS as PROJ_CRS
from rasterio.enums import Resampling
from torchgeo.datasets import DatasetNotFoundError, RasterDataset

from ..sensors import QA, Sensor
from . import cache as kept
from .files import Listing, as_list, base_name, folder_name, list_files
from .geometry import METRES_PER_DEGREE, Lattice, crs_text, is_geographic, raster_crs
from .grid import Grid
from .index import (
    PACKAGE,
    Acquisition,
    Tile,
    build_index,
    complain,
    find_tiles,
    group_tiles,
    set_time,
)
from .join import JoinableDataset
from .lookup import IndexedDataset
from .quality import clear_share
from .read import read
from .scan import scan

# Pixels along each side that the clear fraction is estimated from
_SAMPLES = 256


class Catalog(JoinableDataset, IndexedDataset, RasterDataset):
    """The acquisitions of one sensor, found by the names of files and indexed by their headers.

    Attributes:
        acquisitions: By the path that stands for each in the index (``filepath``).
        problems: Products that are left out, and why.
        pixel: Size of a pixel in metres (in degrees if files and index are).
    """

    sensor: Sensor
    qa: tuple[QA, ...]
    acquisitions: dict[str, Acquisition]
    problems: dict[str, str]
    pixel: float

    def _find(
        self,
        bands: Sequence[str],
        needed: Sequence[str],
        *,
        res: float | None,
        crs: PROJ_CRS | str | None,
        max_cloud: float | None,
        cache: bool | str | Path,
        strict: bool,
    ) -> None:
        """Fill the index.

        Args:
            bands: To be delivered.
            needed: Those, and the quality bands.
            res: See :class:`SensorDataset`, like the others.
            crs: Of the index.
            max_cloud: Largest share of the observed ground that is not clear.
            cache: Where to keep what was learnt.
            strict: Whether to raise if a product is left out.

        Raises:
            DatasetNotFoundError: If no product can be used.
            ValueError: If none is clear enough, or, with *strict*, one is left out.
        """
        self.pixel = 0.0  # until it is known, files are found on their finest grid
        listing = self._list()
        tiles = self._tiles(listing.files)
        self._learn(tiles, cache)
        finest = min(self.sensor.select(bands), key=lambda band: band.gsd_m).name
        grid = res or self.sensor.select([finest])[0].gsd_m
        self.problems = dict(listing.broken)
        self.problems |= {t.name: why for t in tiles if (why := t.why_not(needed, grid))}
        usable = self._sort_out(tiles, strict=strict)
        if not usable:
            raise DatasetNotFoundError(self)
        for tile in usable:
            self._settle(tile)
        found = group_tiles(usable, self._pass)
        if max_cloud is not None:
            found = _clear_enough(found, max_cloud)
        self.acquisitions = {}
        for acquisition in found:
            first = acquisition.tiles[0]
            header = first.header(finest, grid)
            acquisition.corner = (header.left, header.top)
            self.acquisitions[first.file(finest, grid)] = acquisition
        own, size = found[0].crs, found[0].tiles[0].header(finest, grid).xres
        target = crs_text(PROJ_CRS.from_user_input(crs).srs) if crs is not None else own
        self.index = build_index(self.acquisitions, crs=target)
        # The size of a pixel in the acquisitions' CRS, and in that of the index
        self.pixel = step = float(res or size)
        if is_geographic(own) and not is_geographic(target):
            self.pixel = step = float(res or size * METRES_PER_DEGREE)
        elif is_geographic(target) and not is_geographic(own):
            self.pixel, step = size, float(res or size / METRES_PER_DEGREE)
        self._res = (step, step)

    def _sort_out(self, tiles: Sequence[Tile], *, strict: bool) -> list[Tile]:
        """Tiles without a problem; the others, and what is odd about these, are said.

        Raises:
            ValueError: With *strict*, if there is a problem.
        """
        if self.problems:
            quality = [qa.band for qa in self.qa]
            lacking = any(band in why for band in quality for why in self.problems.values())
            hint = '(qa=False does without quality bands)' if lacking else ''
            total = len({*self.problems, *(tile.name for tile in tiles)})
            complain(
                self.problems, total, f'products of {self.sensor.name}', strict=strict, hint=hint
            )
        usable = [tile for tile in tiles if tile.name not in self.problems]
        notes = [f'{tile.name}: {tile.note}' for tile in usable if tile.note]
        if notes:
            text = f'{len(notes)} products, the first: {notes[0]}'
            warnings.warn(text, skip_file_prefixes=(PACKAGE,))
        return usable

    @property
    def files(self) -> list[str]:
        """Files of the sensor's products that lie at the paths."""
        return self._list().files

    # -- what the layouts of products differ in ------------------------------------------------

    def _list(self) -> Listing:
        """Files that may belong to products of the sensor."""
        bands = re.compile(self.filename_regex, re.VERBOSE)
        metadata = re.compile(self.sensor.metadata_regex, re.VERBOSE)
        archive = re.compile(self.sensor.archive_regex, re.VERBOSE)
        return list_files(
            self.paths,
            lambda name: (bands.match(name) or metadata.match(name)) is not None,
            lambda name: archive.match(name) is not None,
        )

    def _tiles(self, files: Iterable[str]) -> list[Tile]:
        """Group files by product."""
        files = list(files)
        tiles = find_tiles(files, filename_regex=self.filename_regex, name=self._name)
        for tile in tiles:
            tile.platform = self.sensor.platform_codes.get(tile.platform, '')
        pattern = re.compile(self.sensor.metadata_regex, re.VERBOSE)
        folders: dict[str, list[str]] = {}
        for path in files:
            if pattern.match(base_name(path)):
                folders.setdefault(folder_name(path), []).append(path)
        if folders:
            for tile in tiles:
                self._attach(tile, folders)
        return tiles

    def _name(self, path: str, match: re.Match[str]) -> str:
        """Name that all files of one product share."""
        return match['product']

    def _attach(self, tile: Tile, folders: dict[str, list[str]]) -> None:
        """Give a tile its metadata files.

        Args:
            tile: Its ``metadata``, and maybe ``files``, are filled in.
            folders: Folder to the metadata files in it.
        """

    def _describe(self, tile: Tile) -> None:
        """Take what headers and metadata of the product tell; its answer is kept in the cache.

        Raises:
            ValueError: If the product is not usable.
        """
        set_time(tile, self.date_format)

    def _settle(self, tile: Tile) -> None:
        """Complete a tile by what the user gave; not kept in the cache.

        Raises:
            ValueError: If the user asks for what the tile cannot give.
        """

    def _pass(self, tile: Tile) -> str:
        """Text that the tiles of one pass share."""
        return tile.name

    # -- learning ------------------------------------------------------------------------------

    def _learn(self, tiles: list[Tile], cache: bool | str | Path) -> None:
        """Fill in what headers and metadata tell, from the cache where it is up to date."""
        roots = as_list(self.paths)
        how = ' '.join(map(str, (self.sensor.name, *self._declaration())))
        path = kept.cache_file(roots, how, cache)
        marks = kept.stamps(tiles, roots[0] if roots else '')
        new = kept.load(path, tiles, marks)
        if new:
            scan(new, self._describe_tile, title=self.sensor.title)
            good = [(t, mark) for t, mark in zip(tiles, marks) if not t.problems]
            kept.save(path, [t for t, _ in good], [mark for _, mark in good])

    def _declaration(self) -> tuple[object, ...]:
        """What decides which files are products, and what is learnt of them."""
        return self.filename_regex, self.date_format, self.sensor.qa

    def _describe_tile(self, tile: Tile) -> None:
        """All that is kept of a tile."""
        self._describe(tile)
        if math.isnan(tile.clear_fraction):
            try:
                tile.clear_fraction = self._measure_clear(tile)
            except (rasterio.errors.RasterioError, OSError, ValueError):
                return  # a quality band that cannot be read hurts who asks for it, when they do

    def _measure_clear(self, tile: Tile) -> float:
        """Clear fraction by every n-th pixel of the quality band, where no metadata tell it."""
        qa = self.sensor.qa[0] if self.sensor.qa else None
        if qa is None or qa.band not in tile.files:
            return float('nan')
        header = tile.headers.get(tile.place(qa.band, 0))
        if header is None:
            return float('nan')
        n = max(1, -(-max(header.width, header.height) // _SAMPLES))
        size = max(1, header.width // n), max(1, header.height // n)
        crs = raster_crs(tile.crs)
        grid = Grid(crs, header.left, header.top, header.xres * n, header.yres * n, *size)
        return clear_share(qa, self._quality_codes(tile, qa, grid)[0])

    def _quality_codes(self, tile: Tile, qa: QA, grid: Grid) -> tuple[NDArray, NDArray[np.bool_]]:
        """Codes of a quality band ``(H, W)``, never interpolated, and where there are any."""
        path, number = self._locate(tile, qa.band)
        data, inside = read(
            path, grid, indexes=[number], nodata=None, resampling=Resampling.nearest
        )
        return data[0], inside

    def _locate(self, tile: Tile, band: str) -> tuple[str, int]:
        """File of a band, and its place in the file."""
        return tile.file(band, self.pixel), 1

    def lattice(self, position: int) -> Lattice:
        """Pixel corners of one acquisition: patches that snap to them are read untouched.

        Args:
            position: Row of the index.
        """
        acquisition = self.acquisitions[self.lookup.paths[position]]
        crs = self.lookup.crs_text
        if crs == acquisition.crs:
            return Lattice(*acquisition.corner, self.pixel, crs)
        return Lattice(0.0, 0.0, self.res[0], crs)


def _clear_enough(acquisitions: list[Acquisition], max_cloud: float) -> list[Acquisition]:
    """Acquisitions that are clear enough.

    Raises:
        ValueError: If there is none, or *max_cloud* is no share.
    """
    if not 0 <= max_cloud <= 1:
        raise ValueError(f'max_cloud={max_cloud} is not a share from 0 to 1')
    found = [a for a in acquisitions if 1 - a.clear_fraction <= max_cloud + 1e-9]
    if not found:
        known = [1 - a.clear_fraction for a in acquisitions if not math.isnan(a.clear_fraction)]
        best = f'the clearest has {min(known):.2f}' if known else 'nothing tells how clear they are'
        raise ValueError(
            f'none of {len(acquisitions)} acquisitions has at most max_cloud={max_cloud:g} of its '
            f'ground hidden; {best}'
        )
    return found

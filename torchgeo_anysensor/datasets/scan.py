# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Headers of many files, read at the same time and checked without reading pixels."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import BinaryIO, NamedTuple

import rasterio
from pyproj import CRS as PROJ_CRS
from rasterio.io import DatasetReader
from tqdm import tqdm

from .geometry import crs_text
from .handles import DRIVERS
from .index import WHOLE, Header, Place, Tile

# GDAL lets go of Python while it waits for the disk; more threads only wait for each other
_THREADS = 4

_LAST_BLOCKS = 100


class _Found(NamedTuple):
    """What one header tells."""

    crs: str
    header: Header
    tags: dict[str, str]
    bands: int


def scan(tiles: Sequence[Tile], describe: Callable[[Tile], None], *, title: str) -> None:
    """Read the headers of all files of tiles, and what their metadata tell.

    What cannot be used is written into the tiles' ``problems``, never raised: a broken product must
    not hide the thousand good ones beside it.

    Args:
        tiles: Filled in here.
        describe: Takes what the product's own metadata tell; runs after the headers.
        title: Of the progress bar, which is drawn if this takes longer than two seconds.
    """

    def work(tile: Tile) -> None:
        _read_headers(tile)
        if tile.crs:
            try:
                describe(tile)
                _check_zone(tile)
            except (ValueError, OSError) as error:
                tile.problems[WHOLE] = str(error)

    with warnings.catch_warnings(), ThreadPoolExecutor(_THREADS) as pool:
        # Told among the problems
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        for _ in tqdm(
            pool.map(work, tiles),
            total=len(tiles),
            desc=title,
            unit='product',
            delay=2,
            disable=None,  # no bar in a log file
        ):
            pass


def _read_headers(tile: Tile) -> None:
    """Fill in ``headers``, ``crs``, ``tags``, ``counts`` and ``problems``."""
    known: dict[str, _Found] = {}  # one file may hold several bands
    found: dict[Place, _Found] = {}
    for band, grids in tile.files.items():
        for res, path in grids.items():
            if path.lower().endswith('.gml'):
                continue  # cloud masks of old Level-1C products are vectors
            try:
                if path not in known:
                    known[path] = _read_header(path)
            except (rasterio.errors.RasterioError, OSError, ValueError) as error:
                why = str(error).removeprefix(f'{path}: ').removeprefix(f"'{path}' ")
                tile.problems[band, res] = why
                continue
            found[band, res] = known[path]
    tile.counts = {path: one.bands for path, one in known.items()}
    votes = Counter(one.crs for one in found.values())
    tile.crs = votes.most_common(1)[0][0] if votes else ''
    for place, one in found.items():
        if one.crs != tile.crs:
            tile.problems[place] = f'is in {one.crs}, the other bands in {tile.crs}'
            continue
        tile.headers[place] = one.header
        tile.tags.setdefault(place[0], one.tags)


def _check_zone(tile: Tile) -> None:
    """Raise if the name of the tile and the CRS of its files tell two zones.

    Raises:
        ValueError: If so.
    """
    zone, own = tile.utm_zone, _utm_zone(tile.crs)
    if zone and own and zone != own:
        raise ValueError(f'tile {tile.tile} lies in UTM zone {zone}, its files say {tile.crs}')


@lru_cache(maxsize=64)
def _utm_zone(crs: str) -> int:
    """Number of the UTM zone of a CRS, 0 if it is none."""
    zone = PROJ_CRS.from_user_input(crs).utm_zone if crs else None
    return int(zone[:-1]) if zone else 0


def _read_header(path: str) -> _Found:
    """Read one header.

    Raises:
        ValueError: If the file has no CRS, is turned or was cut off.
        rasterio.errors.RasterioIOError: If it cannot be opened.
    """
    with rasterio.Env(), DatasetReader(path, driver=list(DRIVERS)) as src:
        if src.crs is None:
            raise ValueError('has no coordinate reference system')
        t = src.transform
        if t.b or t.d or t.a <= 0 or t.e >= 0:
            raise ValueError(f'is not north up (its transform is {tuple(t)[:6]})')
        check_whole(path, src)
        header = Header(t.c, t.f, t.a, -t.e, src.width, src.height)
        return _Found(crs_text(src.crs.to_wkt()), header, src.tags(), src.count)


def check_whole(path: str, src: DatasetReader) -> None:
    """Raise if the file ends before its pixels do.

    GDAL opens such a file without a word, and may return zeros for what is missing.

    Raises:
        ValueError: If it does.
    """
    if not os.path.isfile(path):  # in an archive, which has its own checks, or on a server
        return
    size = os.path.getsize(path)
    if src.driver in ('GTiff', 'COG'):
        end = _tiff_end(src)
    else:
        with open(path, 'rb') as file:
            end = _jpeg2000_end(file, size)
    if end > size:
        raise ValueError(f'was cut off: it has {size} bytes, its pixels end at byte {end}')


def _tiff_end(src: DatasetReader) -> int:
    """Where the last blocks of the last band end; several threads write them in any order."""
    rows, cols = src.block_shapes[-1]
    across, down = -(-src.width // cols), -(-src.height // rows)
    end = 0
    for number in range(max(0, across * down - _LAST_BLOCKS), across * down):
        block = f'{number % across}_{number // across}'
        offset = src.get_tag_item(f'BLOCK_OFFSET_{block}', 'TIFF', bidx=src.count)
        length = src.get_tag_item(f'BLOCK_SIZE_{block}', 'TIFF', bidx=src.count)
        end = max(end, int(offset or 0) + int(length or 0))  # one never written has neither
    return end


def _jpeg2000_end(file: BinaryIO, size: int) -> int:
    """Where the codestream of a JPEG 2000 file ends, by its boxes (ISO 15444-1, annex I)."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        head = file.read(16)
        if position == 0 and head[:2] == b'\xff\x4f':  # SOC: a codestream without boxes
            return _marked_end(file, size)
        length, kind = int.from_bytes(head[:4]), head[4:8]
        if length == 1:  # the length did not fit into four bytes
            length = int.from_bytes(head[8:16])
        if kind == b'jp2c':
            return position + length if length else _marked_end(file, size)
        if length < 8:
            break
        position += length
    return size + 1


def _marked_end(file: BinaryIO, size: int) -> int:
    """Where a codestream ends that goes up to the end of the file, where its marker EOC is."""
    file.seek(size - 2)
    return size if file.read(2) == b'\xff\xd9' else size + 1

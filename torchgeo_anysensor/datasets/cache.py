# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What was learnt of products, kept as GeoParquet."""

import hashlib
import io
import json
import math
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import pyarrow
import shapely

from .files import on_disk, stamp_on_disk
from .geometry import footprints
from .index import Header, Tile

# Raise it with every change of what is kept, or of how it is read from products.
_FORMAT = 2

_FOLDER = '.torchgeo_anysensor'
_PLAIN = ('tile', 'platform', 'baseline', 'crs', 'clear_fraction', 'uncalibrated', 'note')


def cache_file(roots: Sequence[str], how: str, cache: bool | str | Path) -> Path | None:
    """Where the products that were found are kept.

    Args:
        roots: Folders and files that were searched.
        how: What was searched for, as any text that begins with the name of the sensor.
        cache: True for a hidden folder beside the first root, or, if that cannot be written, the
            user's cache folder; a path for a folder of one's own; False for none.

    Returns:
        The file, which need not be there.
    """
    if cache is False or not roots:
        return None
    first = on_disk(roots[0])
    beside = Path(first) if os.path.isdir(first) else Path(first).parent
    if cache is True and os.access(beside, os.W_OK):
        # What is beside the data may be moved with it
        key, folder = [os.path.relpath(root, beside) for root in roots], beside / _FOLDER
    else:
        folder = _users_folder() if cache is True else Path(cache)
        key = [os.path.abspath(root) for root in roots]
    digest = hashlib.sha256(json.dumps([key, how]).encode()).hexdigest()[:12]
    return folder / f'{how.split()[0]}-{digest}.parquet'


def _users_folder() -> Path:
    """Where the user's programs keep what they can make anew."""
    home = os.environ.get('XDG_CACHE_HOME')
    return (Path(home) if home else Path.home() / '.cache') / 'torchgeo_anysensor'


def stamps(tiles: Sequence[Tile], root: str) -> list[str]:
    """One text for each tile that changes with the name, size or time of any of its files.

    Args:
        tiles: As the listing found them.
        root: Folder that the names are told from, so that it may be moved.
    """
    known: dict[str, str] = {}
    found = []
    inside = os.path.join(root, '')
    for tile in tiles:
        lines = [tile.date]
        paths = [(f'{b}:{r:g}', p) for b, grids in tile.files.items() for r, p in grids.items()]
        for what, path in [*paths, *(('', p) for p in tile.metadata)]:
            if path not in known:
                holder = on_disk(path)
                name = holder.removeprefix(inside)  # os.path.relpath is slow for many files
                name = name if name != holder else os.path.relpath(holder, root)
                member = path.partition(holder)[2] if path != holder else ''
                known[path] = f'{member} {name} {stamp_on_disk(holder)}'
            lines.append(f'{what} {known[path]}')
        found.append(hashlib.sha256('\n'.join(lines).encode()).hexdigest())
    return found


def load(path: Path | None, tiles: Sequence[Tile], marks: Sequence[str]) -> list[Tile]:
    """Fill in what is kept of tiles.

    Args:
        path: Of the cache.
        tiles: As the listing found them.
        marks: Their stamps; what is kept under another one is out of date.

    Returns:
        The tiles of which nothing is kept.
    """
    if path is None or not path.exists():
        return list(tiles)
    try:
        columns = ['format', 'stamp', *_PLAIN, 'start', 'stop', 'facts']
        # By its path it would be opened twice, and another process may replace it in between
        content = io.BytesIO(path.read_bytes())
        kept = pd.read_parquet(content, columns=columns, page_checksum_verification=True)
        known = {
            row['stamp']: _understand(row)
            for row in kept.to_dict('records')
            if row['format'] == _FORMAT
        }
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException):
        return list(tiles)  # damaged, or not ours: made anew
    for tile, mark in zip(tiles, marks):
        for name, value in known.get(mark, {}).items():
            setattr(tile, name, value)
    return [tile for tile, mark in zip(tiles, marks) if mark not in known]


def _understand(row: dict[str, Any]) -> dict[str, Any]:
    """Fields of a tile from a row."""
    facts = json.loads(row['facts'])
    return {
        **{name: row[name] for name in (*_PLAIN, 'start', 'stop')},
        'scale': facts['scale'],
        'offset': facts['offset'],
        'planck': {band: tuple(constants) for band, constants in facts['planck'].items()},
        'headers': {(band, res): Header(*header) for band, res, *header in facts['headers']},
    }


def save(path: Path | None, tiles: Sequence[Tile], marks: Sequence[str]) -> None:
    """Keep what is known of tiles, in place of what was kept.

    Nothing is written if the folder cannot be: the index is then read anew the next time.
    """
    if path is None or not tiles:
        return
    frame = gpd.GeoDataFrame(
        {
            'format': _FORMAT,
            'name': [tile.name for tile in tiles],
            'stamp': list(marks),
            **{name: [getattr(tile, name) for tile in tiles] for name in _PLAIN},
            'start': [tile.start for tile in tiles],
            'stop': [tile.stop for tile in tiles],
            'facts': [_facts(tile) for tile in tiles],
        },
        geometry=_lonlat(tiles),
        crs='OGC:CRS84',
    )
    draft = path.with_name(f'{path.stem}-{uuid.uuid4().hex}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            frame.to_parquet(draft, write_page_checksum=True)
            os.replace(draft, path)  # readers see the old file or the new one, never half of it
        finally:
            draft.unlink(missing_ok=True)
    except OSError:
        return


def _facts(tile: Tile) -> str:
    """What has no column of its own, as JSON."""
    return json.dumps(
        {
            'scale': tile.scale,
            'offset': tile.offset,
            'planck': tile.planck,
            'headers': [[*key, *header] for key, header in tile.headers.items()],
        }
    )


def _lonlat(tiles: Sequence[Tile]) -> list[shapely.Geometry | None]:
    """Ground of each tile in longitude and latitude."""
    found: list[shapely.Geometry | None] = [None] * len(tiles)
    whole = [i for i, tile in enumerate(tiles) if tile.headers]
    boxes = [tiles[i].ground for i in whole]
    for i, geometry in zip(whole, footprints(boxes, [tiles[i].crs for i in whole], 'OGC:CRS84')):
        found[i] = geometry if math.isfinite(geometry.area) else None
    return found

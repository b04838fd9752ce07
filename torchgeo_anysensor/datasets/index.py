# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""From files to tiles, from tiles to acquisitions, from acquisitions to the index of a dataset."""

import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from torchgeo.datasets.utils import disambiguate_timestamp

from .files import base_name
from .geometry import footprints

# Dates without a time of day span a day; anything shorter than this is an instant.
_INSTANT = pd.Timedelta(hours=1)

#: Where a warning is not the user's own line.
PACKAGE = os.path.dirname(os.path.dirname(__file__))

# All are in `problems` of the dataset; the warning names no more than these
_NAMED = 20

#: Where a file, or with an empty name the whole product, has a problem: band and pixel size.
Place = tuple[str, float]
WHOLE: Place = ('', 0.0)


class Header(NamedTuple):
    """The pixel grid of a file: outer corner of its first pixel, and sizes, in units of its CRS."""

    left: float
    top: float
    xres: float
    yres: float
    width: int
    height: int

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north edge."""
        right = self.left + self.width * self.xres
        return self.left, self.top - self.height * self.yres, right, self.top

    @property
    def area(self) -> float:
        """Of all pixels."""
        return self.width * self.xres * self.height * self.yres


@dataclass(slots=True)
class Tile:
    """The files of one product: one tile or scene, as it is delivered.

    The first fields are what names of files tell, the others what their headers and the product's
    metadata tell, or what is kept of that in the cache.
    """

    name: str  #: folder or archive, and product
    date: str  #: as it is written in the name
    #: band to the grids that it is delivered on: pixel size in metres (0: not in the name) to path
    files: dict[str, dict[float, str]] = field(default_factory=dict)
    metadata: list[str] = field(default_factory=list)
    tile: str = ''  #: MGRS tile, or WRS path and row
    platform: str = ''  #: as in STAC: ``sentinel-2b``
    baseline: str = ''  #: processing baseline or collection
    start: pd.Timestamp = pd.NaT
    stop: pd.Timestamp = pd.NaT
    crs: str = ''
    clear_fraction: float = float('nan')  #: of the pixels that were observed
    headers: dict[Place, Header] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)  #: of each band; not kept
    counts: dict[str, int] = field(default_factory=dict)  #: path to bands in the file; not kept
    scale: dict[str, float] = field(default_factory=dict)  #: where the product has its own
    offset: dict[str, float] = field(default_factory=dict)
    planck: dict[str, tuple[float, float]] = field(default_factory=dict)  #: K1, K2 of a band
    uncalibrated: str = ''  #: why digital numbers cannot become reflectance
    note: str = ''  #: what the user should know though it can be read
    problems: dict[Place, str] = field(default_factory=dict)

    @property
    def time(self) -> pd.Timestamp:
        """The instant; noon UTC where only the date is known."""
        span = self.stop - self.start
        return self.start if span < _INSTANT else self.start + span.round('s') / 2

    @property
    def ground(self) -> shapely.Polygon:
        """What its largest file covers, in its own CRS."""
        return shapely.box(*max(self.headers.values(), key=lambda header: header.area).bounds)

    @property
    def utm_zone(self) -> int:
        """Zone that an MGRS tile lies in; 0 for other tiles."""
        match = re.fullmatch(r'T?(\d{2})[C-X][A-Z]{2}', self.tile)
        return int(match[1]) if match else 0

    def place(self, band: str, res: float) -> Place:
        """The band on the grid *res*, or else on its finest grid."""
        grids = self.files[band]
        return band, float(res) if float(res) in grids else min(grids)

    def file(self, band: str, res: float) -> str:
        """File of the band on the grid *res*, or else on its finest grid."""
        return self.files[band][self.place(band, res)[1]]

    def header(self, band: str, res: float) -> Header:
        """Header of that file."""
        return self.headers[self.place(band, res)]

    def why_not(self, bands: Iterable[str], res: float) -> str:
        """Why bands cannot be read, or an empty text."""
        bands = list(bands)
        missing = [band for band in bands if band not in self.files]
        if missing:
            return f'no {", ".join(missing)}'
        for place in (WHOLE, *(self.place(band, res) for band in bands)):
            if place in self.problems:
                where = f'{self.files[place[0]][place[1]]}: ' if place != WHOLE else ''
                return f'{where}{self.problems[place]}'
        return ''


@dataclass(slots=True)
class Acquisition:
    """One sensor over one place at one time: tiles that one pass of a platform saw, in one CRS."""

    name: str
    tiles: list[Tile]
    corner: tuple[float, float] = (0.0, 0.0)  #: left, top of the pixel grid

    @property
    def crs(self) -> str:
        """CRS of all its tiles."""
        return self.tiles[0].crs

    @property
    def start(self) -> pd.Timestamp:
        """Of the first tile."""
        return min(tile.start for tile in self.tiles)

    @property
    def stop(self) -> pd.Timestamp:
        """Of the last tile."""
        return max(tile.stop for tile in self.tiles)

    @property
    def clear_fraction(self) -> float:
        """Share of the observed ground that is clear, where the tiles know it."""
        known = [tile for tile in self.tiles if not math.isnan(tile.clear_fraction)]
        if len(known) == 1:
            return known[0].clear_fraction
        total = sum(tile.ground.area for tile in known)
        clear = sum(tile.clear_fraction * tile.ground.area for tile in known)
        return clear / total if known else float('nan')


def find_tiles(
    files: Iterable[str],
    *,
    filename_regex: str,
    name: Callable[[str, re.Match[str]], str],
    date: str = '',
) -> list[Tile]:
    """Group files by product.

    Args:
        files: Paths; those whose name does not match are ignored.
        filename_regex: Named groups ``date``, ``band``, ``res``, ``tile``; all are optional.
        name: Gives the files of one product the same name.
        date: The one date of all files, where their names have none.

    Returns:
        Tiles in the order of their names.
    """
    pattern = re.compile(filename_regex, re.VERBOSE)
    found: dict[str, Tile] = {}
    for path in files:
        match = pattern.match(base_name(path))
        if match is None:
            continue
        groups = match.groupdict()
        key = name(path, match)
        if key not in found:
            found[key] = Tile(key, date or groups.get('date') or '')
            found[key].tile = groups.get('tile') or ''
            found[key].platform = groups.get('platform') or ''
        res = float(groups.get('res') or 0)
        found[key].files.setdefault(groups.get('band') or '', {})[res] = path
    return [found[key] for key in sorted(found)]


def set_time(tile: Tile, date_format: str) -> None:
    """Take the time from the date in the name.

    Raises:
        ValueError: If it does not fit *date_format*.
    """
    try:
        tile.start, tile.stop = disambiguate_timestamp(tile.date, date_format)
    except ValueError:
        raise ValueError(f'{tile.date!r} is no date in the format {date_format!r}') from None


def complain(
    problems: Mapping[str, str], total: int, what: str, *, strict: bool, hint: str = ''
) -> None:
    """Name what is left out, in one warning.

    Args:
        problems: Name to reason.
        total: How many there are with those that are used.
        what: Kind of thing.
        strict: Raise instead.
        hint: What to do about it.

    Raises:
        ValueError: If *strict*.
    """
    lines = [f'  {name}: {why}' for name, why in list(problems.items())[:_NAMED]]
    if len(problems) > _NAMED:
        lines.append(f'  and {len(problems) - _NAMED} more; see the attribute `problems`')
    text = f'{len(problems)} of {total} {what} cannot be used and are left out:\n'
    text += '\n'.join([*lines, hint] if hint else lines)
    if strict:
        raise ValueError(text)
    warnings.warn(text, skip_file_prefixes=(PACKAGE,))


def group_tiles(tiles: Iterable[Tile], key: Callable[[Tile], str]) -> list[Acquisition]:
    """Put the tiles of one pass together.

    Tiles of one pass in two UTM zones are two acquisitions: the pixels of each stay on their grid.

    Args:
        tiles: With their CRS.
        key: Gives tiles of one pass the same text.

    Returns:
        Acquisitions in the order of their time.
    """
    found: dict[str, Acquisition] = {}
    for tile in tiles:
        name = f'{key(tile)} {tile.crs}'
        found.setdefault(name, Acquisition(name, [])).tiles.append(tile)
    return sorted(found.values(), key=lambda a: (a.start, a.name))


def build_index(acquisitions: dict[str, Acquisition], *, crs: str) -> GeoDataFrame:
    """Make the index of a dataset.

    Args:
        acquisitions: By the path that stands for each; the order is kept.
        crs: Of the index.

    Returns:
        One row for each: ``filepath``, ``geometry``, ``clear_fraction``, ``tile``, ``platform``,
        ``baseline``, and the time intervals as its index.

    Raises:
        ValueError: If an acquisition lies where *crs* has no coordinates.
    """
    tiles = [(row, t) for row, a in enumerate(acquisitions.values()) for t in a.tiles]
    pieces = footprints([t.ground for _, t in tiles], [t.crs for _, t in tiles], crs)
    _check_finite(pieces, [t for _, t in tiles], crs)
    rows = np.array([row for row, _ in tiles])
    if len(set(rows)) == len(rows):
        geometry = pieces
    else:
        parts = np.split(pieces, np.flatnonzero(np.diff(rows)) + 1)
        geometry = np.array([shapely.union_all(own) for own in parts], dtype=object)
    data: dict[str, Any] = {'filepath': list(acquisitions)}
    data['clear_fraction'] = [a.clear_fraction for a in acquisitions.values()]
    for column in ('tile', 'platform', 'baseline'):
        data[column] = [
            ','.join(dict.fromkeys(getattr(t, column) for t in a.tiles))
            for a in acquisitions.values()
        ]
    intervals = pd.IntervalIndex.from_arrays(
        [a.start for a in acquisitions.values()],
        [a.stop for a in acquisitions.values()],
        closed='both',
        name='datetime',
    )
    return GeoDataFrame(data, index=intervals, geometry=geometry, crs=crs)


def _check_finite(pieces: Any, tiles: Sequence[Tile], crs: str) -> None:
    """Raise if a footprint could not be drawn.

    Raises:
        ValueError: If so.
    """
    bad = ~np.isfinite(shapely.bounds(pieces)).all(axis=1)
    if bad.any():
        first = tiles[int(np.flatnonzero(bad)[0])]
        raise ValueError(
            f'{first.name} ({first.crs}) cannot be drawn in {crs}, the CRS of the index: it lies '
            'too far away, or across the edge of that map; give one that shows all acquisitions, '
            "such as crs='EPSG:4326'"
        )

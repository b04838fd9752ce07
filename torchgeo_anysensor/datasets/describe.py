# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Products in words."""

import os
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath

import numpy as np
import pandas as pd
import shapely
from pyproj import CRS as PROJ_CRS
from torch import Tensor

from ..sensors import Band, Sensor
from .geometry import footprints, in_metres, is_geographic
from .index import WHOLE, Acquisition, Header, Tile, group_tiles
from .plot import look_at_product
from .safe import product_name
from .sensor import SensorDataset

_NAMED = 20  # acquisitions and problems that are listed
_COLUMNS = 100  # of the terminal
_INDENT = 15  # of these, for what a row is
_INSTANT = pd.Timedelta(hours=1)  # a date without a time of day spans a day

#: Names of metadata of a whole product, unlike those of a granule, and masks.
PRODUCT_METADATA = re.compile(r'MTD_MSI|.*_MTL\.|.*\.cmr\.xml$')

Row = tuple[str, list[str]]


@dataclass(frozen=True)
class Found:
    """What one sensor has at a path, or rasters of one kind that belong to none.

    Args:
        title: What it is.
        rows: Labels, and lines of text.
        look: Reads a picture of it, for :func:`~.plot.draw_panels`.
    """

    title: str
    rows: list[Row]
    look: Callable[[], tuple[str, Tensor]] | None = None

    def __str__(self) -> str:
        """The title, and below it a table."""
        lines = [self.title]
        for label, texts in self.rows:
            for i, text in enumerate(texts):
                lines += textwrap.wrap(
                    text,
                    _COLUMNS,
                    initial_indent=f'  {"" if i else label}'.ljust(_INDENT),
                    subsequent_indent=' ' * (_INDENT + 2),
                    break_long_words=False,
                    break_on_hyphens=False,
                )
        return '\n'.join(lines)


# -- products ----------------------------------------------------------------------------------


def describe_products(
    catalog: SensorDataset,
    tiles: Sequence[Tile],
    *,
    root: str,
    problems: Mapping[str, str],
    notes: Sequence[str],
) -> Found:
    """Describe the products of one sensor.

    Args:
        catalog: Dataset of the sensor, which need not have an index.
        tiles: What it found and learnt.
        root: What was searched.
        problems: Of what is no tile, by name.
        notes: What else the user should know.
    """
    seen = [tile for tile in tiles if tile.headers]
    good = [tile for tile in seen if WHOLE not in tile.problems]
    found = group_tiles(good, catalog._pass)
    names = [*catalog.sensor.band_names, *(qa.band for qa in catalog.sensor.qa)]
    rows: list[Row] = [('products', [_counts(good, found)])]
    if seen:
        for label, values in (
            ('platforms', [tile.platform for tile in seen]),
            ('baselines', [tile.baseline for tile in seen]),
            ('tiles', [tile.tile for tile in seen]),
        ):
            rows.append((label, [first_names(sorted(filter(None, set(values))), _NAMED) or '-']))
        if good:
            rows.append(('dates', [_dates(found)]))
        rows.append(('extent', extent_of([(tile.ground, tile.crs) for tile in seen])))
        rows.append(('grids', _grids(seen, names)))
        rows += _bands(seen, names, lone=is_single_file(root))
    if good:
        rows.append(('calibration', _calibration(good, catalog)))
        rows.append(('clear', _clear(found)))
    reasons = [f'{relative(name, root)}: {why}' for name, why in problems.items()]
    for tile in tiles:
        for (band, _), why in tile.problems.items():
            reasons.append(f'{product_of(tile)}{band and f", {band}"}: {why}')
    more = [f'{product_of(tile)}: {tile.note}' for tile in good if tile.note]
    for label, lines in (('notes', [*notes, *more]), ('problems', reasons)):
        if len(lines) > _NAMED:
            lines = [*lines[:_NAMED], f'and {len(lines) - _NAMED} more']
        if lines:
            rows.append((label, lines))
    if good:
        rows.append(('read with', [_call(catalog, good, root)]))
    look = partial(look_at_product, catalog, found) if good else None
    return Found(f'{catalog.sensor.title} ({catalog.sensor.name})', rows, look)


def _counts(tiles: Sequence[Tile], acquisitions: Sequence[Acquisition]) -> str:
    """How many products, and acquisitions where that differs."""
    if len(tiles) == len(acquisitions):
        return str(len(tiles)) if tiles else 'none that can be read'
    return f'{len(tiles)}, in {len(acquisitions)} acquisition{"s" * (len(acquisitions) > 1)}'


def _call(catalog: SensorDataset, tiles: Sequence[Tile], root: str) -> str:
    """Code that reads the products, as far as they are there."""
    sensor, bands = catalog.sensor, catalog._default_bands(None)
    call = f'{type(catalog).__name__}({_folder(root)!r}'
    quality = [qa.band for qa in sensor.qa]

    def some_have(names: Sequence[str]) -> bool:
        return any(not tile.why_not(names, 0) for tile in tiles)

    if is_single_file(root) or some_have([*bands, *quality]):
        return f'{call}){_other_grids(tiles, sensor, bands)}'
    there = [name for name in sensor.band_names if some_have([name])]
    if not there:
        return 'nothing: a dataset needs a band besides the quality bands'
    own = [name for name in bands if name in there] or there[:1]
    return f'{call}, bands={own}{"" if some_have([*own, *quality]) else ", qa=False"})'


def _other_grids(tiles: Sequence[Tile], sensor: Sensor, bands: Sequence[str]) -> str:
    """What to ask for where files have other pixels than those of the default bands."""
    whole = [tile for tile in tiles if not tile.why_not(bands, 0)]
    others = {
        band.gsd_m
        for tile in whole
        for band in sensor.bands
        if band.unit == 'reflectance'
        and not tile.why_not([band.name], 0)
        and tile.header(band.name, 0).xres != tile.header(bands[0], 0).xres
    }
    asked = ' or '.join(f'res={gsd:g}' for gsd in sorted(others))
    return f'; {asked} for its other grids' if others else ''


def _folder(root: str) -> str:
    """What a dataset is to be given: the folder of the product if there is a single band."""
    if not is_single_file(root):
        return root
    safe = [str(p) for p in PurePath(root).parents if p.suffix.upper() == '.SAFE']
    return safe[0] if safe else os.path.dirname(root)


def _dates(acquisitions: Sequence[Acquisition]) -> str:
    """First, last and how many."""
    first, last = acquisitions[0], acquisitions[-1]
    days = len({acquisition.start.date() for acquisition in acquisitions})
    utc = ' UTC' if ':' in _when(first) else ''
    if days == 1:
        return f'{_when(first)}{utc}'
    return f'{_when(first)} to {_when(last)}{utc}, on {days} days'


def _when(acquisition: Acquisition) -> str:
    """Time of an acquisition as precise as it is known."""
    tile = acquisition.tiles[0]
    known = tile.stop - tile.start < _INSTANT
    return f'{acquisition.start:%Y-%m-%d{" %H:%M" if known else ""}}'


def extent_of(boxes: Sequence[tuple[shapely.Polygon, str]]) -> list[str]:
    """In degrees, and in each CRS."""
    shapes, crss = [box for box, _ in boxes], [crs for _, crs in boxes]
    parts = shapely.get_parts(footprints(shapes, crss, 'OGC:CRS84'))
    west, south, east, north = shapely.total_bounds(parts)
    if east - west > 180:  # on both sides of the antimeridian
        edges = shapely.bounds(parts)
        west, east = edges[edges[:, 0] >= 0, 0].min(), edges[edges[:, 2] < 0, 2].max()
    lines = [f'longitude {west:.4f} to {east:.4f}, latitude {south:.4f} to {north:.4f}']
    for crs in dict.fromkeys(crss):
        left, bottom, right, top = shapely.total_bounds([b for b, own in boxes if own == crs])
        lines.append(f'{crs_name(crs)}: x {left:.9g} to {right:.9g}, y {bottom:.9g} to {top:.9g}')
    return lines


def _grids(tiles: Sequence[Tile], names: Sequence[str]) -> list[str]:
    """Pixel size, shape and corner of each grid, and which of the bands *names* are on it."""
    found: dict[tuple[float, str], tuple[set[str], set[str]]] = {}
    for tile in tiles:
        for (band, named), header in tile.headers.items():
            text = shape_of(header, tile.crs)
            if named and in_metres(tile.crs) and abs(named / header.xres - 1) > 0.01:
                text += f' (named {named:g} m)'
            bands, corners = found.setdefault((header.xres, text), (set(), set()))
            bands.add(band)
            corners.add(f'corner {header.left:.9g}, {header.top:.9g}')
    lines = []
    for (_, text), (bands, corners) in sorted(found.items(), key=lambda item: item[0][0]):
        corner = corners.pop() if len(corners) == 1 else f'{len(corners)} corners'
        lines.append(f'{text}, {corner}: {" ".join(name for name in names if name in bands)}')
    return lines


def shape_of(header: Header, crs: str) -> str:
    """Pixel size and shape."""
    size = f'{header.xres:.6g}'
    if abs(header.yres / header.xres - 1) > 1e-6:
        size += f' x {header.yres:.6g}'
    unit = 'deg' if is_geographic(crs) else 'm' if in_metres(crs) else 'units'
    return f'{size} {unit}, {header.width} x {header.height} pixels'


def _bands(tiles: Sequence[Tile], names: Sequence[str], *, lone: bool) -> list[Row]:
    """Which bands are there, and which are not."""
    lacking: dict[tuple[str, ...], list[str]] = {}  # products, to what they have not
    for name in names:
        without = tuple(product_of(tile) for tile in tiles if name not in tile.files)
        lacking.setdefault(without, []).append(name)
    nowhere = set[str]().union(
        *(own for without, own in lacking.items() if len(without) == len(tiles))
    )
    rows: list[Row] = [('bands', [' '.join(name for name in names if name not in nowhere)])]
    if lone:
        return rows
    lines = []
    for without, own in lacking.items():
        if without:
            which = f' in {len(without)} of {len(tiles)} products: {first_names(without, 2)}'
            lines.append(' '.join(own) + (which if len(without) < len(tiles) else ''))
    return [*rows, ('missing', lines or ['none'])]


def _calibration(tiles: Sequence[Tile], catalog: SensorDataset) -> list[str]:
    """Scale and offset of each unit, and where they come from."""
    found: dict[tuple[str, str], Counter[tuple[float, float]]] = {}
    for tile in tiles:
        if tile.uncalibrated:
            continue
        used = [band for band in catalog.sensor.bands if band.name in tile.files]
        for unit, scale, offset in dict.fromkeys(
            (_unit(band, tile), *catalog._calibration(tile, band)) for band in used
        ):
            found.setdefault((unit, _source(tile)), Counter())[scale, offset] += 1
    lines = []
    for (unit, source), pairs in found.items():
        if len(pairs) > 3:
            scales, offsets = zip(*pairs)
            text = f'scale {min(scales):.5g} to {max(scales):.5g}, '
            text += f'offset {min(offsets):.5g} to {max(offsets):.5g}'
            lines.append(f'{unit}: {text}, from {source}')
            continue
        for (scale, offset), number in pairs.items():
            count = f' ({number} of {len(tiles)} products)' if number < len(tiles) else ''
            lines.append(f'{unit}: scale {scale:.5g}, offset {offset:.5g}, from {source}{count}')
    reasons = Counter(tile.uncalibrated for tile in tiles if tile.uncalibrated)
    for reason, number in reasons.items():
        lines.append(f'not known for {number} of {len(tiles)} products: {reason}')
    return lines or ['none: there are quality bands alone']


def _unit(band: Band, tile: Tile) -> str:
    """What digital numbers become."""
    if band.unit == 'reflectance':
        return band.unit
    return "kelvin by Planck's law" if band.name in tile.planck else 'kelvin'


def _source(tile: Tile) -> str:
    """Where scale and offset come from."""
    if not tile.offset:
        return "the sensor's table"
    names = [os.path.basename(path) for path in tile.metadata]
    own = [name for name in names if PRODUCT_METADATA.match(name)]
    if not own:
        return f'the baseline {tile.baseline} in the name'
    return own[0].removeprefix(f'{os.path.basename(tile.name)}_')


def _clear(acquisitions: Sequence[Acquisition]) -> list[str]:
    """Clear fraction, time and name of each acquisition."""
    lines = []
    for acquisition in acquisitions[:_NAMED]:
        share = acquisition.clear_fraction
        name, more = product_of(acquisition.tiles[0]), len(acquisition.tiles) - 1
        text = '   -' if np.isnan(share) else f'{share:.2f}'
        plus = f' and {more} more' if more else ''
        lines.append(f'{text}  {_when(acquisition)}  {name}{plus}')
    if len(acquisitions) > _NAMED:
        shares = pd.Series([a.clear_fraction for a in acquisitions])
        lines.append(
            f'and {len(acquisitions) - _NAMED} more; of all, from {shares.min():.2f} to '
            f'{shares.max():.2f}, median {shares.median():.2f}'
        )
    return lines


# -- words -------------------------------------------------------------------------------------


def band_files(tile: Tile) -> list[str]:
    """All files of bands."""
    return [path for grids in tile.files.values() for path in grids.values()]


def product_of(tile: Tile) -> str:
    """Name of the product that a tile is of."""
    name = PurePath(tile.name)
    folder = name.parent
    if folder.suffix.upper() == '.SAFE' or product_name(folder.name):
        name = folder
    return name.stem if name.suffix.upper() == '.SAFE' else name.name


def is_single_file(path: str) -> bool:
    """Whether a path is a file that holds no others."""
    return os.path.isfile(path) and not path.lower().endswith(('.zip', '.tar'))


def relative(path: str, root: str) -> str:
    """A path as it is named inside of the root, which is a folder, an archive or the path."""
    path = re.sub(r'^/vsi(zip|tar)/', '', path)
    return path.removeprefix(f'{root}/') if path != root else os.path.basename(path)


def first_names(names: Iterable[str], most: int) -> str:
    """The first names, and how many there are more."""
    names = list(names)
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more


def crs_name(crs: str) -> str:
    """Code or name of a CRS."""
    return crs if crs.startswith('EPSG:') else str(PROJ_CRS.from_user_input(crs).name)

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What lies at a path: sensors, products, dates, grids, calibration, problems, and a picture."""

import glob
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import PurePath
from typing import NamedTuple

import rasterio
import shapely
from matplotlib import pyplot as plt
from rasterio.io import DatasetReader

from .. import datasets
from ..sensors import SENSORS, Sensor
from .describe import (
    PRODUCT_METADATA,
    Found,
    band_files,
    crs_name,
    describe_products,
    extent_of,
    first_names,
    is_single_file,
    product_of,
    relative,
    shape_of,
)
from .files import list_files
from .geometry import crs_text
from .handles import open_raster
from .index import Header, Tile
from .plot import draw_panels, look_at_raster
from .sensor import SensorDataset

_HEADERS = 1000  # rasters of no known product that are opened
_KINDS = 20  # of these, that are described
_PANELS = 12
_EXPLANATION = [
    'Nothing in these files tells which bands they have and what a digital number (DN) means.',
    '`torchgeo-anysensor sensors` lists sensors, `... sensors NAME` the bands of one.',
    'Reflectance is DN * scale + offset.',
    'For bands in separate files give filename_regex with a group (?P<band>...).',
]
_RASTER = re.compile(r'.*\.(tiff?|jp2)$', re.IGNORECASE)
_SIGNATURE = 'torchgeo-anysensor inspect'


class _Survey(NamedTuple):
    """The products of one sensor. The catalog has no index: it would want complete products."""

    catalog: SensorDataset
    tiles: list[Tile]
    problems: dict[str, str]
    notes: list[str]


def inspect_path(path: str | os.PathLike[str]) -> list[Found]:
    """Find out what lies at a path; nothing is written.

    Args:
        path: Folder with products of any sensors, or one product, archive or file.

    Returns:
        One description for each sensor or, where there is none, for each kind of rasters.

    Raises:
        ValueError: If nothing is there that could be read.
    """
    if not os.path.exists(path):
        raise ValueError(f'{path}: there is no such file or folder')
    root = os.path.abspath(path)
    surveys = _survey(root)
    rasters = _rasters(root)
    found = [
        describe_products(s.catalog, s.tiles, root=root, problems=s.problems, notes=s.notes)
        for s in surveys
    ]
    known = {file for survey in surveys for tile in survey.tiles for file in band_files(tile)}
    others = [file for file in rasters if file not in known]
    if others and any(survey.tiles for survey in surveys):
        names = first_names(map(os.path.basename, others), 3)
        rows = [('files', [names, 'to see one, inspect it by its own path'])]
        found.append(Found('Other rasters, which are not bands of these products', rows))
    elif others:
        found += _describe_rasters(others, root)
    if not found:
        titles = ', '.join(sensor.title for sensor in SENSORS.values())
        raise ValueError(
            f'{path}: found no product of a known sensor and no GeoTIFF or JPEG 2000 file. '
            f'Expected files named as the agencies name them ({titles}), in folders, in .zip or in '
            'uncompressed .tar'
        )
    return found


def picture_path(path: str | os.PathLike[str], out: str | os.PathLike[str] | None) -> str:
    """Where the quick-look of a path goes.

    Args:
        path: What is inspected.
        out: The file, or None for ``<name of the product or folder>.png`` in the current folder.

    Raises:
        ValueError: If another file is there, or the folder is not.
    """
    if out is None:
        name = os.path.basename(os.path.abspath(os.fspath(path)))
        name = re.sub(r'(\.(SAFE|zip|tar|tiff?|jp2))+$', '', name, flags=re.IGNORECASE)
        out = f'{re.sub(r"[*?]", "_", name) or "root"}.png'
    out = os.fspath(out)
    folder = os.path.dirname(out) or '.'
    if not os.path.isdir(folder):
        raise ValueError(f'{out}: there is no folder {folder}')
    if os.path.isdir(out):
        raise ValueError(f'{out}: is a folder; name the picture to write')
    if os.path.exists(out):
        with open(out, 'rb') as file:
            if _SIGNATURE.encode() not in file.read(1024):
                raise ValueError(
                    f'{out}: is there, and is no earlier quick-look; give another name'
                )
    return out


def draw(found: Iterable[Found], out: str) -> tuple[int, list[str]]:
    """Write the quick-look: a picture of each thing found, hatched where it is not valid.

    Args:
        found: Of :func:`inspect_path`.
        out: Of :func:`picture_path`.

    Returns:
        Number of pictures, and why other things have none. Without any, nothing is written.
    """
    panels, reasons = [], []
    for section in [section for section in found if section.look][:_PANELS]:
        try:
            assert section.look is not None, 'chosen above'
            panels.append(section.look())
        except (OSError, ValueError, rasterio.errors.RasterioError) as error:
            reasons.append(f'{section.title}: {error}')
    if panels:
        size = max(4.0, 8 / len(panels) ** 0.5)
        fig = draw_panels(panels, show_titles=True, suptitle=None, size_in=size)
        metadata = {'Software': _SIGNATURE}
        fig.savefig(out, format='png', dpi=125, bbox_inches='tight', metadata=metadata)
        plt.close(fig)
    return len(panels), reasons


# -- search ------------------------------------------------------------------------------------


def _survey(root: str) -> list[_Survey]:
    """Ask every sensor for its products.

    Raises:
        ValueError: If there is an archive that cannot be opened.
    """
    everything = [getattr(datasets, name) for name in datasets.__all__]
    classes: dict[str, type[SensorDataset]] = {
        cls.sensor.name: cls
        for cls in everything
        if isinstance(cls, type) and issubclass(cls, SensorDataset) and hasattr(cls, 'sensor')
    }
    surveys = []
    for name in SENSORS:
        cls = classes[name]
        catalog = cls.__new__(cls)
        near = _metadata_near(root, cls.sensor)
        catalog.paths, catalog.pixel = [root, *near], 0.0
        listing = catalog._list()
        if root in listing.broken:
            raise ValueError(f'{root}: {listing.broken[root]}')
        tiles = catalog._tiles(listing.files)
        problems = dict(listing.broken)
        if not near:
            problems |= _without_bands(listing.files, tiles, cls.sensor)
        surveys.append(_Survey(catalog, tiles, problems, []))
    _assign(surveys)
    for survey in surveys:
        survey.catalog._learn(survey.tiles, False)
    return [survey for survey in surveys if survey.tiles or survey.problems]


def _metadata_near(root: str, sensor: Sensor) -> list[str]:
    """Metadata of the product that a single band file belongs to, beside it and above."""
    if not is_single_file(root):
        return []
    pattern = re.compile(sensor.metadata_regex, re.VERBOSE)
    return [
        file
        for folder in list(PurePath(root).parents)[:5]  # R10m, IMG_DATA, tile, GRANULE, .SAFE
        for file in sorted(glob.glob(os.path.join(glob.escape(str(folder)), '*')))
        if pattern.match(os.path.basename(file))
    ]


def _without_bands(files: Sequence[str], tiles: Sequence[Tile], sensor: Sensor) -> dict[str, str]:
    """Products of which the metadata alone are there."""
    pattern = re.compile(sensor.metadata_regex, re.VERBOSE)
    there = {os.path.basename(tile.name) for tile in tiles}
    for tile in tiles:
        for file in band_files(tile):
            # Not pathlib: it writes the two slashes of /vsizip//data as one
            folder = os.path.dirname(file)
            while folder not in there and folder != os.path.dirname(folder):
                there.add(folder)
                folder = os.path.dirname(folder)
    found = {}
    for file in files:
        match = pattern.match(os.path.basename(file))
        if match and PRODUCT_METADATA.match(os.path.basename(file)):
            name = match.groupdict().get('product') or os.path.dirname(file)
            if name not in there:
                found[name] = f'has metadata ({os.path.basename(file)}), but no bands'
    return found


def _assign(surveys: Sequence[_Survey]) -> None:
    """Leave files that fit several sensors to the one that explains most of them.

    The name ``B02.tif`` may be of either level of Sentinel-2.
    """
    claims: dict[str, Counter[str]] = {}
    for survey in surveys:
        for tile in survey.tiles:
            for file in band_files(tile):
                weight = len(band_files(tile))
                claims.setdefault(file, Counter())[survey.catalog.sensor.name] = weight
    for survey in surveys:
        own = survey.catalog.sensor.name
        for tile in list(survey.tiles):
            claim = Counter[str]()
            for file in band_files(tile):
                claim |= claims[file]  # the larger of two weights
            most = [name for name, weight in claim.items() if weight == max(claim.values())]
            if own not in most:
                survey.tiles.remove(tile)
            elif len(most) > 1:
                others = ', '.join(name for name in most if name != own)
                survey.notes.append(f'{product_of(tile)}: its names fit {others} as well')


def _rasters(root: str) -> list[str]:
    """Files that may be rasters; a single file in any case."""
    lone = is_single_file(root)
    return list_files(root, lambda name: lone or _RASTER.match(name) is not None).files


# -- rasters -----------------------------------------------------------------------------------


def _describe_rasters(files: Sequence[str], root: str) -> list[Found]:
    """Rasters that belong to no known product, those of one kind together.

    Raises:
        ValueError: If none can be read.
    """
    kinds: dict[tuple[tuple[str, str], ...], list[str]] = {}
    boxes: dict[str, tuple[shapely.Polygon, str]] = {}
    problems: list[str] = []
    for file in files[:_HEADERS]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
                src = open_raster(file)
        except (rasterio.errors.RasterioError, OSError) as error:
            problems.append(f'{relative(file, root)}: {error}')
            continue
        kinds.setdefault(_facts(src), []).append(file)
        if src.crs is not None:
            boxes[file] = shapely.box(*src.bounds), crs_text(src.crs.to_wkt())
    if not kinds:
        packed = ', unpack it first' if re.search(r'\.(t?gz|bz2|xz|7z)$', root) else ''
        raise ValueError(
            f'{root}: found no band of a known sensor, and no readable GeoTIFF or JPEG 2000 '
            f'({problems[0]}){packed}'
        )
    found = []
    for facts, own in list(kinds.items())[:_KINDS]:
        names = first_names([relative(file, root) for file in own], 4)
        rows = [('files', [names]), *((label, [text]) for label, text in facts if text)]
        placed = [boxes[file] for file in own if file in boxes]
        crs = dict.fromkeys(crs_name(crs) for _, crs in placed)
        rows.append(('CRS', [first_names(crs, 4) or 'none']))
        if placed:
            rows.append(('extent', extent_of(placed)))
        rows.append(('read with', _calls(own, root)))
        title = f'{len(own)} rasters' if own[1:] else 'Raster'
        found.append(Found(f'{title} of no known product', rows, partial(look_at_raster, own[0])))
    if len(kinds) > _KINDS:
        found.append(Found(f'Rasters of {len(kinds) - _KINDS} more kinds', []))
    if len(files) > _HEADERS:
        found.append(Found(f'{len(files) - _HEADERS} more rasters, which were not opened', []))
    if problems:
        more = [f'and {len(problems) - _KINDS} more'] if len(problems) > _KINDS else []
        found.append(Found('Cannot be read', [('files', problems[:_KINDS] + more)]))
    found.append(Found('To read them', [('', _EXPLANATION)]))
    return found


def _facts(src: DatasetReader) -> tuple[tuple[str, str], ...]:
    """What a header tells, but the place."""
    t, crs = src.transform, crs_text(src.crs.to_wkt()) if src.crs is not None else ''
    header = Header(t.c, t.f, t.a, -t.e, src.width, src.height)
    grid = shape_of(header, crs) if crs else f'{src.width} x {src.height} pixels'
    if t.b or t.d or t.a <= 0 or t.e >= 0:
        grid += '; not north up, so that no dataset can read it'
    bands = f'{src.count}, {", ".join(dict.fromkeys(src.dtypes))}'
    bands += ', no nodata value' if src.nodata is None else f', nodata {src.nodata:g}'
    tags = []
    if set(src.scales) != {1.0} or set(src.offsets) != {0.0}:
        pairs = dict.fromkeys(zip(src.scales, src.offsets))
        tags = [f'scale {scale:g}, offset {offset:g}' for scale, offset in pairs]
    return (
        ('format', src.driver),
        ('grid', grid),
        ('bands', bands),
        ('names', ' '.join(filter(None, src.descriptions))),
        ('tags', '; '.join(tags)),
    )


def _calls(files: Sequence[str], root: str) -> list[str]:
    """Code to be completed, as nothing in the files tells what their bands are."""
    src = open_raster(files[0])
    if os.path.isdir(root) and files[1:]:
        where = os.path.commonpath([os.path.dirname(file) for file in files])
    else:
        where = root if files[1:] else files[0]
    dated = all(re.search(r'\d{8}', os.path.basename(file)) for file in files)
    date = '' if dated else ', date=...'
    names = f'{src.count} names' if src.count > 1 else 'name'
    if src.count > 1 and all(src.descriptions):
        names = ', '.join(map(repr, src.descriptions))
    calls = [f'StackDataset(sensor, {where!r}, bands=[{names}], scale=..., offset=...{date})']
    if src.count == 1 and not src.dtypes[0].startswith('float'):
        calls.append(f'LabelRaster({where!r}) if its values are classes')
    return calls

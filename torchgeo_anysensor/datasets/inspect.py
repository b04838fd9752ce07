# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What lies at a path: sensors, products, dates, grids, calibration, problems, and a picture."""

import glob
import os
import re
import tarfile
import warnings
import zipfile
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
    product_of,
    relative,
    shape_of,
)
from .files import list_files
from .geometry import crs_text
from .index import Header, Tile
from .plot import draw_panels, look_at_raster
from .read import open_raster
from .sensor import SensorDataset

_HEADERS = 1000  # rasters of no known product that are opened
_EXPLANATION = (
    'Nothing in these files tells what they are. `torchgeo-anysensor sensors` lists the sensors and '
    'names of bands that StackDataset knows. Reflectance is DN * scale + offset. Where bands are in '
    'separate files, filename_regex has a group (?P<band>...).'
)
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
        path: Folder with products of any sensors, one product, archive or file, or a pattern.

    Returns:
        One description for each sensor or, where there is none, for each kind of rasters.

    Raises:
        ValueError: If nothing is there that could be read.
    """
    root = _root(os.fspath(path))
    try:
        surveys = _survey(root)
        rasters = _rasters(root)
    except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise ValueError(f'{path}: cannot be searched ({error})') from None
    found = [
        describe_products(s.catalog, s.tiles, root=root, problems=s.problems, notes=s.notes)
        for s in surveys
    ]
    known = {file for survey in surveys for tile in survey.tiles for file in band_files(tile)}
    others = [file for file in rasters if file not in known]
    if surveys and others:
        names = first_names(map(os.path.basename, others), 3)
        rows = [('files', [names, 'to see one, inspect it by its own path'])]
        found.append(Found('Other rasters, which are not bands of these products', rows))
    elif others:
        found = _describe_rasters(others, root)
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
    for section in found:
        if section.look is None:
            continue
        try:
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


def _root(path: str) -> str:
    """The path, absolute; an archive as the folder that it is inside.

    Raises:
        ValueError: If there is nothing.
    """
    if not os.path.exists(path):
        if path.startswith('/vsi') or glob.glob(path, recursive=True):
            return path
        raise ValueError(f'{path}: there is no such file or folder')
    path = os.path.abspath(path)
    kind = os.path.splitext(path)[1].lower()
    return f'/vsi{kind[1:]}/{path}' if kind in ('.zip', '.tar') and os.path.isfile(path) else path


def _survey(root: str) -> list[_Survey]:
    """Ask every sensor for its products."""
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
    if not os.path.isfile(root):
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
    there = {PurePath(tile.name).name for tile in tiles}
    there |= {str(p) for tile in tiles for file in band_files(tile) for p in PurePath(file).parents}
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
                weight = len(band_files(tile)) + len(tile.metadata)
                claims.setdefault(file, Counter())[survey.catalog.sensor.name] = weight
    for survey in surveys:
        own = survey.catalog.sensor.name
        for tile in list(survey.tiles):
            claim = claims[band_files(tile)[0]]
            most = [name for name, weight in claim.items() if weight == max(claim.values())]
            if own not in most:
                survey.tiles.remove(tile)
            elif len(most) > 1:
                others = ', '.join(name for name in most if name != own)
                survey.notes.append(f'{product_of(tile)}: its names fit {others} as well')


def _rasters(root: str) -> list[str]:
    """Files that may be rasters; a single file in any case."""
    lone = os.path.isfile(root)
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
        raise ValueError(f'found no product of a known sensor, and no raster: {problems[0]}')
    found = []
    for facts, own in kinds.items():
        names = first_names([relative(file, root) for file in own], 4)
        rows = [('files', [names]), *((label, [text]) for label, text in facts if text)]
        placed = [boxes[file] for file in own if file in boxes]
        if placed:
            rows.append(('extent', extent_of(placed)))
        rows.append(('read with', _calls(own, root)))
        title = f'{len(own)} rasters' if own[1:] else 'Raster'
        found.append(Found(f'{title} of no known product', rows, partial(look_at_raster, own[0])))
    if len(files) > _HEADERS:
        problems.append(f'{len(files) - _HEADERS} more rasters were not opened')
    if problems:
        found.append(Found('Problems', [('files', problems[:_HEADERS])]))
    found.append(Found('To read them', [('', [_EXPLANATION])]))
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
        ('CRS', crs_name(crs) if crs else 'none'),
        ('grid', grid),
        ('bands', bands),
        ('names', ' '.join(filter(None, src.descriptions))),
        ('tags', '; '.join(tags)),
    )


def _calls(files: Sequence[str], root: str) -> list[str]:
    """Code to be completed, as nothing in the files tells what their bands are."""
    src = open_raster(files[0])
    where = root if files[1:] else files[0]
    dated = all(re.search(r'\d{8}', os.path.basename(file)) for file in files)
    date = '' if dated else ', date=...'
    names = f'[{src.count} names]' if src.count > 1 else '[name]'
    calls = [f'StackDataset(sensor, {where!r}, bands={names}, scale=..., offset=...{date})']
    if src.count == 1 and not src.dtypes[0].startswith('float'):
        calls.append(f'LabelRaster({where!r}) if its values are classes')
    return calls

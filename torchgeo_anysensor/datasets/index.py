# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""From file names to acquisitions, and from acquisitions to the index of a dataset."""

import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
import rasterio
import shapely
from geopandas import GeoDataFrame, GeoSeries
from pyproj import CRS as PROJ_CRS
from rasterio.crs import CRS
from torchgeo.datasets.utils import disambiguate_timestamp

from .read import open_raster

# Dates without a time of day span a day; anything shorter than this is an instant.
_INSTANT = pd.Timedelta(hours=1)


@dataclass(slots=True)
class Acquisition:
    """The files of one sensor over one place at one time.

    ``files`` maps a band to the grids it is delivered on: pixel size in metres (0 where the name
    does not say) to path.
    """

    name: str
    start: pd.Timestamp
    stop: pd.Timestamp
    files: dict[str, dict[float, str]] = field(default_factory=dict)
    scale: dict[str, float] = field(default_factory=dict)  # where the product overrides the table
    offset: dict[str, float] = field(default_factory=dict)
    crs: CRS | None = None
    corner: tuple[float, float] = (0.0, 0.0)  # left, top of the pixel grid

    @property
    def time(self) -> pd.Timestamp:
        """The instant; noon UTC where only the date is known."""
        span = self.stop - self.start
        return self.start if span < _INSTANT else self.start + span.round('s') / 2

    def file(self, band: str, res: float) -> str:
        """The band's file on the grid *res*, or else on its finest grid."""
        grids = self.files[band]
        return grids.get(float(res), grids[min(grids)])


def find_acquisitions(
    files: Iterable[str],
    *,
    filename_regex: str,
    date_format: str,
    group: Callable[[str, re.Match[str]], str],
    date: str | None = None,
) -> list[Acquisition]:
    """Group files into acquisitions.

    Args:
        files: Paths; those whose name does not match are ignored.
        filename_regex: Named groups ``date``, and optionally ``band`` and ``res``.
        date_format: How ``date`` is written, for ``strptime``.
        group: Gives files of one acquisition the same name.
        date: The one date of all files, where their names have none.

    Returns:
        Acquisitions in the order of their time.

    Raises:
        ValueError: If a date does not fit *date_format*.
    """
    pattern = re.compile(filename_regex, re.VERBOSE)
    found: dict[str, Acquisition] = {}
    for path in files:
        match = pattern.match(os.path.basename(path))
        if match is None:
            continue
        groups = match.groupdict()
        name = group(path, match)
        if name not in found:
            try:
                start, stop = disambiguate_timestamp(date or groups['date'], date_format)
            except ValueError as error:
                raise ValueError(f'{path}: {error}; see date_format') from None
            found[name] = Acquisition(name, start, stop)
        res = float(groups.get('res') or 0)
        found[name].files.setdefault(groups.get('band') or '', {})[res] = path
    return sorted(found.values(), key=lambda a: (a.start, a.name))


def complete(acquisitions: Sequence[Acquisition], bands: Iterable[str]) -> list[Acquisition]:
    """Acquisitions that have all of *bands*; the others are named in one warning."""
    wanted = list(bands)
    lacking = {
        a.name: [band for band in wanted if band not in a.files]
        for a in acquisitions
        if not all(band in a.files for band in wanted)
    }
    if lacking:
        lines = [f'  {name}: no {", ".join(bands)}' for name, bands in list(lacking.items())[:5]]
        warnings.warn(
            f'{len(lacking)} of {len(acquisitions)} acquisitions lack a band file and are left out '
            '(qa=False does without the quality band):\n' + '\n'.join(lines),
            stacklevel=4,
        )
    return [a for a in acquisitions if a.name not in lacking]


def build_index(
    anchors: Mapping[str, Acquisition], *, crs: PROJ_CRS | None
) -> tuple[GeoDataFrame, float]:
    """Read the header of one file of each acquisition.

    Args:
        anchors: Acquisitions by the file whose grid stands for them; the dictionary's order is
            kept. Their ``crs`` and ``corner`` are filled in.
        crs: Of the index; by default the first file's.

    Returns:
        The index (``filepath``, ``geometry``, time intervals) and the pixel size of the first file.
        Files that cannot be read are left out and named in one warning.
    """
    rows, geometries, broken, first_res = [], [], [], 0.0
    for path, acquisition in anchors.items():
        try:
            src = open_raster(path)
        except rasterio.errors.RasterioIOError as error:
            broken.append(f'  {path}: {error}')
            continue
        if src.crs is None:
            broken.append(f'  {path}: has no coordinate reference system')
            continue
        acquisition.crs = src.crs
        acquisition.corner = (src.transform.c, src.transform.f)
        file_crs = PROJ_CRS.from_user_input(src.crs)
        crs = crs or file_crs
        first_res = first_res or abs(src.transform.e)
        box = GeoSeries([shapely.box(*src.bounds)], crs=file_crs)
        geometries.append((box if file_crs == crs else box.to_crs(crs)).iloc[0])
        rows.append((path, acquisition.start, acquisition.stop))
    if broken:
        warnings.warn(
            f'{len(broken)} of {len(anchors)} acquisitions cannot be read and are left out:\n'
            + '\n'.join(broken[:5]),
            stacklevel=4,
        )
    intervals = pd.IntervalIndex.from_tuples(
        [row[1:] for row in rows], closed='both', name='datetime'
    )
    data = {'filepath': [row[0] for row in rows]}
    return GeoDataFrame(data, index=intervals, geometry=geometries, crs=crs), first_res

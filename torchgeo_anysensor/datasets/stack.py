# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Any GeoTIFF series of a declared sensor."""

import fnmatch
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..sensors import QA, Band, Sensor, get_sensor
from .files import Listing, Paths, list_files
from .handles import open_raster
from .index import Tile, find_tiles
from .sensor import SensorDataset


class StackDataset(SensorDataset):
    """Chips and mosaics that are not in the agency's layout.

    One file holds all bands of an acquisition, or, if *filename_regex* has a group ``band``, one.
    What the file names and tags do not say is given here: nothing is guessed, since a wrong scale
    or offset is silent.
    """

    def __init__(
        self,
        sensor: str | Sensor,
        paths: Paths = 'data',
        *,
        bands: Sequence[str] | None = None,
        scale: float | Mapping[str, float],
        offset: float | Mapping[str, float] = 0.0,
        nodata: float | None = None,
        select: Sequence[str] | None = None,
        filename_glob: str = '*.tif',
        filename_regex: str = r'.*(?P<date>\d{8}).*',
        date_format: str = '%Y%m%d',
        date: str | None = None,
        qa: QA | None = None,
        qa_regex: str | None = None,
        **kwargs: Any,
    ) -> None:
        r"""Find the acquisitions and read one header of each.

        Args:
            sensor: A name in :data:`~..sensors.SENSORS`, a table of bands in a file (see
                :func:`~..sensors.read_sensor`), or a sensor of your own.
            paths: Folders to search, or files.
            bands: What each band of a file is, in the file's order: names in the sensor's table,
                and any other name for what is not to be delivered (a quality band, say). By default
                all bands of the sensor, in their order.
            scale: From digital number to reflectance or kelvin, for all bands or by band name.
            offset: Likewise, added after the scale.
            nodata: Value of missing pixels; by default the tag of the first file, if it has one.
            select: The bands to deliver; by default the reflectance bands among *bands*.
            filename_glob: Which files to look at.
            filename_regex: Which of them belong, matched from the start of the name (verbose mode):
                groups ``date``, and ``band`` if bands are in separate files (letter case is free).
            date_format: How ``date`` is written.
            date: The one date of all files, where their names have none.
            qa: Quality band and what is bad in it. Its ``band`` is one of *bands*, or any name if
                *qa_regex* says which files hold it.
            qa_regex: Names of separate quality files; the group ``date`` tells the acquisition.
            **kwargs: See :class:`SensorDataset`: ``res`` (by default the first file's), ``crs``,
                ``max_cloud``, ``time_series``, ``strict``, ``cache``, ``transforms``.

        Raises:
            DatasetNotFoundError: If no file fits.
            ValueError: If a band is not known, or scale or offset lack a band.
        """
        # What marks clouds and saturation in the agency's files need not do so in these
        quality = (qa,) if qa is not None else ()
        self.sensor = replace(get_sensor(sensor), qa=quality, saturated=None)
        bands = self.sensor.band_names if bands is None else bands
        self.filename_glob = filename_glob
        self.filename_regex = filename_regex
        self.date_format = date_format
        self._file_bands = tuple(bands)
        self._date = date
        self._qa_regex = qa_regex
        self._quality = qa
        known = {band.name: band.unit for band in self.sensor.bands}
        if select is None:
            select = [name for name in bands if known.get(name) == 'reflectance']
        absent = [name for name in select if name not in bands]
        if absent or not select:
            raise ValueError(
                f'no band to deliver: select={list(select)} must be among bands={list(bands)}, '
                f'and {self.sensor.name} knows {", ".join(known)}'
            )
        self._scale = _by_band('scale', scale, select)
        self._offset = _by_band('offset', offset, select)
        self._check_groups(qa)
        super().__init__(paths, bands=select, qa=qa or False, **kwargs)
        self.nodata = (
            nodata if nodata is not None else open_raster(self.index.filepath.iloc[0]).nodata
        )

    def _check_groups(self, qa: QA | None) -> None:
        """Raise if the file names cannot tell what is needed.

        Raises:
            ValueError: If there is no date, or the quality band is nowhere.
        """
        groups = re.compile(self.filename_regex, re.VERBOSE).groupindex
        if self._date is None and 'date' not in groups:
            raise ValueError(
                f'filename_regex={self.filename_regex!r} has no group (?P<date>...); '
                'add one, or give the date'
            )
        if qa is not None and self._qa_regex is None and qa.band not in self._file_bands:
            raise ValueError(
                f'quality band {qa.band!r} is not in bands={list(self._file_bands)}; '
                'add it there, or give qa_regex for separate files'
            )

    def _list(self) -> Listing:
        """Files that *filename_glob* or *qa_regex* name."""
        quality = re.compile(self._qa_regex or r'(?!)', re.VERBOSE)
        return list_files(
            self.paths,
            lambda name: fnmatch.fnmatch(name, self.filename_glob) or bool(quality.match(name)),
        )

    def _tiles(self, files: Iterable[str]) -> list[Tile]:
        """Group files, and find the quality files that belong to them."""
        files = list(files)
        quality = re.compile(self._qa_regex or r'(?!)', re.VERBOSE)
        masks = [path for path in files if quality.match(os.path.basename(path))]
        others = [path for path in files if path not in set(masks)]
        found = find_tiles(
            others, filename_regex=self.filename_regex, name=self._name, date=self._date or ''
        )
        for tile in found:
            if '' in tile.files:  # no group `band`: the file has all of them
                tile.files |= dict.fromkeys(self._file_bands, tile.files[''])
            else:
                case = {name.lower(): name for name in self._file_bands}
                tile.files = {
                    case.get(name.lower(), name): paths for name, paths in tile.files.items()
                }
        if self._quality is not None and masks:
            self._add_quality_files(found, masks)
        return found

    def _add_quality_files(self, tiles: list[Tile], masks: list[str]) -> None:
        """Give each tile the quality file of its date.

        Raises:
            ValueError: If two quality files have one date.
        """
        assert self._quality is not None, 'the caller checks'
        assert self._qa_regex is not None, 'the caller checks'
        quality = find_tiles(
            masks,
            filename_regex=self._qa_regex,
            name=lambda path, match: path,
            date=self._date or '',
        )
        by_date = {tile.date: tile.files[''] for tile in quality}
        if len(by_date) < len(quality):
            raise ValueError(
                f'qa_regex={self._qa_regex!r} finds several quality files of one date, and only '
                'the date tells to which acquisition they belong. Make one dataset for each place '
                'and join them with |'
            )
        for tile in tiles:
            if tile.date in by_date:
                tile.files[self._quality.band] = by_date[tile.date]

    def _name(self, path: str, match: re.Match[str]) -> str:
        """One file is one acquisition, unless the bands are separate."""
        if 'band' not in match.groupdict():
            return path
        start, end = match.span('band')
        name = match.string
        return path[: len(path) - len(name)] + name[:start] + '*' + name[end:]

    def _declaration(self) -> tuple[object, ...]:
        """What the user said of the files."""
        own = self.filename_glob, self._file_bands, self._needed(), self._date, self._qa_regex
        return *super()._declaration(), *own

    def _describe(self, tile: Tile) -> None:
        """Take the time from the name, and look whether all bands are there.

        Raises:
            ValueError: If a file has fewer bands than it should have.
        """
        super()._describe(tile)
        for path in tile.files.get('', {}).values():
            count = tile.counts.get(path, 0)
            if 0 < count < self._needed():
                raise ValueError(
                    f'has {count} bands, and {self._file_bands[self._needed() - 1]} should be band '
                    f'{self._needed()}; `bands` names those of a file, in its order'
                )

    def _needed(self) -> int:
        """How many bands a file of all bands must have: those up to the last one that is read."""
        read = {*self.bands, *(qa.band for qa in self.qa)}
        return max(n for n, name in enumerate(self._file_bands, start=1) if name in read)

    def _locate(self, tile: Tile, band: str) -> tuple[str, int]:
        """File of a band, and its place in the file."""
        path = tile.file(band, 0)
        separate = '' not in tile.files or path != tile.file('', 0)
        return path, 1 if separate else self._file_bands.index(band) + 1

    def _calibration(self, tile: Tile, band: Band) -> tuple[float, float]:
        """What the user gave."""
        return self._scale[band.name], self._offset[band.name]


def _by_band(
    what: str, value: float | Mapping[str, float], bands: Sequence[str]
) -> dict[str, float]:
    """One number for each band.

    Raises:
        ValueError: If a band has none.
    """
    if not isinstance(value, Mapping):
        return dict.fromkeys(bands, float(value))
    missing = [band for band in bands if band not in value]
    if missing:
        raise ValueError(f'{what} lacks {", ".join(missing)}')
    return {band: float(value[band]) for band in bands}

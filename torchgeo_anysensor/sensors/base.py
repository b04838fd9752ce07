# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What is known of a sensor, as frozen data."""

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

Unit = Literal['reflectance', 'kelvin', 'celsius']
#: Where the reflectance of a product is measured.
Level = Literal['top of atmosphere', 'surface']


def _check_range(where: str, field: str, value: float, limits: tuple[float, float]) -> None:
    """Raise if a number lies outside of what its unit allows.

    Raises:
        ValueError: If *value* is not within *limits*.
    """
    low, high = limits
    if low <= value <= high:
        return
    unit = field.rpartition('_')[2]
    hint = '; is it in nm?' if unit == 'um' and value > high else ''
    raise ValueError(f'{where}: {field}={value:g} is not in [{low:g}, {high:g}] {unit}{hint}')


@dataclass(frozen=True, slots=True)
class Band:
    """One spectral band of a sensor.

    ``scale`` and ``offset`` turn the digital number (DN) of the delivered file into ``unit``:
    ``DN * scale + offset``.

    Raises:
        ValueError: If a number is outside of what its unit allows.
    """

    name: str  #: as in the file names of the product
    common_name: str | None  #: STAC ``eo:common_name``
    center_wavelength_um: float
    fwhm_um: float
    gsd_m: float
    scale: float
    offset: float
    unit: Unit = 'reflectance'

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_range(self.name, 'center_wavelength_um', self.center_wavelength_um, (0.3, 15))
        _check_range(self.name, 'fwhm_um', self.fwhm_um, (0.0005, 5))
        _check_range(self.name, 'gsd_m', self.gsd_m, (0.05, 5000))
        if self.unit not in ('reflectance', 'kelvin', 'celsius'):
            raise ValueError(
                f'{self.name}: unit={self.unit!r} is not known; '
                "known are 'reflectance', 'kelvin' and 'celsius'"
            )


@dataclass(frozen=True, slots=True)
class QA:
    """A quality band of a product and what makes a pixel bad.

    A pixel is bad if one of ``bad_bits`` is set (bit fields), if its value is one of ``bad_values``
    (class codes), or if the bit of a band that is read is set (``band_bits``: saturation).
    """

    band: str  #: as in the file names of the product
    bad_bits: tuple[int, ...] = ()  #: bit positions, 0 is the lowest
    bad_values: tuple[int, ...] = ()
    band_bits: tuple[tuple[str, int], ...] = ()  #: name of a band, and the bit that is its own
    fill: int | None = None  #: value of pixels that were not observed


@dataclass(frozen=True, slots=True)
class Sensor:
    """A product of an instrument as the agency delivers it.

    ``filename_regex`` is matched (verbose mode) against the name of one band file. Its groups are
    ``band``, and optionally ``product`` (the same for all files of one scene or tile), ``date``,
    ``res`` (the grid in metres, where a product has a band on several), ``tile`` (MGRS tile, or WRS
    path and row) and ``platform`` (as in the names of the product; see ``platform_codes``).

    Raises:
        ValueError: If two bands share a name, a group is missing, or a platform has other bands.
    """

    name: str
    title: str
    bands: tuple[Band, ...]  #: as the first platform sees them
    nodata: float
    qa: tuple[QA, ...]
    filename_regex: str
    date_format: str
    source: str  #: the documents that the numbers come from
    level: Level | None = None  #: None if it is not known
    #: DN of a saturated pixel
    saturated: int | None = None
    #: names of archives that hold the files of a product, and of its metadata files
    archive_regex: str = r'(?!)'
    metadata_regex: str = r'(?!)'
    #: centre wavelength and FWHM in um of the bands that another platform sees differently:
    #: ``{platform: {band: (center_wavelength_um, fwhm_um)}}``, platforms as in STAC
    platforms: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    #: code in file names to platform
    platform_codes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the names of bands and groups."""
        names = [band.name for band in self.bands]
        if len(set(names)) != len(names):
            raise ValueError(f'{self.name}: two bands share a name in {names}')
        groups = re.compile(self.filename_regex, re.VERBOSE).groupindex
        if 'band' not in groups:
            raise ValueError(f'{self.name}: filename_regex lacks the group (?P<band>...)')
        for platform in self.platforms:
            self.bands_of(platform)

    def bands_of(self, platform: str) -> tuple[Band, ...]:
        """The bands as one platform sees them.

        Args:
            platform: As in STAC (``sentinel-2b``); one that is not listed sees what the first does.

        Returns:
            All bands, in the order of the table.

        Raises:
            ValueError: If the platform's entry names a band that the sensor has not.
        """
        own = self.platforms.get(platform, {})
        self.select(own)
        return tuple(
            replace(band, center_wavelength_um=own[band.name][0], fwhm_um=own[band.name][1])
            if band.name in own
            else band
            for band in self.bands
        )

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of all bands, in the order of the table."""
        return tuple(band.name for band in self.bands)

    @property
    def rgb(self) -> tuple[str, ...]:
        """Names of the red, green and blue band, or empty if one is lacking."""
        by_color = {band.common_name: band.name for band in self.bands}
        colors = ('red', 'green', 'blue')
        return tuple(by_color[c] for c in colors) if set(colors) <= set(by_color) else ()

    def select(self, names: Iterable[str]) -> tuple[Band, ...]:
        """Bands by name, in the order asked for.

        Raises:
            ValueError: If a name is not in the table.
        """
        by_name = {band.name: band for band in self.bands}
        names = list(names)
        unknown = [name for name in names if name not in by_name]
        if unknown:
            raise ValueError(
                f'{self.name} has no band {", ".join(unknown)}; known are {", ".join(by_name)}'
            )
        return tuple(by_name[name] for name in names)


def read_sensor(path: str | Path) -> Sensor:
    """Read the bands of a sensor, such as an imaging spectrometer, from a table in a CSV file.

    Args:
        path: The file. Its columns are ``name``, ``center_wavelength_um``, ``fwhm_um`` and
            ``gsd_m``, and, if need be, the other fields of :class:`Band`. By default digital numbers
            are reflectance.

    Returns:
        A sensor by the name of the file.

    Raises:
        ValueError: If there is no such file, no band in it, a column is missing or not known, or a number is none
            or outside of what its unit allows.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f'there is no band table {path}')
    numbers = {'center_wavelength_um', 'fwhm_um', 'gsd_m', 'scale', 'offset'}
    usual: dict[str, Any] = {'common_name': None, 'scale': 1.0, 'offset': 0.0}
    with path.open(newline='', encoding='utf-8-sig') as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    if not rows:
        raise ValueError(f'{path} has no band')
    try:
        bands = [
            Band(**usual | {k: float(v) if k in numbers else v for k, v in row.items() if v != ''})
            for row in rows
        ]
    except (TypeError, ValueError) as error:
        raise ValueError(f'{path} is no table of bands: {error}') from None
    return Sensor(
        name=path.stem,
        title=path.stem,
        bands=tuple(bands),
        nodata=0,
        qa=(),
        filename_regex=r'(?P<band>.+)',
        date_format='%Y%m%d',
        source=path.name,
    )

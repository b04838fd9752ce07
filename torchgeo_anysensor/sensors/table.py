# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The sensor tables as plain text, for the terminal."""

import textwrap
from collections.abc import Iterable, Sequence

from . import SENSORS, get_sensor
from .base import Sensor

_GAP = '  '
_COLUMNS = 100  # of the terminal


def sensors_table() -> str:
    """All sensors, one row each, and below them their sources; long cells go on below themselves."""
    rows = [('name', 'title', 'bands', 'GSD (m)', 'QA bands', 'platforms')]
    for sensor in SENSORS.values():
        gsds = sorted({band.gsd_m for band in sensor.bands})
        rows.append(
            (
                sensor.name,
                sensor.title,
                str(len(sensor.bands)),
                '/'.join(f'{gsd:g}' for gsd in gsds),
                ', '.join(qa.band for qa in sensor.qa) or '-',
                _families(sensor.platforms) or '-',
            )
        )
    sources = [('name', 'source'), *((s.name, s.source) for s in SENSORS.values())]
    return f'{_align(rows, numeric=("bands",))}\n\n{_align(sources, numeric=())}'


def bands_table(sensor: str | Sensor) -> str:
    """The bands of one sensor, one row each, and below them what its platforms see.

    Raises:
        ValueError: If no sensor has that name.
    """
    sensor = get_sensor(sensor)
    rows = [
        ('name', 'common name', 'centre (um)', 'FWHM (um)', 'GSD (m)', 'scale', 'offset', 'unit')
    ]
    rows += [
        (
            band.name,
            band.common_name or '-',
            f'{band.center_wavelength_um:.4f}',
            f'{band.fwhm_um:.4f}',
            f'{band.gsd_m:g}',
            f'{band.scale:g}',
            f'{band.offset:g}',
            band.unit,
        )
        for band in sensor.bands
    ]
    table = _align(rows, numeric=rows[0][2:7])
    return f'{table}\n\n{_platforms(sensor)}' if sensor.platforms else table


def _platforms(sensor: Sensor) -> str:
    """Centre and width of the bands as each platform sees them."""
    seen = [sensor.bands_of(platform) for platform in sensor.platforms]
    rows = [('name', *sensor.platforms)]
    rows += [
        (
            bands[0].name,
            *(f'{band.center_wavelength_um:.4f} / {band.fwhm_um:.4f}' for band in bands),
        )
        for bands in zip(*seen)
    ]
    return f'centre / FWHM (um)\n{_align(rows, numeric=())}'


def _families(platforms: Iterable[str]) -> str:
    """Platforms of one family in one word: ``landsat-8/9``."""
    families: dict[str, list[str]] = {}
    for platform in platforms:
        family, _, number = platform.rpartition('-')
        families.setdefault(family, []).append(number)
    return ', '.join(f'{family}-{"/".join(numbers)}' for family, numbers in families.items())


def _align(rows: Sequence[Sequence[str]], *, numeric: Sequence[str]) -> str:
    """Columns as wide as their widest cell; numbers to the right, the last column wrapped."""
    titles = rows[0]
    widths = [max(map(len, column)) for column in zip(*rows)][:-1]
    indent = ' ' * sum(width + len(_GAP) for width in widths)
    lines = []
    for *cells, last in rows:
        padded = [
            cell.rjust(width) if title in numeric else cell.ljust(width)
            for cell, width, title in zip(cells, widths, titles)
        ]
        text = textwrap.wrap(last, _COLUMNS - len(indent), break_on_hyphens=False)
        lines.append(_GAP.join([*padded, text[0]]))
        lines += [indent + more for more in text[1:]]
    return '\n'.join(lines)

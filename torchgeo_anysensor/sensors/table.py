# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The sensor tables as plain text, for the terminal."""

import textwrap
from collections.abc import Sequence

from . import SENSORS, get_sensor
from .base import Sensor

_GAP = '  '
_COLUMNS = 100  # of the terminal


def sensors_table() -> str:
    """All sensors, one row each; a long source goes on below itself."""
    rows = [('name', 'title', 'bands', 'GSD (m)', 'QA band', 'source')]
    for sensor in SENSORS.values():
        gsds = sorted({band.gsd_m for band in sensor.bands})
        rows.append(
            (
                sensor.name,
                sensor.title,
                str(len(sensor.bands)),
                '/'.join(f'{gsd:g}' for gsd in gsds),
                sensor.qa.band if sensor.qa else '-',
                sensor.source,
            )
        )
    return _align(rows, numeric=('bands',))


def bands_table(sensor: str | Sensor) -> str:
    """The bands of one sensor, one row each.

    Raises:
        ValueError: If no sensor has that name.
    """
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
        for band in get_sensor(sensor).bands
    ]
    return _align(rows, numeric=rows[0][2:7])


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

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Tables of the sensors that the package reads, with the standard library alone."""

import difflib

from .base import QA, Band, Sensor, Unit, read_sensor
from .hls import HLS_L30, HLS_S30
from .landsat import LANDSAT_C2L1, LANDSAT_C2L2
from .sentinel2 import SENTINEL2_L1C, SENTINEL2_L2A

SENSORS: dict[str, Sensor] = {
    sensor.name: sensor
    for sensor in (SENTINEL2_L2A, SENTINEL2_L1C, LANDSAT_C2L2, LANDSAT_C2L1, HLS_S30, HLS_L30)
}


def get_sensor(name_or_sensor: str | Sensor) -> Sensor:
    """Sensor by name, or of a table of bands (``*.csv``); a Sensor is returned as it is.

    Raises:
        ValueError: If no sensor has that name; for a table as :func:`read_sensor`.
    """
    if isinstance(name_or_sensor, Sensor):
        return name_or_sensor
    if name_or_sensor in SENSORS:
        return SENSORS[name_or_sensor]
    if name_or_sensor.endswith('.csv'):
        return read_sensor(name_or_sensor)
    close = difflib.get_close_matches(name_or_sensor.lower(), SENSORS, n=1)
    hint = f'; did you mean {close[0]!r}?' if close else ''
    raise ValueError(f'{name_or_sensor!r} is no known sensor; known are {", ".join(SENSORS)}{hint}')


__all__ = ('QA', 'SENSORS', 'Band', 'Sensor', 'Unit', 'get_sensor', 'read_sensor')

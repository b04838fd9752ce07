# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Harmonized Landsat and Sentinel-2, version 2.0."""

from ..sensors import get_sensor
from .sensor import SensorDataset


class HLSS30(SensorDataset):
    """HLS S30: Sentinel-2 at 30 m, masked by Fmask.

    Source: HLS User Guide, version 2.0, LP DAAC.
    """

    sensor = get_sensor('hls_s30')


class HLSL30(SensorDataset):
    """HLS L30: Landsat 8/9 at 30 m on the Sentinel-2 tiles, masked by Fmask.

    Its ``B05`` is near infrared; the ``B05`` of S30 is red edge.

    Source: HLS User Guide, version 2.0, LP DAAC.
    """

    sensor = get_sensor('hls_l30')

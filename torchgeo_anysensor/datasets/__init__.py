# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Files on disk as calibrated, masked, geo-aligned samples."""

from .chips import ChippedDataset
from .collate import (
    collate_sensors,
    collate_series,
    concat_views,
    join_batches,
    merge_views,
    stack_views,
    take_rows,
)
from .hls import HLSL30, HLSS30
from .labels import LabelRaster, LabelVector
from .landsat import LandsatC2L1, LandsatC2L2
from .multisensor import MultiSensorDataset
from .sensor import SensorDataset
from .sentinel2 import Sentinel2L1C, Sentinel2L2A
from .stack import StackDataset

__all__ = (
    'HLSL30',
    'HLSS30',
    'ChippedDataset',
    'LabelRaster',
    'LabelVector',
    'LandsatC2L1',
    'LandsatC2L2',
    'MultiSensorDataset',
    'SensorDataset',
    'Sentinel2L1C',
    'Sentinel2L2A',
    'StackDataset',
    'collate_sensors',
    'collate_series',
    'concat_views',
    'join_batches',
    'merge_views',
    'stack_views',
    'take_rows',
)

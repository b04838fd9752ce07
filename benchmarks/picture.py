# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Draw the picture of the README: one patch, four sensors, the truth.

python benchmarks/picture.py data/demo docs/images/patch.png
"""

import sys
from pathlib import Path

from torchgeo_anysensor.datasets import (
    HLSL30,
    HLSS30,
    LabelRaster,
    LandsatC2L2,
    MultiSensorDataset,
    Sentinel2L2A,
)
from torchgeo_anysensor.samplers import AlignedPatchSampler

demo, out = Path(sys.argv[1]), sys.argv[2]
dataset = MultiSensorDataset(
    {
        'Sentinel-2, 10 m': Sentinel2L2A(demo / 'sentinel2', res=10),
        'Landsat, 30 m': LandsatC2L2(demo / 'landsat'),
        'HLS S30, 30 m': HLSS30(demo / 'hls'),
        'HLS L30, 30 m': HLSL30(demo / 'hls'),
    },
    tolerance=3,
    labels=LabelRaster(demo / 'landcover', classes={code: code - 1 for code in range(1, 10)}),
)
index = next(iter(AlignedPatchSampler(dataset, size=1920, length=1, seed=3)))
dataset.plot(dataset[index]).savefig(out, dpi=60)

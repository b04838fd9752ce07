# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""How long it takes to index many files: the first time, and from the cache.

Usage:
    python benchmarks/index.py [--files 1000 10000]

Writes granules of HLS (14 GeoTIFFs each, the header of a full tile and no pixels) and Sentinel-2
products (37 JPEG 2000 files each, small) to a temporary folder, and prints a table in Markdown.
``cached`` includes the listing; ``TorchGeo`` is a plain ``RasterDataset`` over the same GeoTIFFs.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_origin
from torchgeo.datasets import RasterDataset

from torchgeo_anysensor.datasets import HLSS30, SensorDataset, Sentinel2L2A
from torchgeo_anysensor.datasets.files import list_files
from torchgeo_anysensor.sensors import SENSORS

CRS_OF_TILE = CRS.from_epsg(32632)
HLS_TAGS = {'cloud_coverage': '12', 'spatial_coverage': '100'}
S2_METADATA = """<P><PROCESSING_LEVEL>Level-2A</PROCESSING_LEVEL>
<PROCESSING_BASELINE>05.09</PROCESSING_BASELINE><SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME>
<DATATAKE_SENSING_START>2020-06-14T10:15:59.024Z</DATATAKE_SENSING_START>
<BOA_QUANTIFICATION_VALUE>10000</BOA_QUANTIFICATION_VALUE></P>"""


def days(count: int) -> pd.DatetimeIndex:
    """Times of acquisition, a day apart."""
    return pd.date_range('2020-01-01T10:15:59', periods=count)


def write_hls(root: Path, files: int) -> type[SensorDataset]:
    """Granules of one tile, a day apart."""
    bands = (*SENSORS['hls_s30'].band_names, 'Fmask')
    master = root / 'master.tif'
    profile = {'driver': 'GTiff', 'width': 3660, 'height': 3660, 'count': 1, 'dtype': 'int16'}
    profile |= {'tiled': True, 'blockxsize': 256, 'blockysize': 256, 'SPARSE_OK': True}
    transform = from_origin(600_000, 4_900_020, 30, 30)
    with rasterio.open(master, 'w', crs=CRS_OF_TILE, transform=transform, **profile) as dst:
        dst.update_tags(**HLS_TAGS)
    for day in days(-(-files // len(bands))):
        name = f'HLS.S30.T32TPQ.{day:%Y%jT%H%M%S}.v2.0'
        (root / name).mkdir()
        for band in bands:
            shutil.copy(master, root / name / f'{name}.{band}.tif')
    master.unlink()
    return HLSS30


def write_sentinel2(root: Path, files: int) -> type[SensorDataset]:
    """Products of one tile, a day apart."""
    masters = {}
    for res in (10, 20, 60):
        n = 1200 // res
        masters[res] = root / f'master{res}.jp2'
        profile = {'driver': 'JP2OpenJPEG', 'width': n, 'height': n, 'count': 1, 'dtype': 'uint16'}
        transform = from_origin(600_000, 4_900_020, res, res)
        path = masters[res]
        with rasterio.open(path, 'w', crs=CRS_OF_TILE, transform=transform, **profile) as dst:
            dst.write(np.full((1, n, n), 1000, dtype='uint16'))
    grids = {b.name: [r for r in masters if r >= b.gsd_m] for b in SENSORS['sentinel2_l2a'].bands}
    names = [(band, res) for band, sizes in (grids | {'SCL': [20, 60]}).items() for res in sizes]
    for day in days(-(-files // len(names))):
        date = f'{day:%Y%m%dT%H%M%S}'
        safe = root / f'S2A_MSIL2A_{date}_N0509_R065_T32TPQ_{date}.SAFE'
        images = safe / 'GRANULE' / f'L2A_T32TPQ_A026000_{date}' / 'IMG_DATA'
        for band, res in names:
            folder = images / f'R{res}m'
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(masters[res], folder / f'T32TPQ_{date}_{band}_{res}m.jp2')
        (safe / 'MTD_MSIL2A.xml').write_text(S2_METADATA)
    for path in masters.values():
        path.unlink()
    return Sentinel2L2A


class Plain(RasterDataset):
    """TorchGeo's own dataset over the GeoTIFFs."""

    filename_glob = '*.tif'


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def row(title: str, root: Path, dataset: type[SensorDataset]) -> str:
    """Measure one folder: a row of the table."""
    listing = seconds(lambda: list_files(root, lambda name: True))
    count = len(list_files(root, lambda name: name.endswith(('.tif', '.jp2'))).files)
    first, cached = (seconds(lambda: dataset(root)) for _ in range(2))
    plain = f'{seconds(lambda: Plain(root)):.1f}' if dataset is HLSS30 else '-'
    cells = (title, count, len(dataset(root)), f'{listing:.2f}', f'{first:.1f}', f'{cached:.2f}')
    return f'| {" | ".join(map(str, cells))} | {plain} |'


def main() -> None:
    """Write, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--files', type=int, nargs='+', default=[1000, 10_000])
    options = parser.parse_args()
    print('| layout | files | products | listing (s) | first (s) | cached (s) | TorchGeo (s) |')
    print('| --- | --- | --- | --- | --- | --- | --- |')
    for title, write in (('HLS, GeoTIFF', write_hls), ('Sentinel-2, JPEG 2000', write_sentinel2)):
        for files in options.files:
            with tempfile.TemporaryDirectory() as folder:
                print(row(title, Path(folder), write(Path(folder), files)), flush=True)


if __name__ == '__main__':
    main()

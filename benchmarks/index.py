# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""How long it takes to index many files, to pair two indexes and to sample.

Usage:
    python benchmarks/index.py [--files 1000 10000] [--pairs 100x50 100x100 1000x100]

Writes granules of HLS (14 GeoTIFFs each, the header of a full tile and no pixels) and Sentinel-2
products (37 JPEG 2000 files each, small) to a temporary folder, and prints a table in Markdown.
``cached`` includes the listing; ``TorchGeo`` is a plain ``RasterDataset`` over the same GeoTIFFs.

The second table has no files. Two sensors see tiles of 110 km that overlap as those of Sentinel-2
do, every third and every fourth day, and are paired within a day. TorchGeo's ``&``, which grows with
the square of the dates, gets footprints cut to lie side by side, and no more than 5,000 of a sensor.
"""

import argparse
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from geopandas import GeoDataFrame
from rasterio.crs import CRS
from rasterio.transform import from_origin
from torchgeo.datasets import GeoDataset, IntersectionDataset, RasterDataset
from torchgeo.datasets.utils import GeoSlice

from torchgeo_anysensor.datasets import (
    HLSL30,
    HLSS30,
    MultiSensorDataset,
    SensorDataset,
    Sentinel2L2A,
)
from torchgeo_anysensor.datasets.files import Listing, list_files
from torchgeo_anysensor.datasets.index import Header, Tile
from torchgeo_anysensor.samplers import AlignedPatchSampler
from torchgeo_anysensor.sensors import SENSORS

CRS_OF_TILE = CRS.from_epsg(32632)
#: Metres from tile to tile, and acquisitions of a sensor up to which TorchGeo's ``&`` is waited for.
PITCH, MOST_OF_TORCHGEO = 100_000, 5_000
#: Queries that are drawn and looked up.
LOOKS = 1000
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


def made(sensor: type[SensorDataset], tiles: int, dates: int, every: int) -> SensorDataset:
    """A dataset without files: its tiles are told."""

    class Made(sensor):  # type: ignore[misc,valid-type]
        """Tiles on a square of the map."""

        def _list(self) -> Listing:
            return Listing([], {})

        def _tiles(self, files: Iterable[str]) -> list[Tile]:
            return [
                tile_at(number, tiles, time, sensor.__name__)
                for number in range(tiles)
                for time in days(dates * every)[::every]
            ]

        def _learn(self, tiles: list[Tile], cache: object) -> None:
            """Nothing is left to learn."""

        def _pass(self, tile: Tile) -> str:
            return tile.name

    return Made('', bands=['B04'])


def tile_at(number: int, tiles: int, time: pd.Timestamp, title: str) -> Tile:
    """One of some tiles, on one day; rows of tiles are seen one after another."""
    row, column = divmod(number, math.ceil(math.sqrt(tiles)))
    name = f'{title}.{number}.{time:%Y%m%d}'
    files = {band: {30.0: f'{name}.{band}.tif'} for band in ('B04', 'Fmask')}
    tile = Tile(name, '', files)
    tile.start = tile.stop = time + pd.Timedelta(seconds=20 * row)
    tile.crs, tile.clear_fraction = CRS_OF_TILE.to_string(), 0.5
    corner = 600_000 + PITCH * column, 4_900_020 - PITCH * row
    tile.headers = {(band, 30.0): Header(*corner, 30.0, 30.0, 3660, 3660) for band in files}
    return tile


class Footprints(GeoDataset):
    """TorchGeo's base class over an index."""

    def __init__(self, dataset: SensorDataset) -> None:
        """Take the index of a dataset, of tiles that are set a little apart."""
        self.index = dataset.index.copy()
        ground = self.index.geometry
        self.index['geometry'] = ground.scale(PITCH / 109_800 - 1e-6, PITCH / 109_800 - 1e-6)
        self._res = (30.0, 30.0)

    def __getitem__(self, index: object) -> dict[str, object]:
        """There are no pixels."""
        raise NotImplementedError


def microseconds(work: Callable[[], object], times: int) -> str:
    """Processor time of one of many calls."""
    start = time.process_time()
    work()
    return f'{1e6 * (time.process_time() - start) / times:.0f}'


def pair_row(tiles: int, dates: int) -> str:
    """Measure two indexes: a row of the table."""
    made_in = time.perf_counter()
    first, second = made(HLSS30, tiles, dates, 3), made(HLSL30, tiles, dates, 4)
    made_in = time.perf_counter() - made_in
    paired: list[MultiSensorDataset] = []
    pairing = seconds(
        lambda: paired.append(MultiSensorDataset({'s30': first, 'l30': second}, tolerance=1))
    )
    dataset = paired[0]
    theirs, their_look = '-', '-'
    samplers: list[AlignedPatchSampler] = []
    sampling = seconds(
        lambda: samplers.append(AlignedPatchSampler(dataset, size=2220, length=LOOKS, seed=0))
    )
    sampler = samplers[0]
    queries: list[GeoSlice] = []
    draw = microseconds(lambda: queries.extend(sampler), LOOKS)
    dataset.lookup(*queries[0])
    look = microseconds(lambda: [dataset._answer(*query) for query in queries], LOOKS)
    first.lookup(*queries[0])
    member = microseconds(lambda: [first.lookup(*query) for query in queries], LOOKS)
    if tiles * dates <= MOST_OF_TORCHGEO:
        one, other = Footprints(first), Footprints(second)
        theirs = f'{seconds(lambda: IntersectionDataset(one, other)):.1f}'
        few = queries[:20]
        their_look = microseconds(lambda: [look_up(one, query) for query in few], len(few))
    counts = f'{tiles} x {dates}', len(first) + len(second), len(dataset)
    times = f'{made_in:.1f}', f'{pairing:.2f}', theirs, f'{sampling:.2f}'
    return f'| {" | ".join(map(str, (*counts, *times, draw, look, member, their_look)))} |'


def look_up(dataset: GeoDataset, query: GeoSlice) -> GeoDataFrame:
    """As TorchGeo's datasets look up a query."""
    x, y, t = dataset._disambiguate_slice(query)
    rows = dataset.index.iloc[dataset.index.index.overlaps(pd.Interval(t.start, t.stop))]
    return rows.cx[x.start : x.stop, y.start : y.stop]


def main(args: Sequence[str] | None = None) -> None:
    """Write, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--files', type=int, nargs='+', default=[1000, 10_000])
    parser.add_argument('--pairs', nargs='*', default=['100x50', '100x100', '1000x100'])
    options = parser.parse_args(args)
    print('| layout | files | products | listing (s) | first (s) | cached (s) | TorchGeo (s) |')
    print('| --- | --- | --- | --- | --- | --- | --- |')
    for title, write in (('HLS, GeoTIFF', write_hls), ('Sentinel-2, JPEG 2000', write_sentinel2)):
        for files in options.files:
            with tempfile.TemporaryDirectory() as folder:
                print(row(title, Path(folder), write(Path(folder), files)), flush=True)
    heads = 'tiles x dates', 'acquisitions', 'pairs', 'made (s)', 'paired (s)', 'TorchGeo (s)'
    looks = 'patch (us)', 'look-up (us)', 'of a member (us)', 'TorchGeo (us)'
    print('\n| ' + ' | '.join((*heads, 'sampler (s)', *looks)) + ' |')
    print('| --- ' * 11 + '|')
    for pair in options.pairs:
        print(pair_row(*map(int, pair.split('x'))), flush=True)


if __name__ == '__main__':
    main()

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import pickle

import geopandas as gpd
import numpy as np
import pytest
import shapely
import torch
from torch.utils.data import DataLoader

from torchgeo_anysensor.datasets import (
    HLSS30,
    LabelRaster,
    LabelVector,
    LandsatC2L1,
    MultiSensorDataset,
    Sentinel2L2A,
    StackDataset,
    collate_sensors,
)

RED = ('B02', 'B03', 'B04', 'B05', 'SCL', 'Fmask')


@pytest.fixture
def dataset(world, code):
    world.sentinel2_l2a(bands=RED, size=600)
    world.hls(bands=RED, size=600)
    grid = code.grid(code.left, code.top, 10, (60, 60))
    codes = np.arange(3600, dtype='uint16').reshape(60, 60)
    code.write(world.root / 'labels' / 'a.tif', codes, grid)
    members = {
        's2': [
            Sentinel2L2A(world.root, bands=['B02', 'B03']),
            Sentinel2L2A(world.root, bands=['B05'], res=20),
        ],
        'hls': HLSS30(world.root, bands=['B04']),
    }
    return MultiSensorDataset(members, labels=LabelRaster(world.root / 'labels'))


def patches(code):
    """Queries of 16 patches, and the mask of each: a function of the place alone."""
    corners = [(60 * (i % 8), 60 * (i // 8 * 3)) for i in range(16)]
    queries = [
        (slice(code.left + x, code.left + x + 120), slice(code.top - y - 120, code.top - y))
        for x, y in corners
    ]
    table = torch.arange(3600).reshape(60, 60)
    masks = [table[y // 10 : y // 10 + 12, x // 10 : x // 10 + 12] for x, y in corners]
    return queries, torch.stack(masks)


def same(one, other):
    for name, views in one['sensors'].items():
        for a, b in zip(views, other['sensors'][name], strict=True):
            assert a.keys() == b.keys()
            for key in a:
                assert torch.equal(a[key], b[key]), (name, key)
    assert torch.equal(one['mask'], other['mask'])


def test_dataset_survives_pickling_after_it_was_read(dataset):
    before = dataset[dataset.bounds]
    same(before, pickle.loads(pickle.dumps(dataset))[dataset.bounds])


@pytest.mark.parametrize('start', ['fork', 'spawn'])
def test_workers_read_what_the_parent_reads(dataset, code, start):
    queries, masks = patches(code)
    here = collate_sensors([dataset[query] for query in queries])  # the parent has open handles
    assert torch.equal(here['mask'], masks)
    loader = DataLoader(
        dataset,
        sampler=queries,
        batch_size=8,
        num_workers=2 if start == 'fork' else 1,
        multiprocessing_context=start,
        collate_fn=collate_sensors,
    )
    batches = list(loader)
    for name, views in here['sensors'].items():
        for grid, view in enumerate(views):
            read = torch.cat([batch['sensors'][name][grid]['image'] for batch in batches])
            assert torch.equal(read, view['image']), name
    assert torch.equal(torch.cat([batch['mask'] for batch in batches]), masks)


def test_every_kind_of_dataset_survives_pickling(world, tmp_path, code):

    grid = code.grid(code.left, code.top, 10, (12, 12))
    chip = code.write(tmp_path / 'a_20200614.tif', np.full((12, 12), 5, 'uint16'), grid)
    square = shapely.box(code.left, code.top - 50, code.left + 50, code.top)
    frame = gpd.GeoDataFrame({'kind': ['wood']}, geometry=[square], crs=code.epsg)
    frame.to_file(tmp_path / 'squares.gpkg')
    datasets = [
        LandsatC2L1(world.landsat_c2l1(size=120), bands=['B4', 'B10']),
        StackDataset('sentinel2_l2a', chip, bands=['B04'], scale=1),
        LabelVector(tmp_path / 'squares.gpkg', classes={'wood': 1}, attribute='kind'),
    ]
    for ds in datasets:
        before, after = ds[ds.bounds], pickle.loads(pickle.dumps(ds))[ds.bounds]
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The data module keeps its splits apart and transforms training batches alone."""

from types import SimpleNamespace

import pytest
import torch
from rasterio.env import get_gdal_config, set_gdal_config

from torchgeo_anysensor.datamodules import MultiSensorDataModule
from torchgeo_anysensor.datasets import LabelRaster, MultiSensorDataset
from torchgeo_anysensor.samplers import BlockSplit


@pytest.fixture
def dataset(demo, demo_sensors):
    return MultiSensorDataset(demo_sensors, tolerance=3, labels=LabelRaster(demo / 'landcover'))


def make(dataset, **options):
    options = {'size': 120, 'split': BlockSplit(300), 'batch_size': 4} | options
    return MultiSensorDataModule(dataset, **options)


@pytest.mark.parametrize(
    ('stage', 'splits'),
    [('fit', ['train', 'val']), ('validate', ['val']), ('test', ['test']), ('predict', ['test'])],
)
def test_stage_prepares_what_it_needs(dataset, stage, splits):
    data = make(dataset)
    data.setup(stage)
    assert list(data.samplers) == splits
    for split in splits:
        batch = next(iter(getattr(data, f'{split}_dataloader')()))
        assert batch['mask'].shape == (4, 12, 12)


def test_train_and_val_patches_share_no_ground(dataset):
    data = make(dataset)
    data.setup('fit')
    corners = [
        {(x.start, y.start) for x, y, _ in data.samplers[split]} for split in ('train', 'val')
    ]
    assert corners[0]
    assert corners[1]
    assert not corners[0] & corners[1]


def test_training_batches_alone_are_transformed(dataset):
    data = make(dataset, train_transforms=[lambda batch: batch | {'turned': torch.ones(1)}])
    data.trainer = SimpleNamespace(training=True)
    assert 'turned' in data.on_after_batch_transfer({}, 0)
    data.trainer = SimpleNamespace(training=False)
    assert 'turned' not in data.on_after_batch_transfer({}, 0)


def test_training_patches_lie_as_asked_for(dataset):
    data = make(dataset, neighbours=4, spacing=180, file_block=240)
    data.setup('fit')
    assert data.samplers['train'].spacing == 180
    assert data.samplers['train'].neighbours == 4
    assert data.samplers['train'].file_block == 240


def test_epoch_has_the_length_asked_for(dataset):
    data = make(dataset, length=12)
    data.setup('fit')
    assert len(data.train_dataloader()) == 3


def test_epoch_without_a_batch_is_said(dataset):
    data = make(dataset, length=3)
    data.setup('fit')
    with pytest.raises(ValueError, match='3 training patches has no batch of 4'):
        data.train_dataloader()


def test_split_without_room_is_said(dataset):
    with pytest.raises(
        ValueError, match=r'train split \(blocks of 300 m\): no patch of 1140 m fits'
    ):
        make(dataset, size=1140).setup('fit')


def test_workers_read_the_same_patches(dataset):
    def patches(workers):
        data = make(dataset, num_workers=workers)
        data.setup('test')
        return [batch['mask'] for batch in data.test_dataloader()]

    assert all(map(torch.equal, patches(0), patches(2)))


@pytest.mark.parametrize(('said', 'expected'), [(None, 64 * 2**20), ('200', 2**20)])
def test_workers_bound_the_cache_of_gdal(dataset, monkeypatch, said, expected):
    """A worker has a small cache, unless the user has said how large."""
    data = make(dataset)
    data.setup('fit')
    monkeypatch.delenv('GDAL_CACHEMAX', raising=False)
    if said is not None:
        monkeypatch.setenv('GDAL_CACHEMAX', said)
    before = get_gdal_config('GDAL_CACHEMAX')
    try:
        set_gdal_config('GDAL_CACHEMAX', 2**20)
        data.train_dataloader().worker_init_fn(0)
        assert get_gdal_config('GDAL_CACHEMAX') == expected
    finally:
        set_gdal_config('GDAL_CACHEMAX', before)

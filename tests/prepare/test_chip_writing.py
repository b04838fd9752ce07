# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Chips hold what the files hold, and are all there or not, however the work is dealt or stopped."""

import multiprocessing
import os
import shutil
import signal
import tarfile
from collections import Counter

import numpy as np
import pytest
import shapely
import torch
import webdataset as wds
from safetensors.torch import load

from torchgeo_anysensor.datamodules import MultiSensorDataModule
from torchgeo_anysensor.datasets import (
    HLSS30,
    ChippedDataset,
    LandsatC2L1,
    LandsatC2L2,
    MultiSensorDataset,
    Sentinel2L2A,
)
from torchgeo_anysensor.prepare import chip, write_chips
from torchgeo_anysensor.samplers import AlignedGridSampler, BlockSplit

SPLITS = ('train', 'val', 'test')


def files(root):
    return {path.name: path.read_bytes() for path in root.iterdir()}


def same(one, other, where='sample'):
    """Whether two samples are equal to the bit, keys and types included."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert one.shape == other.shape, where
        assert one.numpy().tobytes() == other.numpy().tobytes(), where
    elif isinstance(one, dict):
        assert set(one) == set(other), where
        for key in one:
            same(one[key], other[key], f'{where}/{key}')
    else:
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other)):
            same(a, b, f'{where}/{number}')


def tensors(root, shard):
    """The first chip of a shard, as any program reads it."""
    with tarfile.open(root / f'{shard}.tar') as tar:
        return load(tar.extractfile(tar.next()).read())


@pytest.mark.parametrize('split', SPLITS)
def test_chip_is_the_live_sample(split, chips, scenes_of_chips):
    scenes = scenes_of_chips.scenes
    ground = getattr(scenes_of_chips.split(scenes), split)
    queries = list(AlignedGridSampler(scenes, size=240, roi=ground))
    dataset = ChippedDataset(chips, split=split)
    assert len(dataset) == len(queries)
    for number, query in enumerate(queries):
        sample = dataset[number]
        same(sample, scenes[query])
        assert list(sample['sensors']) == list(scenes.datasets)


def test_reflectance_takes_two_bytes(chips):
    stored = tensors(chips, 'train-00000')
    for view in ('sentinel2_l2a/0', 'sentinel2_l2a/1', 'landsat_c2l2/0'):
        assert stored[f'{view}/image'].dtype in (torch.int16, torch.uint16)
    assert stored['mask'].dtype == torch.uint8


def test_image_that_is_no_line_of_numbers_stays_float(world, tmp_path):
    world.landsat_c2l1()
    thermal = MultiSensorDataset({'landsat': LandsatC2L1(world.root, bands=['B10'])})
    data = MultiSensorDataModule(thermal, size=300, split=BlockSplit(600, (1, 0, 0)))
    write_chips(data, tmp_path / 'chips')
    assert tensors(tmp_path / 'chips', 'train-00000')['landsat/0/image'].dtype == torch.float32
    query = next(iter(AlignedGridSampler(thermal, size=300, roi=data.split(thermal).train)))
    same(ChippedDataset(tmp_path / 'chips')[0], thermal[query])


def test_absent_sensor_stays_absent(world, tmp_path):
    world.sentinel2_l2a(size=600)
    world.landsat_c2l2(left=600_285, size=600)
    scenes = MultiSensorDataset(
        {'s2': Sentinel2L2A(world.root), 'landsat': LandsatC2L2(world.root)}, require=1
    )
    data = MultiSensorDataModule(scenes, size=120, split=BlockSplit(600, (1, 0, 0)))
    write_chips(data, tmp_path / 'chips')
    dataset = ChippedDataset(tmp_path / 'chips')
    live = [scenes[q] for q in AlignedGridSampler(scenes, size=120, roi=data.split(scenes).train)]
    for number, sample in enumerate(live):
        same(dataset[number], sample)
    assert {len(sample['sensors']) for sample in live} == {1, 2}


def test_georeference_is_kept_in_float64(chips, scenes_of_chips):
    patches = ChippedDataset(chips, split='val').patches
    scenes = scenes_of_chips.scenes
    queries = AlignedGridSampler(scenes, size=240, roi=scenes_of_chips.split(scenes).val)
    corners = [(x.start, y.stop, t.start, t.stop) for x, y, t in queries]
    assert list(zip(patches.left, patches.top, patches.start, patches.stop)) == corners
    assert set(patches.crs) == {scenes.lattice(0).crs}
    stored = tensors(chips, 'val-00000')['patch']
    assert stored.tolist() == [patches.left[0], patches.top[0], 240, 240]


def test_no_ground_is_in_two_splits(chips):
    ground = {}
    for split in SPLITS:
        p = ChippedDataset(chips, split=split).patches
        ground[split] = shapely.union_all(
            shapely.box(p.left, p.top - p.height, p.left + p.width, p.top)
        )
    for one, other in (('train', 'val'), ('train', 'test'), ('val', 'test')):
        assert ground[one].area > 0
        assert ground[one].intersection(ground[other]).area == 0


def test_parts_make_the_whole(chips, scenes_of_chips, tmp_path):
    parts = [
        write_chips(scenes_of_chips, tmp_path / 'new', chips_per_shard=4, shard=(part, 3))
        for part in (2, 3, 1)
    ]
    assert files(tmp_path / 'new') == files(chips)
    assert sum(report.written for report in parts) == len(list(chips.glob('*.tar')))
    assert [report.missing for report in parts][-1] == 0


def test_workers_write_the_same(chips, scenes_of_chips, tmp_path):
    write_chips(scenes_of_chips, tmp_path / 'new', chips_per_shard=4, workers=2)
    assert files(tmp_path / 'new') == files(chips)


def test_killed_run_goes_on(chips, scenes_of_chips, tmp_path, monkeypatch):
    new = tmp_path / 'new'
    encode, calls = chip.encode, []

    def deadly(*args, **kwargs):
        calls.append(1)
        if len(calls) == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(*args, **kwargs)

    def run():
        chip.encode = deadly
        write_chips(scenes_of_chips, new, chips_per_shard=4)

    process = multiprocessing.get_context('fork').Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list(new.glob('*.tar'))) == 2  # and the third was begun
    assert len(list(new.glob('.*.part'))) == 1
    with pytest.raises(ValueError, match=r'train-00002.tar is missing.*again'):
        ChippedDataset(new)
    before = {path: path.stat().st_mtime_ns for path in new.glob('*.tar')}
    report = write_chips(scenes_of_chips, new, chips_per_shard=4)
    assert report.shards - report.written == 2
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert files(new) == files(chips)


def test_resume_with_another_config_is_refused(chips, scenes_of_chips):
    for options, said in (
        ({'chips_per_shard': 8}, 'chips_per_shard: 4 there, 8 now'),
        ({'stride': 60, 'chips_per_shard': 4}, 'stride: 240 there, 60 now'),
        ({'config': {'dataset': {'tolerance': 4}}, 'chips_per_shard': 4}, 'dataset.tolerance'),
    ):
        with pytest.raises(ValueError, match=f'(?s)another config.*{said}'):
            write_chips(scenes_of_chips, chips, **options)
    other = MultiSensorDataModule(scenes_of_chips.scenes, size=240, split=BlockSplit(300, seed=1))
    with pytest.raises(ValueError, match='other patches'):
        write_chips(other, chips, chips_per_shard=4)


def test_manifest_that_was_cut_off_is_written_again(chips, scenes_of_chips, tmp_path):
    new = tmp_path / 'new'
    shutil.copytree(chips, new)
    (new / 'train-00000.json').write_text('')
    with pytest.raises(ValueError, match=r'is damaged.*again'):
        ChippedDataset(new)
    assert write_chips(scenes_of_chips, new, chips_per_shard=4).written == 1
    assert files(new) == files(chips)


def test_resume_with_other_files_is_refused(world, tmp_path):
    """The patches are the same, but another acquisition may answer."""
    world.hls(time='2020166T101559', size=480)
    world.sentinel2_l2a(time='20200610T101559', size=480)

    def scenes():
        sensors = {'hls': HLSS30(world.root, bands=['B04']), 's2': Sentinel2L2A(world.root)}
        dataset = MultiSensorDataset(sensors, tolerance=9)
        return MultiSensorDataModule(dataset, size=120, split=BlockSplit(240))

    write_chips(scenes(), tmp_path / 'chips', shard=(1, 2), chips_per_shard=2)
    world.sentinel2_l2a(time='20200613T101559', size=480)
    with pytest.raises(ValueError, match='Files were added'):
        write_chips(scenes(), tmp_path / 'chips', shard=(2, 2), chips_per_shard=2)


@pytest.mark.parametrize('shard', [(0, 2), (3, 2)])
def test_part_that_is_none_is_refused(shard, scenes_of_chips, tmp_path):
    with pytest.raises(ValueError, match='must be from 1/2 to 2/2'):
        write_chips(scenes_of_chips, tmp_path, shard=shard)


def test_overlap_is_of_train_alone(scenes_of_chips):
    counts = [
        Counter({s.split: len(s.queries) for s in chip._plan(scenes_of_chips, **options)})
        for options in ({'stride': m, 'chips_per_shard': 1000} for m in (None, 60))
    ]
    assert counts[1]['train'] > 2 * counts[0]['train']
    assert counts[1]['val'] == counts[0]['val'] > 0


def test_webdataset_streams_the_shards(chips):
    urls = sorted(map(str, chips.glob('train-*.tar')))
    stream = wds.WebDataset(urls, shardshuffle=False).map(lambda s: load(s['safetensors']))
    dataset = ChippedDataset(chips)
    images = [chip['sentinel2_l2a/0/image'] for chip in stream]
    assert len(images) == len(dataset)
    first = dataset[0]['sensors']['sentinel2_l2a'][0]['image']
    assert np.array_equal(images[0].shape, first.shape)

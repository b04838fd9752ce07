# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Batches of chips are those of the samples, and damage is found and named."""

import json
import shutil

import pytest
import torch
from torch.utils.data import DataLoader

from torchgeo_anysensor.datasets import ChippedDataset, collate_sensors


def same(one, other, where='batch'):
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert one.numpy().tobytes() == other.numpy().tobytes(), where
    elif isinstance(one, dict):
        assert set(one) == set(other), where
        for key in one:
            same(one[key], other[key], f'{where}/{key}')
    else:
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other)):
            same(a, b, f'{where}/{number}')


@pytest.fixture
def copy(chips, tmp_path):
    return shutil.copytree(chips, tmp_path / 'copy')


def test_batch_is_that_of_the_samples(chips):
    dataset = ChippedDataset(chips)
    indices = [len(dataset) - 1, 0, 7, 7]
    same(dataset.batch(indices), collate_sensors([dataset[i] for i in indices]))


def test_negative_and_absent_numbers(chips):
    dataset = ChippedDataset(chips)
    same(dataset[-1], dataset[len(dataset) - 1])
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_plain_loader_reads_it(chips):
    dataset = ChippedDataset(chips, split='val')
    loader = DataLoader(dataset, batch_size=3, collate_fn=collate_sensors)
    batch = next(iter(loader))
    same(batch, dataset.batch([0, 1, 2]))


def test_damage_is_found_and_named(copy):
    dataset = ChippedDataset(copy)
    path = copy / f'{dataset.shards[1]}.tar'
    content = bytearray(path.read_bytes())
    content[dataset._offset[6] + dataset._size[6] // 2] ^= 1  # one bit
    path.write_bytes(content)
    dataset[5]
    with pytest.raises(ValueError, match=r'train-00001.tar: is damaged at chip 6.*Remove'):
        dataset.batch([5, 6])
    with pytest.raises(ValueError, match=r'checksum of train-00001.tar differs'):
        dataset.verify()


def test_whole_chips_are_verified(chips):
    ChippedDataset(chips).verify()


def test_cut_off_shard_is_named(copy):
    path = copy / 'train-00000.tar'
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(ValueError, match=r'1 of \d+ shards of train .* train-00000.tar has \d+ b'):
        ChippedDataset(copy)


def test_missing_shard_is_named(copy):
    (copy / 'val-00000.tar').unlink()
    ChippedDataset(copy)  # train is whole
    with pytest.raises(ValueError, match=r'val-00000\.tar is missing'):
        ChippedDataset(copy, split='val')


def test_other_version_is_told(copy):
    manifest = json.loads((copy / 'manifest.json').read_text())
    (copy / 'manifest.json').write_text(json.dumps(manifest | {'version': 2}))
    with pytest.raises(ValueError, match='of version 2, this package reads version 1'):
        ChippedDataset(copy)


def test_manifest_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match='torchgeo-anysensor chip'):
        ChippedDataset(tmp_path)
    (tmp_path / 'manifest.json').write_text('{')
    with pytest.raises(ValueError, match=r'manifest.json: is damaged'):
        ChippedDataset(tmp_path)


def test_split_that_is_none(chips):
    with pytest.raises(ValueError, match=r"no chips of split='dev'; it has \d+ of train"):
        ChippedDataset(chips, split='dev')

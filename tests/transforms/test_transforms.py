# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Augmentations keep sensors, mask and ground together."""

import pytest
import torch

from torchgeo_anysensor.transforms import RandomBandDrop, RandomFlipRotate


def view(n, *, res, dx=0.0, dy=0.0):
    """Each pixel holds the northing and easting of its centre, from the corner of the patch."""
    east = dx + (torch.arange(n) + 0.5) * res
    north = -(torch.arange(n) + 0.5) * res + dy
    image = torch.stack([*torch.meshgrid(north, east, indexing='ij')])[None]
    facts = torch.arange(2, dtype=torch.float32)
    return {
        'image': image,
        'valid': image[:, 0] < 1e9,
        'wavelength': facts,
        'bandwidth': facts + 10,
        'gsd': facts + 20,
        'res': torch.tensor(float(res)),
        'dx': torch.tensor([dx]),
        'dy': torch.tensor([dy]),
    }


@pytest.fixture
def batch():
    fine, coarse = view(6, res=10), view(2, res=30, dx=15.0, dy=-10.0)
    return {'sensors': {'a': (fine,), 'b': (coarse,)}, 'mask': fine['image'][:, 1].long()}


@pytest.mark.parametrize('seed', range(16))
def test_one_draw_turns_all_sensors_and_the_mask(batch, seed):
    torch.manual_seed(seed)
    out = RandomFlipRotate()(batch)
    fine, coarse = out['sensors']['a'][0], out['sensors']['b'][0]
    assert torch.equal(out['mask'], fine['image'][:, 1].long())
    # Where a pixel lies after the turn must be the turned place of where it lay before: the same
    # rigid motion of the 60 m patch maps both grids
    for v, res, n in ((fine, 10, 6), (coarse, 30, 2)):
        east = float(v['dx']) + (torch.arange(n) + 0.5) * res - 30
        north = float(v['dy']) - (torch.arange(n) + 0.5) * res + 30
        new = torch.stack([*torch.meshgrid(north, east, indexing='ij')]).flatten(1)
        old = v['image'][0].flatten(1) + torch.tensor([[30.0], [-30.0]])
        motion = new @ torch.linalg.pinv(old)
        assert torch.allclose(motion @ old, new, atol=1e-3)
        v['motion'] = motion
    assert torch.allclose(fine['motion'], coarse['motion'], atol=1e-3)


def test_all_eight_symmetries_are_drawn(batch):
    torch.manual_seed(0)
    images = {
        tuple(RandomFlipRotate()(batch)['sensors']['a'][0]['image'].flatten().tolist())
        for _ in range(100)
    }
    assert len(images) == 8


def test_given_batch_is_left_alone(batch):
    before = batch['sensors']['b'][0]['image'].clone()
    for transform in (RandomFlipRotate(), RandomBandDrop(0.9)):
        for _ in range(4):
            transform(batch)
    assert torch.equal(batch['sensors']['b'][0]['image'], before)


def test_bands_go_with_their_facts(batch):
    torch.manual_seed(0)
    sizes = set()
    for _ in range(20):
        out = RandomBandDrop(0.5)(batch)['sensors']['a'][0]
        original = batch['sensors']['a'][0]
        sizes.add(out['image'].shape[1])
        for position, fact in enumerate(out['wavelength'].long()):
            assert torch.equal(out['image'][:, position], original['image'][:, fact])
            assert out['gsd'][position] == fact + 20
            assert out['bandwidth'][position] == fact + 10
    assert sizes == {1, 2}


def test_one_band_always_stays(batch):
    for _ in range(20):
        assert RandomBandDrop(0.99)(batch)['sensors']['a'][0]['image'].shape[1] >= 1


def test_impossible_probability_is_said():
    with pytest.raises(ValueError, match='p=1'):
        RandomBandDrop(1)

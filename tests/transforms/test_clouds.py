# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Painted clouds lie on the ground, over one sensor, and are told to nobody."""

import pytest
import torch
import torch.nn.functional as F

from torchgeo_anysensor.transforms import RandomClouds


def view(n, *, res, dx=0.0, bands=(0.49, 0.84), value=0.0, batch=8):
    facts = torch.tensor(bands)
    value = torch.where(facts > 3, 300.0, value)
    return {
        'image': value[:, None, None].expand(batch, -1, n, n).clone(),
        'valid': torch.ones(batch, n, n, dtype=torch.bool),
        'wavelength': facts,
        'res': torch.tensor(float(res)),
        'dx': torch.full((batch,), dx),
        'dy': torch.zeros(batch),
    }


def paint(views, seed=0, **options):
    torch.manual_seed(seed)
    return RandomClouds(**{'p': 1.0, **options})({'sensors': views})['sensors']


@pytest.fixture
def sensors():
    return {'s2': (view(24, res=10), view(12, res=20)), 'l8': (view(8, res=30),)}


def test_grids_of_a_sensor_have_the_same_clouds(sensors):
    fine, coarse = paint(sensors)['s2']
    assert fine['image'].std(dim=(2, 3)).mean() > 0.02
    assert torch.allclose(F.avg_pool2d(fine['image'], 2), coarse['image'], atol=1e-5)


def test_a_view_that_lies_off_sees_the_clouds_where_it_lies():
    sensors = {'l8': (view(24, res=10), view(24, res=10, dx=30.0))}
    here, east = paint(sensors)['l8']
    assert torch.allclose(here['image'][..., 3:], east['image'][..., :-3], atol=1e-5)


def test_sensors_and_samples_have_their_own(sensors):
    painted = paint(sensors)
    ours, theirs = F.avg_pool2d(painted['s2'][0]['image'], 3), painted['l8'][0]['image']
    assert (ours - theirs).abs().mean() > 0.05
    assert (ours[0] - ours[1]).abs().mean() > 0.01


def test_nobody_is_told_and_what_is_not_valid_stays(sensors):
    hole = sensors['s2'][0]['valid']
    hole[:, :5] = False
    before = {n: [v['image'].clone() for v in views] for n, views in sensors.items()}
    painted = paint(sensors)
    assert torch.equal(painted['s2'][0]['valid'], hole)
    assert torch.equal(painted['s2'][0]['image'][:, :, :5], torch.zeros(8, 2, 5, 24))
    assert painted['s2'][0]['image'][:, :, 5:].abs().min() > 0
    for name, views in sensors.items():
        assert all(torch.equal(v['image'], x) for v, x in zip(views, before[name]))


def test_clouds_are_flat_bright_and_cold():
    bands = (0.49, 0.84, 11.0)
    clear, dark = (view(24, res=10, bands=bands, value=value) for value in (0.2, 0.0))
    (painted,), (black,) = (
        paint({'l8': (v,)}, opacity=(0.9, 0.9), width_m=5000.0)['l8'] for v in (clear, dark)
    )
    opacity = 1 - (painted['image'] - black['image'])[:, 0] / 0.2
    assert opacity.min() >= 0
    assert opacity.max() <= 0.9 + 1e-5
    assert opacity.flatten(1).mean(dim=1).std() > 0.2  # patches differ in their cover
    assert torch.allclose(black['image'][:, 0], black['image'][:, 1])
    thick = opacity > 0.8
    assert thick.any()
    assert bool((painted['image'][:, 0][thick] > 0.3).all())
    assert bool((painted['image'][:, 2][thick] < 290).all())
    assert bool((painted['image'][:, 2] <= 300).all())


def test_no_probability_and_other_sensors_are_the_identity(sensors):
    for options, name in (({'p': 0.0}, 's2'), ({'sensors': ['s2']}, 'l8')):
        for new, old in zip(paint(sensors, **options)[name], sensors[name]):
            assert torch.equal(new['image'], old['image'])


def test_probability_is_that_of_a_sensor_in_a_sample():
    out = paint({'l8': (view(4, res=60, batch=2000),)}, p=0.3, opacity=(0.5, 1.0))['l8'][0]
    share = (out['image'].amax(dim=(1, 2, 3)) > 0).float().mean()
    assert float(share) == pytest.approx(0.3, abs=0.05)


def test_the_generator_of_torch_rules(sensors):
    one, same, other = (paint(sensors, seed=seed)['s2'][0]['image'] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ('options', 'said'),
    [({'p': 1.5}, 'p=1.5'), ({'opacity': (0.5, 0.2)}, 'opacity'), ({'width_m': 0}, 'width_m')],
)
def test_clouds_say_what_is_wrong(options, said):
    with pytest.raises(ValueError, match=said):
        RandomClouds(**options)

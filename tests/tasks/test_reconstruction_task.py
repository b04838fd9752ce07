# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What is hidden is hidden, and is learned from what is left."""

import pytest
import torch

from torchgeo_anysensor.datasets import MultiSensorDataset, collate_sensors
from torchgeo_anysensor.models import AnySensorViT, encode
from torchgeo_anysensor.samplers import AlignedPatchSampler
from torchgeo_anysensor.tasks import MaskedAutoencoding, MaskedBandReconstruction


@pytest.fixture(scope='module')
def batch(demo_sensors):
    dataset = MultiSensorDataset(demo_sensors, tolerance=3)
    sampler = AlignedPatchSampler(dataset, size=240, length=6, seed=0)
    return collate_sensors([dataset[index] for index in sampler])


def make_task(**options):
    torch.manual_seed(0)
    encoder = AnySensorViT(32, depth=1, num_heads=2, band_dim=16, token_m=60)
    return MaskedAutoencoding(encoder, **options)


def kept_bands(views, visible):
    """Of each view, which bands are left."""
    left = {float(view['res']): view['wavelength'] for view in visible}
    none = torch.empty(0)
    found = [torch.isin(v['wavelength'], left.get(float(v['res']), none)) for v in views]
    return [kept if kept.ndim == 1 else kept[0] for kept in found]  # platforms of one batch differ


def test_hidden_pixels_do_not_reach_the_tokens(batch):
    task = make_task().eval()
    views = batch['sensors']['sentinel2_l2a']
    torch.manual_seed(1)
    visible = task.reconstruction.hide(views)
    tokens = encode(task.encoder, visible).tokens
    left, changed = iter(visible), []
    bands = kept_bands(views, visible)
    for view, kept in zip(views, bands):
        secret = torch.ones_like(view['image'], dtype=torch.bool)
        if kept.any():
            secret = ~(next(left)['valid'][:, None] & kept[:, None, None])
        changed.append({**view, 'image': torch.where(secret, 9.0, view['image'])})
    assert any((~kept).any() for kept in bands)
    torch.manual_seed(1)  # hide the same
    again = task.reconstruction.hide(changed)
    assert torch.equal(encode(task.encoder, again).tokens, tokens)
    # ... but they are what is to be predicted
    features = encode(task.encoder, visible)
    one = task.reconstruction.loss(features, views)
    other = task.reconstruction.loss(features, changed)
    assert (one - other).abs() > 1e-3


def test_what_is_visible_is_predicted_too(batch):
    task = make_task(bands=0.0, ground=0.0)
    assert task.losses(batch)['loss'] > 0.01


@pytest.mark.parametrize('ground', [0.0, 0.25, 0.75])
def test_share_of_the_ground_is_hidden_alike_in_all_views(batch, ground):
    torch.manual_seed(0)
    objective = MaskedBandReconstruction(32, bands=0.0, ground=ground, square_m=60)
    views = batch['sensors']['sentinel2_l2a']
    views = [{**view, 'valid': torch.ones_like(view['valid'])} for view in views]
    fine, coarse = objective.hide(views)
    shares = [float((~view['valid']).float().mean()) for view in (fine, coarse)]
    assert shares[0] == shares[1] == pytest.approx(ground, abs=0.1)
    assert torch.equal(fine['valid'][:, ::2, ::2], coarse['valid'])


def test_share_of_the_bands_is_hidden_and_one_stays(batch):
    objective = MaskedBandReconstruction(32, bands=0.5, ground=0.0)
    views = batch['sensors']['sentinel2_l2a']
    torch.manual_seed(0)
    draws = [torch.cat(kept_bands(views, objective.hide(views))) for _ in range(100)]
    assert torch.stack(draws).float().mean() == pytest.approx(0.55, abs=0.07)
    nearly_all = MaskedBandReconstruction(32, bands=0.99, ground=0.0)
    for _ in range(20):
        visible = nearly_all.hide(views)
        assert sum(view['image'].shape[1] for view in visible) >= 1
        assert all(view['image'].shape[1] for view in visible)


def test_pixels_are_predicted_where_the_view_lies(batch):
    """The target is what the encoder's own cells hold."""
    task = make_task()
    name, views = next((n, v) for n, v in batch['sensors'].items() if n.startswith('landsat'))
    assert views[0]['dx'].abs().max() > 0, f'{name} lies on the lattice'
    features = encode(task.encoder, task.reconstruction.hide(views))
    kept = []
    task.reconstruction.renderer.register_forward_hook(lambda *args: kept.append(args[-1]))
    task.reconstruction.loss(features, views)
    (view,) = views
    # Pixels of 30 m that lie 15 m off a token of 60 m are cut in two along each axis
    assert kept[0].shape[-1] == 4
    assert kept[0].shape[2] == view['image'].shape[1]


def test_training_predicts_better_than_the_mean(batch):
    task = make_task(ground=0.25)
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = task.losses(batch)['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    first, last = (sum(part) / 10 for part in (losses[:10], losses[-10:]))
    assert last < 0.7 * first
    assert all(p.grad is not None for p in task.parameters() if p.requires_grad)


@pytest.mark.parametrize('options', [{'bands': 1.0}, {'ground': -0.1}, {'square_m': 0.0}])
def test_bad_shares_raise(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MaskedBandReconstruction(32, **options)


def test_rows_of_one_sensor_alone(batch):
    """A batch of one sensor is as good as any."""
    task = make_task()
    one = {'sensors': {'a': batch['sensors']['sentinel2_l2a']}, 'present': batch['present']}
    loss = task.losses(one)['loss']
    loss.backward()
    assert loss > 0

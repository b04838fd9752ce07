# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Pretraining with variances: they follow the errors, and stay away from their bounds."""

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from torchgeo_anysensor.datasets import MultiSensorDataset, collate_sensors
from torchgeo_anysensor.losses import CrossSensorInfoNCE, disagreement_nll
from torchgeo_anysensor.models import AnySensorViT, encode, fuse
from torchgeo_anysensor.samplers import AlignedPatchSampler
from torchgeo_anysensor.tasks import ProbabilisticContrastive
from torchgeo_anysensor.transforms import RandomClouds


def make_task(**options):
    torch.manual_seed(0)
    encoder = AnySensorViT(32, depth=1, num_heads=2, token_m=60)
    return ProbabilisticContrastive(encoder, projection_dim=16, **options)


@pytest.fixture(scope='module')
def batch(demo_sensors):
    dataset = MultiSensorDataset(demo_sensors, tolerance=3)
    sampler = AlignedPatchSampler(dataset, size=240, length=8, seed=0)
    return collate_sensors([dataset[index] for index in sampler])


def test_losses_are_contrast_by_precision_and_likelihood(batch):
    task = make_task(token_weight=0.0, min_valid=0.0, variance_weight=0.3).eval()
    torch.nn.init.normal_(task.patch_projection.log_var[-1].weight)
    pooled, share = {}, {}
    for name, views in batch['sensors'].items():
        features = encode(task.encoder, views)
        pooled[name], share[name] = features.pooled, features.valid.float().mean(dim=1)
    found = {name: task.patch_projection(x) for name, x in pooled.items()}
    means = {name: g.mean for name, g in found.items()}
    weight = {n: share[n] / g.log_var.mean(dim=-1).exp() for n, g in found.items()}
    values = task.losses(batch)
    nll, chi2 = disagreement_nll(means, {name: g.log_var for name, g in found.items()})
    assert torch.allclose(
        values['patch_loss'], CrossSensorInfoNCE()(means, weight=weight), atol=1e-5
    )
    assert torch.allclose(values['patch_nll'], nll, atol=1e-5)
    assert torch.allclose(values['patch_chi2'], chi2, atol=1e-4)
    assert torch.allclose(values['loss'], values['patch_loss'] + 0.3 * nll, atol=1e-5)


def test_variances_follow_the_errors_and_keep_off_their_bounds(batch, tmp_path):
    """With clouds on Landsat alone, which then is less sure than it is in clear views."""
    task = make_task(lr=1e-2)
    cloud = RandomClouds(0.5, sensors=['landsat_c2l2'], opacity=(0.9, 1.0), width_m=2000.0)
    torch.manual_seed(0)
    trainer = Trainer(
        max_steps=60,
        accelerator='cpu',
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(task, DataLoader([cloud(batch) for _ in range(60)], batch_size=None))
    task.eval()
    with torch.no_grad():
        clear = task.latents(batch)
        clouded = task.latents(RandomClouds(1.0, opacity=(1.0, 1.0), width_m=9000.0)(batch))
        values = task.losses(batch)
    name = 'landsat_c2l2'
    seen = clear.seen_tokens[name]
    before, after = (x.tokens[name].log_var[seen] for x in (clear, clouded))
    assert before.min() > -7
    assert after.max() < 3.5
    assert after.mean() > before.mean() + 0.5
    assert 0.3 < float(values['token_chi2']) < 2
    trainer.save_checkpoint(tmp_path / 'task.ckpt')
    again = ProbabilisticContrastive.load_from_checkpoint(tmp_path / 'task.ckpt').eval()
    with torch.no_grad():
        assert torch.equal(again.latents(batch).tokens[name].log_var[seen], before)


def test_latents_say_where_a_sensor_was_absent(batch):
    task = make_task(min_valid=0.01).eval()
    name = 'landsat_c2l2'
    keep = torch.arange(8) != 3
    (view,) = batch['sensors'][name]
    facts = {'res'} | {k for k in ('wavelength', 'bandwidth', 'gsd') if view[k].ndim == 1}
    fewer = {
        'sensors': batch['sensors']
        | {name: ({k: x if k in facts else x[keep] for k, x in view.items()},)},
        'present': batch['present'] | {name: keep},
    }
    with torch.no_grad():
        whole, latents = task.latents(batch), task.latents(fewer)
        assert task.losses(fewer)['loss'].isfinite()
    assert latents.grid == (4, 4)
    assert latents.tokens[name].mean.shape == latents.tokens[name].log_var.shape == (8, 16, 16)
    assert not latents.seen_tokens[name][3].any()
    assert not latents.seen_patches[name][3]
    for x, y in zip(whole.tokens[name], latents.tokens[name]):
        assert torch.allclose(x[keep], y[keep], atol=1e-5)
    for kind in ('tokens', 'patches'):
        fused = fuse(getattr(latents, kind), getattr(latents, f'seen_{kind}'))
        alone = getattr(latents, kind)['sentinel2_l2a']
        there = getattr(latents, f'seen_{kind}')['sentinel2_l2a'][3]
        assert there.any()
        assert torch.allclose(fused.mean[3][there], alone.mean[3][there], atol=1e-6)


def test_one_level_alone_can_be_trained(batch):
    values = make_task(token_weight=0.0).losses(batch)
    assert 'token_nll' not in values
    assert values['loss'].isfinite()

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


def test_variances_follow_the_errors_and_keep_off_their_bounds():
    """Both losses together, on features of a linear-Gaussian world that also tell their noise."""
    task = make_task()
    mix = torch.randn(16, 28)
    noise = torch.tensor([0.2, 2.0])

    def draw():
        z, noisy = torch.randn(128, 16), torch.rand(3, 128, 1) < 0.3
        x = z @ mix / 4 + noise[noisy.long()] * torch.randn(3, 128, 28)
        told = noisy.float().expand(-1, -1, 4)
        seen = {name: torch.ones(128, dtype=torch.bool) for name in 'abc'}
        return dict(zip('abc', torch.cat([x, told], dim=-1))), seen, noisy[..., 0]

    head = task.token_projection
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for _ in range(250):
        values, _ = task._compare('token', *draw()[:2])
        optimizer.zero_grad()
        (values['token_loss'] + values['token_nll']).backward()
        optimizer.step()
    x, seen, noisy = draw()
    with torch.no_grad():
        values, means = task._compare('token', x, seen)
        log_var = torch.stack([head(rows).log_var for rows in x.values()])
    assert log_var[noisy].mean() > log_var[~noisy].mean() + 1
    assert -6 < log_var.min() < log_var.max() < 3
    assert float(values['token_chi2']) == pytest.approx(1, abs=0.25)
    assert min(mean.std(dim=0).min() for mean in means.values()) > 0.1


def test_it_trains_and_comes_back_from_its_checkpoint(batch, tmp_path):
    task = make_task(variance_weight=0.2)
    before = [p.clone() for p in task.parameters()]
    trainer = Trainer(
        max_steps=2,
        accelerator='cpu',
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(task, DataLoader([RandomClouds()(batch)] * 2, batch_size=None))
    same = [name for (name, p), q in zip(task.named_parameters(), before) if torch.equal(p, q)]
    assert not same
    trainer.save_checkpoint(tmp_path / 'task.ckpt')
    again = ProbabilisticContrastive.load_from_checkpoint(tmp_path / 'task.ckpt').eval()
    assert again.variance_weight == 0.2
    with torch.no_grad():
        ours, theirs = task.eval().latents(batch), again.latents(batch)
    assert torch.equal(ours.tokens['landsat_c2l2'].log_var, theirs.tokens['landsat_c2l2'].log_var)


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
        vectors = task.embed(task(fewer)[name])  # what the callbacks look at
    assert torch.allclose(vectors, latents.patches[name].mean[keep], atol=1e-5)
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

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Pretraining learns, copes with absent sensors, and writes checkpoints that stand alone."""

import itertools

import pytest
import torch
from lightning.pytorch import Trainer
from pyproj import Geod, Transformer
from torch.testing import assert_close
from torch.utils.data import DataLoader

from torchgeo_anysensor.datasets import MultiSensorDataset, collate_sensors
from torchgeo_anysensor.losses import (
    AllPairsInfoNCE,
    AnchorInfoNCE,
    CrossSensorInfoNCE,
    CrossSensorVICReg,
    GramVolume,
    Symile,
    scatter,
)
from torchgeo_anysensor.models import AnySensorViT, CanonicalEncoder, anysensor_vit_tiny, encode
from torchgeo_anysensor.models.description import describe
from torchgeo_anysensor.models.ground import cut_valid
from torchgeo_anysensor.models.pretrained import build_encoder, load_encoder
from torchgeo_anysensor.samplers import AlignedPatchSampler
from torchgeo_anysensor.tasks import CrossSensorContrastive, SegmentationProbe
from torchgeo_anysensor.tasks.base import spread_rows
from torchgeo_anysensor.tasks.observation import _other, finest
from torchgeo_anysensor.tasks.places import axes_of_patches, places_of_tokens


def make_task(**options):
    torch.manual_seed(0)
    return CrossSensorContrastive(anysensor_vit_tiny(depth=1, token_m=60), **options)


@pytest.fixture(scope='module')
def batch(demo_sensors):
    dataset = MultiSensorDataset(demo_sensors, tolerance=3)
    sampler = AlignedPatchSampler(dataset, size=240, length=6, seed=0)
    return collate_sensors([dataset[index] for index in sampler])


def rows_of(view, keep):
    """Some samples of a view; what all samples share has no batch dimension."""
    shared = {'res'} | {k for k in ('wavelength', 'bandwidth', 'gsd') if view[k].ndim == 1}
    return {k: v if k in shared else v[keep] for k, v in view.items()}


def drop_rows(batch, sensor, rows):
    """The batch as if a sensor had not seen some samples."""
    keep = torch.ones(len(batch['present'][sensor]), dtype=torch.bool)
    keep[rows] = False
    views = []
    for view in batch['sensors'][sensor]:
        views.append(rows_of(view, keep))
    return {
        'sensors': batch['sensors'] | {sensor: tuple(views)},
        'present': batch['present'] | {sensor: keep},
    }


def fit(task, batch, folder, *, steps):
    trainer = Trainer(
        max_steps=steps,
        accelerator='cpu',
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(task, DataLoader([batch] * steps, batch_size=None))
    return trainer


def test_what_sensors_agree_about_is_kept_for_the_encoder(batch, tmp_path):
    """Every fourth step sees the batch, as it is: the checkpoint's encoder brings it out."""
    task = make_task(lr=0.0, weight_decay=0.0, reconstruction=1.0)
    trainer = fit(task, batch, tmp_path, steps=9)
    assert int(task.moments.tokens.updates) == 2
    trainer.save_checkpoint(tmp_path / 'it.ckpt')
    raw = load_encoder(tmp_path / 'it.ckpt', canonical=False)
    encoder = load_encoder(tmp_path / 'it.ckpt')
    for canonical, kind in ((False, AnySensorViT), (True, CanonicalEncoder)):
        path = str(tmp_path / 'it.ckpt')
        probe = SegmentationProbe(path, ['x', 'y'], canonical=canonical)
        assert type(probe.encoder) is type(load_encoder(path, canonical=canonical)) is kind
    assert encoder.tokens.signal[0] > 2 * encoder.tokens.signal[20] > 0
    for view in itertools.chain.from_iterable(batch['sensors'].values()):
        assert encoder.bands.knows(view['wavelength']).all()
    assert not encoder.bands.knows(torch.tensor([1.24, 12.0])).any()

    def agreement(encoder):
        """Share of the variance of the first features that sensors have in common."""
        found = {name: encode(encoder, views) for name, views in batch['sensors'].items()}
        tokens = {n: spread_rows(f.tokens, batch['present'][n])[..., :8] for n, f in found.items()}
        seen = {n: spread_rows(f.valid, batch['present'][n]).flatten() for n, f in found.items()}
        it = scatter({n: x.flatten(0, 1) for n, x in tokens.items()}, seen)
        return 1 - float(it.within.trace() / it.total.trace())

    with torch.no_grad():
        assert agreement(encoder) > 0.9 > agreement(raw)


def test_moments_of_another_version_are_named(tmp_path):
    task = make_task()
    state = {k: v for k, v in task.state_dict().items() if not k.startswith('moments.')}
    state |= {f'moments.{key}': torch.zeros(192) for key in ('mean', 'updates')}
    torch.save({'hyper_parameters': dict(task.hparams), 'state_dict': state}, tmp_path / 'old.ckpt')
    with pytest.raises(ValueError, match=r'old.ckpt: its moments .* canonical=False'):
        load_encoder(tmp_path / 'old.ckpt')
    assert isinstance(load_encoder(tmp_path / 'old.ckpt', canonical=False), AnySensorViT)


def test_another_sensor_sees_other_bands_at_other_wavelengths_aside(batch):
    """Moments are of each sensor once more, as if it were one that was never met."""
    (view,) = batch['sensors']['landsat_c2l2']
    before = view['wavelength'].clone()
    made = [_other(view, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert_close(made[0], made[1])
    other = made[0]
    count = other['wavelength'].shape[-1]
    assert 0 < count < before.shape[-1]
    apart = other['wavelength'][..., :, None] / view['wavelength'][..., None, :] - 1
    assert (apart.abs().amin(dim=-1) > 0).all()
    assert (apart.abs().amin(dim=-1) < 0.1).all()
    pixels = [
        [bool((x == y).all()) for y in view['image'].unbind(1)] for x in other['image'].unbind(1)
    ]
    assert [sum(row) for row in pixels] == [1] * count  # what is measured is not changed
    aside = (other['dx'] - view['dx']) / view['res']
    assert set(aside.tolist()) <= {-0.5, 0.0, 0.5}
    assert aside.any()
    assert_close(view['wavelength'], before)


@pytest.mark.parametrize(
    ('sizes', 'expected'), [((10, 30, 20), 10), ((10, 300), 300), ((7, 10), 7)]
)
def test_detail_is_as_fine_as_all_pixels_allow(sizes, expected):
    views = {str(size): ({'res': torch.tensor(float(size))},) for size in sizes}
    assert finest({'sensors': views}) == expected


def test_sensors_agree_about_detail_too(batch, tmp_path):
    torch.manual_seed(0)
    encoder = anysensor_vit_tiny(depth=1, token_m=60, detail_dim=8)
    task = CrossSensorContrastive(encoder, lr=0.0, weight_decay=0.0)
    assert not any(p.requires_grad for p in encoder.fine.parameters())  # no loss sees it
    trainer = fit(task, batch, tmp_path, steps=9)
    assert int(task.moments.detail.updates) == 2
    trainer.save_checkpoint(tmp_path / 'it.ckpt')
    found = load_encoder(tmp_path / 'it.ckpt')
    assert all(p.requires_grad for p in found.encoder.fine.parameters())

    def agreement(encoder):
        """Share of the variance of the first features that sensors have in common."""
        rows, seen = {}, {}
        for name, views in batch['sensors'].items():
            detail = encode(encoder, views, detail_m=30).detail[:, :4].flatten(2).mT
            rows[name] = spread_rows(detail, batch['present'][name]).flatten(0, 1)
            cells = torch.stack([cut_valid(v, token_m=30).valid.all(dim=(2, 3)) for v in views])
            seen[name] = spread_rows(cells.all(dim=0), batch['present'][name]).flatten()
        it = scatter(rows, seen)
        return 1 - float(it.within.trace() / it.total.trace())

    with torch.no_grad():
        assert agreement(found) > 0.95 > agreement(found.encoder)


def test_training_makes_sensors_agree(batch, tmp_path):
    task = make_task(lr=3e-3)
    with torch.no_grad():
        before = float(task.losses(batch)['loss'])
    fit(task, batch, tmp_path, steps=30)
    with torch.no_grad():
        assert float(task.losses(batch)['loss']) < 0.9 * before


def test_place_and_time_give_no_hint(awake, batch):
    told = {
        name: tuple(
            {**v, 't': v['t'] + 1e7, 'lon': v['lon'] + 5, 'level': 0 * v['t']} for v in views
        )
        for name, views in batch['sensors'].items()
    }
    torch.manual_seed(0)
    encoder = awake(AnySensorViT(32, depth=1, num_heads=2, facts=['time', 'place', 'level']))
    task = CrossSensorContrastive(encoder, token_weight=0.0)
    views = batch['sensors']['sentinel2_l2a']
    moved = encode(encoder, told['sentinel2_l2a']).pooled - encode(encoder, views).pooled
    assert moved.abs().max() > 1e-2
    loss = task.losses({**batch, 'sensors': told})['loss']
    assert torch.equal(loss, task.losses(batch)['loss'])


def test_loss_is_the_loss_of_the_projected_patches(batch):
    task = make_task(token_weight=0.0, min_valid=0.0).eval()
    for view in itertools.chain.from_iterable(batch['sensors'].values()):
        view['valid'][:] = True  # all weigh the same
    pooled = {
        name: task.patch_projection(encode(task.encoder, views).pooled)
        for name, views in batch['sensors'].items()
    }
    assert torch.allclose(task.losses(batch)['loss'], CrossSensorInfoNCE()(pooled), atol=1e-5)


def test_private_features_are_out_of_the_contrast_and_in_the_reconstruction(batch, monkeypatch):
    torch.manual_seed(0)
    encoder = AnySensorViT(32, depth=1, num_heads=2)
    task = CrossSensorContrastive(encoder, reconstruction=1.0, private_dim=8)
    kept = []

    def remembered(*args, **options):
        features = encode(*args, **options)
        features.tokens.retain_grad()
        features.pooled.retain_grad()
        kept.append(features)
        return features

    monkeypatch.setattr('torchgeo_anysensor.tasks.contrastive.encode', remembered)

    def private_gradients(*names):
        kept.clear()
        values = task.losses(batch)
        sum(values[name] for name in names).backward()
        grads = [x.grad for f in kept for x in (f.tokens, f.pooled) if x.grad is not None]
        return max(float(g[..., -8:].abs().max()) for g in grads)

    assert private_gradients('patch_loss', 'token_loss') == 0
    assert private_gradients('reconstruction_loss') > 0
    assert private_gradients('decorrelation_loss') > 0


def test_evaluation_compares_whole_views(batch):
    torch.manual_seed(0)
    encoder = AnySensorViT(32, depth=1, num_heads=2)
    task = CrossSensorContrastive(encoder, reconstruction=1.0, token_weight=0.0)
    alone = CrossSensorContrastive(encoder, token_weight=0.0)
    alone.patch_projection = task.patch_projection
    expected = alone.losses(batch)['patch_loss']
    assert (task.train().losses(batch)['patch_loss'] - expected).abs() > 1e-4
    assert torch.equal(task.eval().losses(batch)['patch_loss'], expected)


def test_reconstruction_copes_with_absent_sensors(batch):
    task = CrossSensorContrastive(
        AnySensorViT(32, depth=1, num_heads=2), reconstruction=1.0, private_dim=8
    )
    for name in batch['sensors']:
        apart = drop_rows(batch, name, [0, 2, 3])
        values = task.losses(apart)
        assert all(value.isfinite() for value in values.values())
        values['loss'].backward()
    names = list(batch['sensors'])
    one, rest = {names[0]: [0, 1, 2], names[1]: [3, 4, 5]}, batch
    for name in names:
        rest = drop_rows(rest, name, one.get(name, [0, 1, 2, 3, 4]))
    assert task.losses(rest)['loss'].isfinite()  # hardly two sensors share a sample


@pytest.mark.parametrize('private_dim', [-1, 32])
def test_the_contrast_needs_a_feature(private_dim):
    with pytest.raises(ValueError, match='private_dim'):
        CrossSensorContrastive(AnySensorViT(32, depth=1, num_heads=2), private_dim=private_dim)


def test_absent_rows_take_no_part(batch):
    task = make_task(token_weight=0.0, min_valid=0.0).eval()
    fewer = drop_rows(batch, 'landsat_c2l2', [0, 3])
    both = torch.tensor([1, 2, 4, 5])
    alone = {
        'sensors': {
            name: tuple(rows_of(view, both) for view in views)
            for name, views in batch['sensors'].items()
        },
        'present': {name: p[both] for name, p in batch['present'].items()},
    }
    assert torch.allclose(task.losses(fewer)['loss'], task.losses(alone)['loss'], atol=1e-5)


def test_clouded_sensor_counts_as_absent(batch):
    clouded = drop_rows(batch, 'landsat_c2l2', [])
    (view,) = clouded['sensors']['landsat_c2l2']
    view['valid'] = view['valid'].clone()
    view['valid'][0] = False
    task = make_task(token_weight=0.0, min_valid=0.01).eval()
    without = drop_rows(batch, 'landsat_c2l2', [0])
    assert torch.allclose(task.losses(clouded)['loss'], task.losses(without)['loss'], atol=1e-5)


def test_tokens_are_compared_at_the_same_place(batch):
    task = make_task().eval()
    features = task(batch)
    marked = {
        name: f._replace(tokens=torch.arange(16.0)[None, :, None].expand_as(f.tokens))
        for name, f in features.items()
    }
    task.token_projection = torch.nn.Identity()
    fewer = drop_rows(batch, 'landsat_c2l2', [2])
    name = 'landsat_c2l2'
    marked[name] = marked[name]._replace(
        tokens=marked[name].tokens[1:], valid=marked[name].valid[1:]
    )
    tokens, seen, _ = task._tokens(marked, fewer['present'])
    together = seen['sentinel2_l2a'] & seen[name]
    assert together.any()
    assert torch.equal(tokens['sentinel2_l2a'][together], tokens[name][together])


def recorded(task, batch):
    """What the task gives its loss, for patches and for tokens."""
    calls = []

    class Recorder(torch.nn.Module):
        def forward(self, features, present, **options):
            calls.append(options)
            return sum(x.sum() for x in features.values())

    task.loss = Recorder()
    task.losses(batch)
    return calls


def test_places_are_those_of_the_ground(batch):
    """Distances of geocentric places against those along the ellipsoid."""
    task = make_task(tokens_per_patch=16)
    patches, tokens = recorded(task, batch)
    view = batch['sensors']['sentinel2_l2a'][0]
    geod = Geod(ellps='WGS84')
    lon, lat = view['lon'].tolist(), view['lat'].tolist()
    for i in range(1, len(lon)):
        _, _, metres = geod.inv(lon[0], lat[0], lon[i], lat[i])
        away = (patches['place'][i] - patches['place'][0]).norm()
        assert float(away) == pytest.approx(metres, abs=0.01)
    place = tokens['place'].reshape(len(lon), 16, 3)  # all tokens of 60 m in 240 m, shuffled
    assert torch.allclose(place.mean(dim=1), patches['place'], atol=1e-3)
    away = torch.cdist(place, place)
    expected = torch.tensor([60.0, 240 / 2**0.5 * 1.5]).double()
    assert torch.allclose(away.flatten(1).max(dim=1).values, expected[1], atol=1e-2)
    assert torch.allclose(away.sort(dim=2).values[..., 1], expected[0], atol=1e-2)


def test_tokens_lie_row_by_row_from_the_north_west(batch):
    task = make_task()
    views = {name: list(v) for name, v in batch['sensors'].items()}
    lon, lat = torch.tensor([7.0]).double(), torch.tensor([46.0]).double()
    views = {
        'a': (
            {'lon': lon, 'lat': lat, **{k: views['landsat_c2l2'][0][k] for k in ('image', 'res')}},
        )
    }
    axes = axes_of_patches(views, {'a': torch.ones(1, dtype=torch.bool)})
    features = task(batch)['landsat_c2l2']
    place = places_of_tokens(axes, torch.arange(16)[None], features, views)
    x, y, z = place.T.tolist()
    to_degrees = Transformer.from_crs('EPSG:4978', 'EPSG:4326', always_xy=True)
    lons, lats, heights = to_degrees.transform(x, y, z)
    assert max(abs(h) for h in heights) < 0.01
    assert lats[0] > 46 > lats[15]
    assert lons[0] < 7 < lons[3]
    assert lats[0] == pytest.approx(lats[3], abs=1e-6)
    assert lons[0] == pytest.approx(lons[12], abs=1e-5)


def test_unknown_places_are_nan(batch):
    unknown = {
        name: tuple({k: x for k, x in v.items() if k not in ('lon', 'lat')} for v in views)
        for name, views in batch['sensors'].items()
    }
    patches, tokens = recorded(make_task(), {**batch, 'sensors': unknown})
    assert patches['place'].shape == (6, 3)
    assert patches['place'].isnan().all()
    assert tokens['place'].isnan().all()
    # One sensor that says where it is tells for all
    half = {**unknown, 'landsat_c2l2': batch['sensors']['landsat_c2l2']}
    patches, _ = recorded(make_task(), drop_rows({**batch, 'sensors': half}, 'landsat_c2l2', [2]))
    assert patches['place'].isnan().any(dim=1).tolist() == [False, False, True, False, False, False]


def test_patches_count_by_what_was_seen(batch):
    clouded = drop_rows(batch, 'landsat_c2l2', [])
    (view,) = clouded['sensors']['landsat_c2l2']
    view['valid'] = torch.ones_like(view['valid'])
    view['valid'][0, :4] = False  # 120 of 240 m, which is less than all cells see
    task = make_task()
    patches, tokens = recorded(task, clouded)
    weight = patches['weight']['landsat_c2l2']
    assert torch.equal(weight, task(clouded)['landsat_c2l2'].valid.float().mean(dim=1))
    assert 0 < weight[0] < 1
    assert weight[1:].tolist() == [1.0] * 5
    assert 'weight' not in tokens


def test_levels_have_weights(batch):
    parts = {}
    for weights in ((1.0, 1.0), (0.5, 2.0)):
        task = make_task(patch_weight=weights[0], token_weight=weights[1]).eval()
        torch.manual_seed(0)
        values = task.losses(batch)
        parts[weights] = values['patch_loss'], values['token_loss']
        total = weights[0] * values['patch_loss'] + weights[1] * values['token_loss']
        assert torch.allclose(values['loss'], total)
    assert all(torch.equal(a, b) for a, b in zip(*parts.values()))


OBJECTIVES = [
    CrossSensorInfoNCE(temperature_bounds=(0.01, 1), min_distance=100.0, sigmoid=True),
    AllPairsInfoNCE(),
    AnchorInfoNCE('sentinel2_l2a'),
    GramVolume('landsat_c2l2'),
    Symile(0.02, temperature_bounds=(0.001, 1)),
    CrossSensorVICReg(private=8),
]


@pytest.mark.parametrize('loss', OBJECTIVES, ids=lambda loss: type(loss).__name__)
def test_any_objective_trains(batch, tmp_path, loss):
    task = make_task(loss=loss)
    before = [p.clone() for p in task.parameters()]
    trainer = fit(task, batch, tmp_path, steps=2)
    assert all(p.isfinite().all() for p in task.parameters())
    assert sum(not torch.equal(p, q) for p, q in zip(task.parameters(), before)) > 10
    trainer.save_checkpoint(tmp_path / 'task.ckpt')
    again = CrossSensorContrastive.load_from_checkpoint(tmp_path / 'task.ckpt')
    assert type(again.loss) is type(loss)
    assert again.loss.init_args == loss.init_args


def test_learned_temperature_reaches_optimizer_and_checkpoint(batch, tmp_path):
    loss = CrossSensorInfoNCE(0.2, temperature_bounds=(0.05, 0.5))
    task = make_task(loss=loss, lr=0.05)
    trainer = fit(task, batch, tmp_path, steps=5)
    assert abs(loss.temperature - 0.2) > 1e-3
    encoder, of_loss = trainer.optimizers[0].param_groups
    assert of_loss['params'] == [*loss.parameters()]
    assert of_loss['weight_decay'] == 0 < encoder['weight_decay']
    assert len(encoder['params']) + 1 == len([*task.parameters()])
    trainer.save_checkpoint(tmp_path / 'task.ckpt')
    again = CrossSensorContrastive.load_from_checkpoint(tmp_path / 'task.ckpt')
    assert again.loss.temperature == loss.temperature


def test_one_sensor_is_no_contrast(batch):
    single = {
        'sensors': {'landsat_c2l2': batch['sensors']['landsat_c2l2']},
        'present': {'landsat_c2l2': batch['present']['landsat_c2l2']},
    }
    with pytest.raises(ValueError, match=r"contrast needs two sensors, the batch has .'landsat"):
        make_task().losses(single)


@pytest.fixture
def checkpoint(batch, tmp_path):
    task = make_task()
    trainer = fit(task, batch, tmp_path, steps=1)
    trainer.save_checkpoint(tmp_path / 'task.ckpt')
    return task, tmp_path / 'task.ckpt'


def test_checkpoint_holds_no_pickled_objects(checkpoint):
    _, path = checkpoint
    assert torch.load(path, weights_only=True)['hyper_parameters']['encoder'] == describe(
        anysensor_vit_tiny(depth=1, token_m=60)
    )


def test_task_rebuilds_itself_from_its_checkpoint(checkpoint):
    task, path = checkpoint
    again = CrossSensorContrastive.load_from_checkpoint(path)
    for key, value in task.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    assert again.hparams['lr'] == task.hparams['lr']


def test_encoder_comes_out_of_the_checkpoint(checkpoint, batch):
    task, path = checkpoint
    views = batch['sensors']['sentinel2_l2a']
    with torch.no_grad():
        expected = encode(task.encoder.eval(), views)
        assert torch.equal(encode(load_encoder(path), views).tokens, expected.tokens)


def test_missing_checkpoint_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'none\.ckpt: no such checkpoint. Pretrain first'):
        load_encoder(tmp_path / 'none.ckpt')


def test_checkpoint_of_something_else_is_refused(tmp_path):
    torch.save({'state_dict': {}}, tmp_path / 'other.ckpt')
    with pytest.raises(ValueError, match='does not describe an encoder'):
        load_encoder(tmp_path / 'other.ckpt')


def test_checkpoint_cannot_import_a_module():
    with pytest.raises(ValueError, match='import antigravity first if you trust it'):
        build_encoder({'class_path': 'antigravity.Encoder'})


def test_checkpoint_cannot_name_something_else():
    with pytest.raises(TypeError, match='LinearHead is not a class of SensorEncoder'):
        build_encoder(
            {
                'class_path': 'torchgeo_anysensor.models.LinearHead',
                'init_args': {'embed_dim': 4, 'num_classes': 2},
            }
        )

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Landsat is turned into Sentinel-2 where both were seen, at the right place."""

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from torchgeo_anysensor.datasets import LabelRaster, MultiSensorDataset, collate_sensors
from torchgeo_anysensor.models import EarlyFusion, UNet, segment
from torchgeo_anysensor.samplers import AlignedPatchSampler
from torchgeo_anysensor.tasks import Segmentation, SensorTranslation, Translated, Translator
from torchgeo_anysensor.tasks.base import sensor_views
from torchgeo_anysensor.tasks.translation import absolute_difference

S2, L8 = 'sentinel2_l2a', 'landsat_c2l2'


@pytest.fixture(scope='module')
def batch(demo, demo_sensors):
    dataset = MultiSensorDataset(demo_sensors, tolerance=3, labels=LabelRaster(demo / 'landcover'))
    sampler = AlignedPatchSampler(dataset, size=240, length=4, seed=0)
    return collate_sensors([dataset[index] for index in sampler])


@pytest.fixture
def views(batch):
    return sensor_views(batch['sensors'], batch['present'])


def small_unet(in_channels, out_channels):
    return UNet(in_channels, out_channels, decoder_channels=(32, 16))


class Silent(torch.nn.Module):
    """A network that finds nothing to add."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.init_args = {}
        self.out_channels = out_channels

    def forward(self, x):
        return x.new_zeros(len(x), self.out_channels, *x.shape[-2:])


def make_task(network=small_unet, **options):
    torch.manual_seed(0)
    return SensorTranslation(Translator(7, 10, network=network), **options)


def make_segmenter():
    torch.manual_seed(1)
    return EarlyFusion({S2: 10}, 10, network=small_unet).eval()


def make_trainer(folder, steps=1):
    return Trainer(
        max_steps=steps,
        accelerator='cpu',
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def loader(batch, n=1):
    return DataLoader([batch] * n, batch_size=None)


@pytest.fixture
def trained(batch, tmp_path):
    task = make_task()
    trainer = make_trainer(tmp_path)
    trainer.fit(task, loader(batch))
    trainer.save_checkpoint(tmp_path / 'translator.ckpt')
    return task, str(tmp_path / 'translator.ckpt')


def test_translation_becomes_better_than_the_nearest_bands(batch, tmp_path):
    task = make_task(lr=1e-2)
    make_trainer(tmp_path, 40).fit(task, loader(batch, 40))
    losses = task.eval().losses(batch)
    assert 0 < losses['loss'] < 0.9 * losses['nearest']


@torch.no_grad()
def test_translation_starts_from_the_band_of_the_nearest_wavelength(batch, views):
    task = make_task(network=Silent).eval()
    losses = task.losses(batch)
    assert losses['loss'] == losses['nearest']
    made, (landsat,) = task(batch), views[L8]
    # B02 B03 B04 B08, B05 B06 B07 B8A B11 B12 as SR_B1 ... SR_B7 would have them
    nearest = [2, 3, 4, 5, 4, 4, 5, 5, 6, 7]
    one = int(made['valid'].flatten(1).sum(dim=1).argmax())  # the clearest
    where = made['valid'][one].nonzero()
    values = [landsat['image'][one, band - 1] for band in nearest]
    for image, value in zip(made['image'][one], values):
        seen = image[where[:, 0], where[:, 1]]
        assert value.min() - 1e-5 <= seen.min()
        assert seen.max() <= value.max() + 1e-5
    assert made['res'] == 10
    assert made['image'].shape == (4, 10, 24, 24)
    assert (
        made['wavelength'].tolist()
        == torch.cat(
            [view['wavelength'].reshape(-1, view['image'].shape[1])[0] for view in views[S2]]
        ).tolist()
    )


def test_difference_by_hand(make_views):
    made, target = make_views
    made['image'][:] = 0.3
    target['image'][:] = 0.5
    assert float(absolute_difference(made, [target])) == pytest.approx(0.2 / 0.2)
    target['image'][0, 1] = 0.9  # one of four bands and rows: 3 units off, beside three of 1
    assert float(absolute_difference(made, [target])) == pytest.approx((3 + 3 * 1) / 4)
    target['valid'][0, 0] = False
    target['image'][0, :, 0] = torch.nan
    assert float(absolute_difference(made, [target])) == pytest.approx((3 + 3 * 1) / 4)
    made['valid'][:] = False
    assert float(absolute_difference(made, [target])) == 0


@pytest.fixture
def make_views():
    """A view of four bands at 10 m, and one at 20 m."""
    facts = torch.tensor([0.49, 0.56, 0.66, 0.83])
    return tuple(
        {
            'image': torch.zeros(1, 4, n, n),
            'valid': torch.ones(1, n, n, dtype=torch.bool),
            'wavelength': facts,
            'res': torch.tensor(240.0 / n),
            'dx': torch.zeros(1),
            'dy': torch.zeros(1),
        }
        for n in (24, 12)
    )


def test_difference_is_taken_at_the_same_place(make_views):
    made, target = make_views
    made['image'][:] = 0.01 * (torch.arange(24) + 0.5)  # easting / 1000 m
    target['image'][:] = 0.02 * (torch.arange(12) + 0.5)
    assert float(absolute_difference(made, [target])) == pytest.approx(0, abs=1e-5)
    target['image'] += 0.01
    target['dx'] += 10
    at_border = 0.01 / 0.2 / 12  # half a pixel is continued there
    assert float(absolute_difference(made, [target])) < 1.1 * at_border
    target['dx'] -= 20
    assert float(absolute_difference(made, [target])) > 10 * at_border


def test_what_is_not_valid_teaches_nothing(batch):
    task = make_task()
    hidden, other = ({**batch, 'sensors': dict(batch['sensors'])} for _ in range(2))
    for name in (S2, L8):
        with_holes = []
        for view in batch['sensors'][name]:
            valid = view['valid'].clone()
            valid[:, : valid.shape[1] // 4] = False
            with_holes.append(view | {'valid': valid})
        hidden['sensors'][name] = tuple(with_holes)
        other['sensors'][name] = tuple(
            view | {'image': torch.where(view['valid'][:, None], view['image'], torch.nan)}
            for view in with_holes
        )
    gradients = []
    for given in (hidden, other):
        task.zero_grad()
        task.losses(given)['loss'].backward()
        gradients.append([p.grad.clone() for p in task.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients))
    assert any(g.any() for g in gradients[0])


def test_untrained_translator_says_so(views):
    with pytest.raises(ValueError, match='knows no target yet'):
        Translator(7, 10, network=small_unet)(views[L8])


@torch.no_grad()
def test_translated_reads_the_target_or_the_source_translated(trained, views):
    task, path = trained
    model, segmenter = Translated(path, make_segmenter()).eval(), make_segmenter()
    real = segment(segmenter, {S2: views[S2]}, (24, 24))
    assert torch.equal(segment(model, {S2: views[S2]}, (24, 24)), real)
    made = {S2: [task.translator.eval()(views[L8])]}
    expected = segment(segmenter, made, (24, 24))
    assert torch.equal(segment(model, {L8: views[L8]}, (24, 24)), expected)
    assert not torch.allclose(expected, real)
    with pytest.raises(ValueError, match='needs landsat_c2l2 or sentinel2_l2a, the batch has'):
        segment(model, {'hls_s30': views[S2]}, (24, 24))


@torch.no_grad()
def test_translation_fills_what_the_target_did_not_see(trained, views):
    model = Translated(trained[0].translator, make_segmenter()).eval()
    every = [torch.ones_like(v['valid']) for v in (*views[S2], *views[L8])]
    fine, coarse, landsat = (
        view | {'valid': valid} for view, valid in zip((*views[S2], *views[L8]), every)
    )
    whole = segment(model, {S2: (fine, coarse), L8: (landsat,)}, (24, 24))
    assert torch.allclose(whole, segment(model, {S2: (fine, coarse)}, (24, 24)), atol=1e-4)
    unseen = [v | {'valid': torch.zeros_like(v['valid'])} for v in (fine, coarse)]
    filled = segment(model, {S2: unseen, L8: (landsat,)}, (24, 24))
    assert torch.allclose(filled, segment(model, {L8: (landsat,)}, (24, 24)), atol=1e-4)


def test_tasks_rebuild_themselves_from_their_checkpoints(trained, batch, tmp_path):
    task, path = trained
    again = SensorTranslation.load_from_checkpoint(path).eval()
    assert torch.equal(again(batch)['image'], task.eval()(batch)['image'])
    classes = [f'class {number}' for number in range(10)]
    mapping = Segmentation(Translated(path, make_segmenter()), classes, train_sensors=[S2])
    before = {
        key: value.clone() for key, value in mapping.segmenter.translator.state_dict().items()
    }
    trainer = make_trainer(tmp_path)
    trainer.fit(mapping, loader(batch))
    trainer.save_checkpoint(tmp_path / 'map.ckpt')
    (tmp_path / 'translator.ckpt').unlink()
    rebuilt = Segmentation.load_from_checkpoint(tmp_path / 'map.ckpt').eval()
    for sensors in ([S2], [L8]):
        assert torch.equal(rebuilt(batch, sensors=sensors), mapping.eval()(batch, sensors=sensors))
    for key, value in rebuilt.segmenter.translator.state_dict().items():
        assert torch.equal(value, before[key])

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Maps are scored right; a frozen encoder stays frozen; tasks stand alone."""

import math

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from torchgeo_anysensor.datasets import LabelRaster, MultiSensorDataset, collate_sensors
from torchgeo_anysensor.models import (
    Attend,
    DecisionFusion,
    EarlyFusion,
    Harmonised,
    LateFusion,
    LinearHead,
    PixelRegression,
    RandomConvolutions,
    SMPDecoderHead,
    UNet,
    UNetScratch,
    anysensor_vit_tiny,
    encode,
)
from torchgeo_anysensor.samplers import AlignedPatchSampler
from torchgeo_anysensor.tasks import CrossSensorContrastive, Segmentation, SegmentationProbe
from torchgeo_anysensor.tasks.base import joint_views, sensor_views
from torchgeo_anysensor.tasks.segmentation import seen_labels, segmentation_scores
from torchgeo_anysensor.types import IGNORE_INDEX

CLASSES = [f'class {number}' for number in range(10)]
S2, L8 = 'sentinel2_l2a', 'landsat_c2l2'
BANDS = {S2: 10, L8: 7}


class Tiny(torch.nn.Module):
    """A network of the user's own."""

    def __init__(self, in_channels, out_channels, *, width=8):
        super().__init__()
        self.init_args = {'width': width}
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(in_channels, width, 3, padding=1),
            torch.nn.GELU(),
            torch.nn.Conv2d(width, out_channels, 1),
        )

    def forward(self, x):
        return self.layers(x)


def small_unet(in_channels, out_channels):
    return UNet(in_channels, out_channels, decoder_channels=(32, 16))


SEGMENTERS = {
    'early': lambda: EarlyFusion(BANDS, 10, network=Tiny, sensor_dropout=0.1),
    'late': lambda: LateFusion(BANDS, 10, network=small_unet, fuse=Attend, features=16),
    'decision': lambda: DecisionFusion(BANDS, 10, network=Tiny, weights={S2: 2.0}),
    'scratch': lambda: UNetScratch(10, network=small_unet),
    'harmonised': lambda: Harmonised(10, adjust=[S2], network=Tiny),
    'regression': lambda: PixelRegression(10, BANDS),
    'convolutions': lambda: RandomConvolutions(10, filters=4, scales=(1, 2), seed=3),
}


@pytest.fixture(scope='module')
def batch(demo, demo_sensors):
    dataset = MultiSensorDataset(demo_sensors, tolerance=3, labels=LabelRaster(demo / 'landcover'))
    sampler = AlignedPatchSampler(dataset, size=240, length=4, seed=0)
    return collate_sensors([dataset[index] for index in sampler])


def make_probe(**options):
    torch.manual_seed(0)
    options.setdefault('encoder', anysensor_vit_tiny(depth=1, token_m=60))
    return SegmentationProbe(classes=CLASSES, **options)


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


def test_scores_by_hand():
    # Truth in rows: class 0 is hit 3 of 4 times, class 1 once of 2, class 2 never occurs
    scores = segmentation_scores(torch.tensor([[3, 1, 0], [0, 1, 1], [0, 0, 0]]))
    assert scores['iou'].tolist() == pytest.approx([3 / 4, 1 / 3, 0])
    assert float(scores['miou']) == pytest.approx((3 / 4 + 1 / 3) / 2)
    assert float(scores['accuracy']) == pytest.approx(4 / 6)


def test_class_that_neither_occurs_nor_is_predicted_has_no_iou():
    assert math.isnan(segmentation_scores(torch.tensor([[1, 0], [0, 0]]))['iou'][1])


def test_pixels_without_label_count_nowhere(batch):
    probe = make_probe()
    ignored = dict(batch) | {'mask': torch.full_like(batch['mask'], IGNORE_INDEX)}
    half = dict(batch) | {'mask': batch['mask'].clone()}
    half['mask'][:, :12] = IGNORE_INDEX
    assert float(probe._loss(probe(ignored), ignored['mask'])) == 0
    logits = probe(half)
    assert torch.allclose(
        probe._loss(logits, half['mask']), probe._loss(logits[:, :, 12:], half['mask'][:, 12:])
    )
    probe.test_step(half, 0)
    seen = seen_labels(half) != IGNORE_INDEX
    assert int(probe.test_confusion.compute().sum()) == int(seen.sum()) > 0


def test_pixels_that_no_sensor_saw_count_nowhere(batch):
    views = []
    for view in batch['sensors'][S2]:
        valid = view['valid'].clone()
        valid[:, : valid.shape[1] // 2] = False
        views.append(view | {'valid': valid})
    clouded = {**batch, 'sensors': {**batch['sensors'], S2: tuple(views)}}
    assert (seen_labels(clouded, [S2])[:, :12] == IGNORE_INDEX).all()
    whole = batch['sensors'][L8][0]['valid'].all(dim=2).all(dim=1)
    assert whole.any()
    assert torch.equal(seen_labels(clouded, [S2, L8])[whole], batch['mask'][whole])


@pytest.mark.parametrize('freeze', [True, False])
def test_frozen_encoder_stays_and_free_one_moves(batch, tmp_path, freeze):
    probe = make_probe(freeze=freeze)
    before = {key: value.clone() for key, value in probe.encoder.state_dict().items()}
    make_trainer(tmp_path, 2).fit(probe, loader(batch, 2))
    moved = [
        key for key, value in probe.encoder.state_dict().items() if not value.equal(before[key])
    ]
    assert bool(moved) is not freeze
    assert not probe.head.classify.weight.equal(make_probe(freeze=freeze).head.classify.weight)
    if freeze:
        probe.train()
        assert not probe.encoder.training


def test_probe_learns(batch, tmp_path):
    probe = make_probe(lr=3e-2)
    before = float(probe._loss(probe(batch), batch['mask']))
    make_trainer(tmp_path, 10).fit(probe, loader(batch, 10))
    assert float(probe._loss(probe(batch), batch['mask'])) < 0.9 * before


def test_map_lies_on_the_grid_of_the_mask(batch):
    for head in (LinearHead, SMPDecoderHead):
        assert make_probe(head=head)(batch).shape == (4, 10, 24, 24)


def test_trained_on_one_sensor_and_tested_on_another(batch, tmp_path):
    probe = make_probe(train_sensors=[S2], test_sensors=[L8]).eval()
    seen = []
    original = probe.encoder.forward
    probe.encoder.forward = lambda views, **k: (
        seen.append([v['image'].shape[1] for v in views]) or original(views, **k)
    )
    trainer = make_trainer(tmp_path)
    trainer.fit(probe, loader(batch))
    trainer.test(probe, loader(batch), verbose=False)
    assert seen == [[4, 6], [7]]  # bands of the 10 m and 20 m grids; of Landsat


def test_absent_sensor_is_passed_over(batch):
    encoder = anysensor_vit_tiny(depth=1, token_m=60).eval()
    keep = torch.tensor([True, False, True, True])
    (view,) = batch['sensors'][L8]
    shared = {'res'} | {k for k in ('wavelength', 'bandwidth', 'gsd') if view[k].ndim == 1}
    fewer = {k: v if k in shared else v[keep] for k, v in view.items()}
    sensors = batch['sensors'] | {L8: (fewer,)}
    present = batch['present'] | {L8: keep}
    with torch.no_grad():
        joint = encode(encoder, joint_views(sensors, present, [S2, L8])).tokens
        whole = encode(encoder, [*batch['sensors'][S2], view]).tokens
        alone = encode(encoder, batch['sensors'][S2]).tokens
    assert torch.allclose(joint[keep], whole[keep], atol=1e-5)
    assert torch.allclose(joint[~keep], alone[~keep], atol=1e-5)


def test_unknown_sensor_is_said(batch):
    with pytest.raises(ValueError, match=r"none of the sensors \['sentinel1'\] is in the batch"):
        make_probe()(batch, sensors=['sentinel1'])


def test_probe_loads_what_pretraining_wrote_and_then_stands_alone(batch, tmp_path):
    pretraining = CrossSensorContrastive(anysensor_vit_tiny(depth=1, token_m=60))
    trainer = make_trainer(tmp_path)
    trainer.fit(pretraining, loader(batch))
    trainer.save_checkpoint(tmp_path / 'encoder.ckpt')
    probe = make_probe(encoder=str(tmp_path / 'encoder.ckpt'), head=SMPDecoderHead)
    for key, value in pretraining.encoder.state_dict().items():
        assert torch.equal(value, probe.encoder.state_dict()[key])
    trainer = make_trainer(tmp_path)
    trainer.fit(probe, loader(batch))
    trainer.save_checkpoint(tmp_path / 'probe.ckpt')
    (tmp_path / 'encoder.ckpt').unlink()
    again = SegmentationProbe.load_from_checkpoint(tmp_path / 'probe.ckpt').eval()
    assert torch.allclose(again(batch), probe.eval()(batch), atol=1e-6)


def make_segmentation(name, **options):
    torch.manual_seed(0)
    return Segmentation(SEGMENTERS[name](), CLASSES, **options)


TRAINED = [name for name in SEGMENTERS if name not in ('regression', 'convolutions')]


@pytest.mark.parametrize('name', TRAINED)
def test_segmenter_learns(batch, tmp_path, name):
    task = make_segmentation(name, lr=2e-2)
    before = task.train_loss(batch).detach()
    make_trainer(tmp_path, 10).fit(task.train(), loader(batch, 10))
    assert task.train().train_loss(batch) < 0.9 * before


@pytest.mark.parametrize('name', SEGMENTERS)
def test_segmentation_rebuilds_itself_from_its_checkpoint(batch, tmp_path, name):
    task = make_segmentation(name, lr=0.1, test_sensors=[S2])
    if name not in TRAINED:
        views = sensor_views(batch['sensors'], batch['present'])
        labelled = [(views, seen_labels(batch))]
        task.segmenter.fit(labelled, labelled, penalties=[1e-2])
    trainer = make_trainer(tmp_path)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / 'map.ckpt')
    described = torch.load(tmp_path / 'map.ckpt', weights_only=True)['hyper_parameters']
    assert described['segmenter']['class_path'].endswith(type(task.segmenter).__name__)
    again = Segmentation.load_from_checkpoint(tmp_path / 'map.ckpt').eval()
    assert again.segmenter.init_args == task.segmenter.init_args
    assert (again.test_sensors, again.hparams['lr']) == ((S2,), 0.1)
    assert torch.equal(again(batch), task.eval()(batch))


def test_sensors_of_a_segmentation_are_those_asked_for(batch, tmp_path):
    task = make_segmentation('scratch', train_sensors=[S2], test_sensors=[L8])
    seen = []
    decide = task.segmenter.decide
    task.segmenter.decide = lambda views, size: seen.append([*views]) or decide(views, size)
    trainer = make_trainer(tmp_path)
    trainer.fit(task, loader(batch))
    trainer.test(task, loader(batch), verbose=False)
    assert seen == [[S2], [L8]]


def test_rows_without_a_sensor_are_as_if_it_were_not_given(batch):
    task = make_segmentation('early').eval()
    (view,) = batch['sensors'][L8]
    keep = torch.tensor([True, False, True, True])
    shared = {'res'} | {k for k in ('wavelength', 'bandwidth', 'gsd') if view[k].ndim == 1}
    fewer = {k: v if k in shared else v[keep] for k, v in view.items()}
    part = dict(batch) | {
        'sensors': batch['sensors'] | {L8: (fewer,)},
        'present': batch['present'] | {L8: keep},
    }
    with torch.no_grad():
        found, whole, alone = task(part), task(batch), task(batch, sensors=[S2])
    assert torch.allclose(found[keep], whole[keep], atol=1e-5)
    assert torch.allclose(found[~keep], alone[~keep], atol=1e-5)


def test_each_decision_is_trained_where_it_has_seen(batch):
    """A label under a cloud of Landsat says nothing to the network of Landsat."""
    task = make_segmentation('decision')
    (view,) = batch['sensors'][L8]
    valid = view['valid'].clone()
    valid[:, :4] = False

    def gradients(mask):
        sensors = batch['sensors'] | {L8: (view | {'valid': valid},)}
        task.zero_grad()
        task.train_loss(dict(batch) | {'sensors': sensors, 'mask': mask}).backward()
        return [p.grad.abs().max() for p in task.segmenter.networks[L8].parameters()]

    clouded = torch.full_like(batch['mask'], IGNORE_INDEX)
    clouded[:, :6] = batch['mask'][:, :6]
    assert not any(gradients(clouded))
    assert all(gradients(batch['mask']))


def test_other_number_of_classes_is_said():
    with pytest.raises(ValueError, match=r'num_classes=10, and classes names 2'):
        Segmentation(SEGMENTERS['early'](), ['a', 'b'])

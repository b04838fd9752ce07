# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The learning rate: warm-up, decay, and how it grows with the samples of a step."""

import math

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader

from torchgeo_anysensor.callbacks import Efficiency
from torchgeo_anysensor.models import AnySensorViT
from torchgeo_anysensor.tasks import MaskedAutoencoding, Schedule
from torchgeo_anysensor.tasks.base import SensorTask


def rates(steps, **options):
    return [Schedule(**options).factor(step, steps=steps) for step in range(steps)]


@pytest.mark.parametrize(('warmup', 'steps'), [(0.25, 5), (5, 5), (0, 1), (0.1, 2), (1, 1)])
def test_warm_up_in_steps_or_as_a_share(warmup, steps):
    found = rates(20, warmup=warmup)
    assert found[:steps] == pytest.approx([(i + 1) / steps for i in range(steps)])
    decay = [0.5 * (1 + math.cos(math.pi * i / (20 - steps))) for i in range(20 - steps)]
    assert found[steps:] == pytest.approx(decay)


def test_the_rate_is_never_negative_beyond_the_end():
    schedule = Schedule(warmup=30)
    assert schedule.factor(10, steps=20) == pytest.approx(11 / 30)
    assert schedule.factor(40, steps=20) == 0


@pytest.mark.parametrize(('power', 'growth'), [(1.0, 4.0), (0.5, 2.0), (0.0, 1.0)])
def test_the_rate_grows_with_the_samples(power, growth):
    assert Schedule(lr_batch=64, lr_power=power).growth(256) == growth
    assert Schedule(lr_power=power).growth(256) == 1


@pytest.mark.parametrize('wrong', [{'warmup': -1}, {'lr_batch': 0}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match='must be at least'):
        Schedule(**wrong)


class Line(SensorTask):
    """The least that has a schedule."""

    def __init__(self, *, lr=0.5, weight_decay=0.0, schedule=None):
        super().__init__()
        self.describe_modules(schedule=schedule)
        self.line = nn.Linear(2, 1)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(self.optimizers().param_groups[0]['lr'])
        return self.line(batch).mean()


def fit(task, folder, *, batch_size=4, callbacks=(), **options):
    trainer = Trainer(
        max_epochs=1,
        accelerator='cpu',
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(task, DataLoader(torch.zeros(32, 2), batch_size=batch_size))
    return trainer


def test_a_step_is_the_batch_times_what_is_accumulated(tmp_path):
    task = Line(schedule=Schedule(lr_batch=2, warmup=1))
    fit(task, tmp_path, accumulate_grad_batches=2)
    assert task.seen[0] == pytest.approx(0.5 * 4 * 2 / 2)
    plain = Line()
    fit(plain, tmp_path, accumulate_grad_batches=2)
    assert plain.seen[0] == pytest.approx(0.5)


def test_a_step_has_the_samples_of_all_ranks(tmp_path, monkeypatch):
    task = Line(schedule=Schedule(lr_batch=4, warmup=1))
    trainer = fit(task, tmp_path)
    monkeypatch.setattr(type(trainer), 'world_size', 8)
    assert task.samples_per_step() == 4 * 8


def test_a_loader_without_a_batch_size_cannot_be_scaled_with(tmp_path):
    task = Line(schedule=Schedule(lr_batch=4))
    trainer = Trainer(accelerator='cpu', logger=False, default_root_dir=tmp_path, max_epochs=1)
    with pytest.raises(ValueError, match='leave lr_batch out'):
        trainer.fit(task, DataLoader([torch.zeros(2, 2)], batch_size=None))


def test_the_schedule_is_in_the_checkpoint_as_plain_values(tmp_path):
    encoder = AnySensorViT(32, depth=1, num_heads=2, band_dim=16)
    task = MaskedAutoencoding(encoder, schedule=Schedule(warmup=7, lr_batch=256))
    trainer = Trainer(logger=False, accelerator='cpu', enable_progress_bar=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / 'task.ckpt')
    saved = torch.load(tmp_path / 'task.ckpt', weights_only=True)['hyper_parameters']
    assert saved['schedule'] == {'warmup': 7, 'lr_batch': 256, 'lr_power': 1.0}
    again = MaskedAutoencoding.load_from_checkpoint(tmp_path / 'task.ckpt')
    assert again.hparams['schedule'] == saved['schedule']


class Stop(Callback):
    """Only the set-up is of interest."""

    def on_fit_start(self, trainer, pl_module):
        raise KeyboardInterrupt


def test_options_reach_the_encoder(tmp_path):
    task = MaskedAutoencoding(AnySensorViT(32, depth=1, num_heads=2, band_dim=16))
    options = Efficiency(chunk=3, checkpointing=True, compile={'backend': 'eager'})
    with pytest.raises(SystemExit):
        fit(task, tmp_path, callbacks=[options, Stop()])
    assert task.encoder.batch_chunk == 3
    assert task.encoder.cells.trunk.grad_checkpointing
    assert task.encoder.cells._compiled_call_impl is not None


def test_options_need_an_encoder(tmp_path):
    with pytest.raises(TypeError, match='Line has none'):
        fit(Line(), tmp_path, callbacks=[Efficiency(chunk=2)])
    fit(Line(), tmp_path, callbacks=[Efficiency()])
    with pytest.raises(ValueError, match='at least 1 sample'):
        Efficiency(chunk=0)

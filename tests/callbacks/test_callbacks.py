# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What is seen while an encoder trains is what it does, and watching it changes nothing."""

import math
import re
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib import pyplot as plt
from torch import nn
from torch.utils.data import DataLoader

from torchgeo_anysensor.callbacks import (
    KNNProbe,
    RepresentationMonitor,
    RepresentationPictures,
    alignment,
    knn_predict,
    spread_of_features,
    uniformity,
)
from torchgeo_anysensor.callbacks.base import log_over_ranks
from torchgeo_anysensor.callbacks.knn import token_labels
from torchgeo_anysensor.callbacks.quicklook import quick_look
from torchgeo_anysensor.losses import retrieval_accuracy
from torchgeo_anysensor.models import AnySensorViT, Features
from torchgeo_anysensor.tasks import (
    CrossSensorContrastive,
    EncoderPretraining,
    MaskedAutoencoding,
    SensorTranslation,
    Translator,
)
from torchgeo_anysensor.types import IGNORE_INDEX

SENSORS = ('a', 'b', 'c')
PATCHES = 24


def make_view(image, valid, res):
    count = len(image)
    nothing = torch.zeros(count)
    return {
        'image': torch.where(valid[:, None], image, 0.0),
        'valid': valid,
        'wavelength': torch.tensor([0.49, 0.56, 0.66, 0.86]),
        'bandwidth': torch.full((4,), 0.05),
        'gsd': torch.full((4,), res),
        'res': torch.tensor(res),
        't': nothing.double(),
        'dx': nothing,
        'dy': nothing,
    }


def make_batch(first, size, *, absent=True):
    """Patches of 120 m with 4 tokens of 60 m; what a patch shows hangs on its number alone."""
    views = {name: ([], []) for name in SENSORS}
    masks, present = [], {name: [] for name in SENSORS}
    for number in range(first, first + size):
        generator = torch.Generator().manual_seed(number)
        ground = torch.rand(4, 12, 12, generator=generator)
        masks.append((ground[0].reshape(2, 6, 2, 6).mean((1, 3)) > 0.5).long())
        for name in SENSORS:
            there = not (absent and name == 'b' and number % 5 == 0)
            present[name].append(there)
            if there:
                valid = torch.ones(12, 12, dtype=torch.bool)
                if name == 'c' and number % 4 == 1:
                    valid[:, : 12 if number % 8 == 1 else 6] = False
                noise = torch.rand(4, 12, 12, generator=generator)
                views[name][0].append(0.8 * ground + 0.2 * noise)
                views[name][1].append(valid)
    return {
        'sensors': {
            name: (make_view(torch.stack(images), torch.stack(valid), 10.0),)
            for name, (images, valid) in views.items()
        },
        'present': {name: torch.tensor(p) for name, p in present.items()},
        'mask': torch.stack(masks).repeat_interleave(6, 1).repeat_interleave(6, 2),
    }


def batches(size, *, first=0, count=PATCHES, **options):
    found = [make_batch(i, size, **options) for i in range(first, first + count, size)]
    return DataLoader(found, batch_size=None)


class Means(nn.Module):
    """Stands for an encoder: the mean of each band in each token."""

    embed_dim = 4
    batch_chunk = None
    init_args = {}  # noqa: RUF012

    def __init__(self, collapsed=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.collapsed = collapsed

    def forward(self, views, *, token_m=None):
        (view,) = views
        valid = view['valid'].reshape(-1, 2, 6, 2, 6).any(dim=4).any(dim=2).flatten(1)
        tokens = view['image'].reshape(-1, 4, 2, 6, 2, 6).mean((3, 5)).flatten(2).mT - 0.5
        constant = torch.tensor([0.5, -0.5, 0.5, -0.5])
        tokens = self.weight * ((1 - self.collapsed) * tokens + self.collapsed * constant)
        return Features(tokens, tokens.mean(dim=1), (2, 2), valid)


class Task(EncoderPretraining):
    """Trains nothing; its validation encodes the batch or not."""

    def __init__(self, encoder=None, *, encodes=True):
        super().__init__()
        self.encoder = encoder or Means()
        self.encodes = encodes
        self.calls = 0
        self.modes = set()

    def forward(self, batch):
        self.calls += 1
        self.modes.add(self.training)
        return super().forward(batch)

    def losses(self, batch):
        if self.training or self.encodes:
            features = self(batch)
            return {'loss': sum(f.pooled.square().mean() for f in features.values())}
        return {'loss': torch.zeros(())}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(task, callbacks, folder, *, size=6, epochs=1, logger=False, **options):
    trainer = Trainer(
        max_epochs=epochs,
        accelerator='cpu',
        logger=logger,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        log_every_n_steps=1,
        **options,
    )
    trainer.fit(task, batches(size, first=1000), batches(size))
    return {k: float(v) for k, v in trainer.callback_metrics.items()}


def encoded(batch, task):
    """Pooled features and tokens of each sensor by patch, and where they are."""
    with torch.no_grad():
        features = EncoderPretraining.forward(task, batch)
    pooled, seen = {}, {}
    for name, f in features.items():
        p = batch['present'][name]
        pooled[name] = torch.full((len(p), 4), float('nan'))
        pooled[name][p] = f.pooled
        seen[name] = p.clone()
        seen[name][p] = f.valid.float().mean(dim=1) >= 0.5
    return features, pooled, seen


def test_monitor_logs_the_numbers_of_the_whole_epoch(tmp_path):
    task = Task()
    found = fit(task, [RepresentationMonitor()], tmp_path)
    features, pooled, seen = encoded(make_batch(0, PATCHES), task)
    both = seen['a'] & seen['b']
    pair = retrieval_accuracy(*({n: x[n] for n in 'ab'} for x in (pooled, seen)))
    assert found['val_retrieval/a-b'] == pytest.approx(float(pair.accuracy))
    assert found['val_alignment/a-b'] == pytest.approx(
        float(alignment(pooled['a'][both], pooled['b'][both])), rel=1e-4
    )
    assert found['val_uniformity/c'] == pytest.approx(
        float(uniformity(pooled['c'][seen['c']])), rel=1e-4
    )
    known = features['c'].tokens[features['c'].valid]
    assert found['val_feature_std/c'] == pytest.approx(float(spread_of_features(known).mean()))
    pairs = [found[f'val_alignment/{p}'] for p in ('a-b', 'a-c', 'b-c')]
    assert found['val_alignment'] == pytest.approx(sum(pairs) / 3)
    assert 0 < found['val_retrieval/chance'] < 0.1 < found['val_retrieval/a-b']


def test_numbers_do_not_depend_on_the_batch_size(tmp_path):
    looks = [
        fit(
            Task(),
            [RepresentationMonitor(max_patches=10), KNNProbe(k=3, max_tokens=1000)],
            tmp_path,
            size=size,
        )
        for size in (2, 12)
    ]
    keys = {key for key in looks[0] if key.startswith('val_') and key != 'val_loss'}
    assert len(keys) > 20
    assert {key: looks[0][key] for key in keys} == pytest.approx(
        {key: looks[1][key] for key in keys}, rel=1e-5
    )


@pytest.mark.parametrize(
    ('collapsed', 'options', 'said'),
    [
        (0.0, {'min_rank': 2.0}, None),
        (0.999, {'min_rank': 2.0}, r'[abc]: features collapse\. 100% of the features'),
        (float('nan'), {'min_rank': 2.0}, r'[abc]: features collapse\. 100% of the features'),
        (0.0, {'min_rank': 4.5}, r'effective rank of its tokens is [34]\.\d, and at least 4\.5'),
    ],
)
def test_alarm_fires_on_a_collapsed_encoder_alone(tmp_path, collapsed, options, said):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        found = fit(Task(Means(collapsed)), [RepresentationMonitor(**options)], tmp_path)
    alarms = [str(w.message) for w in caught if 'collapse' in str(w.message)]
    assert (found['val_dead_features'] == 1) == (collapsed != 0)
    if said is None:
        assert alarms == []
    else:
        assert len([a for a in alarms if re.search(said, a)]) == len(SENSORS)
        assert all('docs/monitoring.md' in a for a in alarms)


def test_real_encoder_is_healthy_until_it_is_broken(tmp_path):
    torch.manual_seed(0)
    task = CrossSensorContrastive(AnySensorViT(16, depth=1, num_heads=2, token_m=60))
    with warnings.catch_warnings(record=True) as healthy:
        warnings.simplefilter('always')
        fit(task, [RepresentationMonitor(min_rank=2.0)], tmp_path)
    assert not [w for w in healthy if 'collapse' in str(w.message)]
    with torch.no_grad():
        for p in task.encoder.parameters():
            if p.ndim > 1:
                p.mul_(1e-4)
    with pytest.warns(UserWarning, match='features collapse'):
        fit(task, [RepresentationMonitor(min_rank=2.0)], tmp_path, limit_train_batches=1)


@pytest.mark.parametrize('encodes', [True, False])
def test_each_batch_is_encoded_once_for_all(tmp_path, encodes):
    task = Task(encodes=encodes)
    callbacks = [
        RepresentationMonitor(),
        RepresentationPictures(rows=1, neighbours=1),
        KNNProbe(max_tokens=24),
    ]
    fit(task, callbacks, tmp_path, num_sanity_val_steps=0)
    bank = 1  # a batch of 6 patches of 4 tokens
    assert task.calls == 4 + 4 + bank
    assert not task._forward_hooks
    assert task.modes == {True, False}
    bare = Task(encodes=encodes)
    fit(bare, [RepresentationMonitor(every_n_epochs=2)], tmp_path, num_sanity_val_steps=0)
    assert bare.calls == (8 if encodes else 4)


def test_watching_changes_nothing(tmp_path):
    """Weights and random numbers of two epochs, with and without."""
    states = []
    for watched in (False, True):
        torch.manual_seed(0)
        task = CrossSensorContrastive(
            AnySensorViT(16, depth=1, num_heads=2, token_m=60), reconstruction=1.0
        )
        callbacks = [
            RepresentationMonitor(),
            RepresentationPictures(rows=1, neighbours=1),
            KNNProbe(),
        ]
        options = {'limit_train_batches': 2, 'limit_val_batches': 2, 'epochs': 2}
        fit(task, callbacks if watched else [], tmp_path, **options)
        states.append((task.state_dict(), torch.get_rng_state(), task.training))
    (plain, rng, mode), (seen, rng_seen, mode_seen) = states
    assert all(torch.equal(plain[key], seen[key]) for key in plain)
    assert torch.equal(rng, rng_seen)
    assert mode == mode_seen


def test_ranks_may_lack_a_value(tmp_path, monkeypatch):
    """What ranks heard of each other is the same everywhere, and so is what they log."""
    logged = []
    task = Task()
    monkeypatch.setattr(task, 'log_dict', lambda values, **options: logged.append(values))
    others = (3, {'x': 1.0, 'y': 5.0}), (0, {})
    monkeypatch.setattr('torchgeo_anysensor.callbacks.base.meet', lambda own: ([own, *others], 0))
    assert log_over_ranks(task, {'x': 5.0}, weight=1) == {'x': 2.0, 'y': 5.0}
    assert logged == [{'x': 2.0, 'y': 5.0}]


def test_pictures_are_written_and_sent(tmp_path):
    board = TensorBoardLogger(tmp_path, name='board')
    figures = plt.get_fignums()
    fit(
        Task(),
        [RepresentationPictures(dirpath=str(tmp_path / 'pictures'), every_n_epochs=2, rows=2)],
        tmp_path,
        epochs=3,
        limit_train_batches=1,
        logger=board,
    )
    written = {path.name for path in (tmp_path / 'pictures').iterdir()}
    assert written == {'neighbours-000002.png', 'tokens-000002.png'}
    sent = b''.join(path.read_bytes() for path in Path(board.log_dir).glob('events*'))
    assert b'val/neighbours' in sent
    assert b'val/tokens' in sent
    assert plt.get_fignums() == figures


def test_neighbours_are_the_nearest_and_the_right_one_has_the_frame(tmp_path, monkeypatch):
    drawn = []
    module = 'torchgeo_anysensor.callbacks.pictures'
    monkeypatch.setattr(f'{module}.draw_neighbours', lambda *a, **k: drawn.append(a))
    task = Task()
    fit(task, [RepresentationPictures(rows=3, neighbours=2)], tmp_path)
    _, pooled, seen = encoded(make_batch(0, PATCHES), task)
    ((first, rows),) = drawn
    assert first == 'a'
    keys = [i for i in range(PATCHES) if seen['b'][i]]
    x = nn.functional.normalize(pooled['a'], dim=1)
    cosine = x @ nn.functional.normalize(pooled['b'][keys], dim=1).T
    for row in rows:
        nearest, rank, among = row.others['b']
        assert among == len(keys)
        assert len(nearest) == 2
        query = int((cosine.max(dim=1).values - nearest[0].cosine).abs().argmin())
        order = cosine[query].argsort(descending=True).tolist()
        assert [c.cosine for c in nearest] == pytest.approx(cosine[query][order[:2]].tolist())
        assert [c.right for c in nearest] == [keys[i] == query for i in order[:2]]
        expected = [keys[i] for i in order].index(query) + 1 if query in keys else None
        assert rank == expected


def test_equal_tokens_get_equal_colours_whatever_the_sensor(tmp_path, monkeypatch):
    drawn = []
    module = 'torchgeo_anysensor.callbacks.pictures'
    monkeypatch.setattr(f'{module}.draw_tokens', lambda *a: drawn.append(a))

    class Same(Means):
        def forward(self, views, *, token_m=None):
            found = super().forward(views)
            return found._replace(tokens=torch.eye(4).expand(len(found.tokens), 4, 4))

    fit(Task(Same()), [RepresentationPictures(rows=4)], tmp_path)
    ((_, rows),) = drawn
    assert len(rows) == 4
    colours = [row[name][1][..., :3] for row in rows for name in row]
    assert all(torch.equal(c, colours[0]) for c in colours)
    assert len(colours[0].flatten(0, 1).unique(dim=0)) == 4


def test_quick_look_shows_red_green_and_blue():
    view = make_batch(0, 3, absent=False)['sensors']['a'][0]
    infrared = {**view, 'wavelength': torch.tensor([0.86, 1.6, 2.2, 0.7])}
    look = quick_look([infrared, view], 1)
    assert torch.equal(look.rgb, view['image'][1, [2, 1, 0]].half())
    assert look.valid.all()
    wide = {**view, 'wavelength': view['wavelength'].expand(3, 4)}
    assert torch.equal(quick_look([wide], 2).rgb, view['image'][2, [2, 1, 0]].half())
    assert quick_look([infrared], 0).rgb.shape == (3, 12, 12)


def test_a_token_has_the_label_of_most_of_its_labelled_pixels():
    mask = torch.tensor([[[3, 3, 255, 255], [3, 1, 255, 7], [255] * 4, [255, 255, 9, 255]]])
    assert token_labels(mask, (2, 2)).tolist() == [[3, 7, IGNORE_INDEX, 9]]
    thirds = torch.tensor([[[1, 2], [3, 254]]])  # tokens finer than pixels repeat them
    assert token_labels(thirds, (4, 4))[0].reshape(4, 4)[::2, ::2].tolist() == [[1, 2], [3, 254]]
    assert token_labels(mask, (3, 3)).shape == (1, 9)


def tokens_of(batch, name, task):
    """Tokens and labels of a sensor where it saw ground."""
    features = EncoderPretraining.forward(task, batch)[name]
    labels = token_labels(batch['mask'], (2, 2))[batch['present'][name]]
    return features.tokens[features.valid], labels[features.valid]


def test_probe_asks_the_training_ground_about_the_validation_ground(tmp_path):
    task = Task()
    found = fit(task, [KNNProbe(k=3)], tmp_path)
    train, val = make_batch(1000, PATCHES), make_batch(0, PATCHES)
    with torch.no_grad():
        for a, b, key in (('a', 'a', 'a'), ('b', 'c', 'b-c')):
            query, truth = tokens_of(val, b, task)
            predicted = knn_predict(query, *tokens_of(train, a, task), k=3)
            right = float((predicted == truth).float().mean())
            assert found[f'val_knn_accuracy/{key}'] == pytest.approx(right)
            ious = [
                float(((predicted == c) & (truth == c)).sum())
                / float(((predicted == c) | (truth == c)).sum())
                for c in (0, 1)
            ]
            assert found[f'val_knn_miou/{key}'] == pytest.approx(sum(ious) / 2)
    own = [found[f'val_knn_miou/{n}'] for n in SENSORS]
    assert found['val_knn_miou'] == pytest.approx(sum(own) / 3)
    across = [found[f'val_knn_miou/{a}-{b}'] for a in SENSORS for b in SENSORS if a != b]
    assert found['val_knn_miou_across'] == pytest.approx(sum(across) / 6)
    assert found['val_knn_accuracy'] > 0.8


def test_probe_is_bounded(tmp_path, monkeypatch):
    sizes = []
    real = knn_predict

    def measured(query, bank, labels, **options):
        sizes.append((len(query), len(bank)))
        return real(query, bank, labels, **options)

    monkeypatch.setattr('torchgeo_anysensor.callbacks.knn.knn_predict', measured)
    fit(Task(), [KNNProbe(max_tokens=20, tokens_per_patch=2)], tmp_path, size=4)
    assert sizes
    assert max(max(pair) for pair in sizes) <= 20


def test_probe_runs_in_its_epochs_and_needs_training(tmp_path):
    callback = KNNProbe(every_n_epochs=2)
    assert 'val_knn_miou' not in fit(Task(), [callback], tmp_path)
    assert 'val_knn_miou' in fit(Task(), [callback], tmp_path, epochs=2)
    trainer = Trainer(callbacks=[KNNProbe()], logger=False, accelerator='cpu', barebones=False)
    (found,) = trainer.validate(Task(), batches(6), verbose=False)
    assert not any('knn' in key for key in found)


def test_probe_without_labels_says_what_to_do(tmp_path):
    bare = DataLoader([{k: make_batch(0, 2)[k] for k in ('sensors', 'present')}], batch_size=None)
    trainer = Trainer(
        max_epochs=1, logger=False, accelerator='cpu', callbacks=[KNNProbe()],
        enable_checkpointing=False, enable_progress_bar=False, default_root_dir=tmp_path,
    )  # fmt: skip
    with pytest.raises(ValueError, match='the batches have no mask; give the dataset labels'):
        trainer.fit(Task(), bare, bare)


def test_all_under_bf16(tmp_path):
    torch.manual_seed(0)
    task = CrossSensorContrastive(AnySensorViT(16, depth=1, num_heads=2, token_m=60))
    callbacks = [RepresentationMonitor(), RepresentationPictures(rows=1, neighbours=1), KNNProbe()]
    found = fit(task, callbacks, tmp_path, precision='bf16-mixed')
    assert {'val_retrieval/a-b', 'val_effective_rank', 'val_knn_miou_across'} <= found.keys()
    assert all(map(math.isfinite, found.values()))


def test_a_task_of_one_part_is_watched_too(tmp_path):
    torch.manual_seed(0)
    task = MaskedAutoencoding(AnySensorViT(16, depth=1, num_heads=2, token_m=60))
    found = fit(
        task,
        [RepresentationMonitor(), RepresentationPictures(rows=1, neighbours=1), KNNProbe()],
        tmp_path,
    )
    assert {'val_retrieval/a-b', 'val_uniformity', 'val_knn_miou'} <= found.keys()


def test_a_task_without_features_is_refused(tmp_path):
    task = SensorTranslation(Translator(4, 4))
    with pytest.raises(TypeError, match=r'RepresentationMonitor looks at .*SensorTranslation'):
        fit(task, [RepresentationMonitor()], tmp_path)


@pytest.mark.parametrize(
    ('make', 'said'),
    [
        (lambda: RepresentationMonitor(every_n_epochs=0), 'every_n_epochs must be at least 1'),
        (lambda: RepresentationMonitor(max_patches=1), 'max_patches must be at least 2'),
        (lambda: RepresentationPictures(rows=0), 'rows, neighbours and max_patches'),
        (lambda: KNNProbe(k=0), 'k must be at least 1'),
        (lambda: KNNProbe(max_tokens=4), 'tokens_per_patch must be from 1 to max_tokens=4'),
    ],
)
def test_options_that_make_no_sense_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()

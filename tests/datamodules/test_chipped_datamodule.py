# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Chips are drawn once in an epoch, by all ranks together, and a run goes on where it stopped."""

from itertools import chain, count
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from matplotlib import pyplot as plt

from torchgeo_anysensor.datamodules import ChippedDataModule, chip_loader
from torchgeo_anysensor.datasets import ChippedDataset
from torchgeo_anysensor.datasets.lent_memory import borrow, give_back
from torchgeo_anysensor.samplers import ChipSampler


def times(batch):
    """What tells the chips of a batch apart."""
    view = batch['sensors']['sentinel2_l2a'][0]
    return [tuple(row.tolist()) for row in torch.stack([view['t'], view['lon'], view['lat']], 1)]


def drawn(loader):
    return [chip for batch in loader for chip in times(batch)]


@pytest.fixture
def dataset(chips):
    return ChippedDataset(chips)


@pytest.fixture
def ranks(monkeypatch):
    """Makes the samplers of several ranks."""

    def make(dataset, world, **options):
        found = []
        for rank in range(world):
            monkeypatch.setattr('torch.distributed.is_initialized', lambda: True)
            monkeypatch.setattr('torch.distributed.get_world_size', lambda: world)
            monkeypatch.setattr('torch.distributed.get_rank', lambda rank=rank: rank)
            found.append(ChipSampler(dataset, seed=0, **options))
        return found

    return make


def test_epochs_are_orders_of_all_chips(dataset):
    sampler = ChipSampler(dataset, shuffle=True, seed=0)
    first = list(sampler)
    assert sorted(first) == list(range(len(dataset)))
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert sorted(sampler) == sorted(first)
    assert list(sampler) != first
    assert list(ChipSampler(dataset, shuffle=True, seed=1)) != first


def test_shuffle_is_global(dataset):
    shards = dataset._shard[list(ChipSampler(dataset, shuffle=True, seed=0))]
    changes = (shards[1:] != shards[:-1]).mean()
    assert changes > 0.5  # by shard, it would be as many as there are shards


@pytest.mark.parametrize('world', [2, 3, 7])
def test_ranks_share_the_chips(dataset, ranks, world):
    trained = [list(sampler) for sampler in ranks(dataset, world, shuffle=True, drop_last=True)]
    assert {len(own) for own in trained} == {len(dataset) // world}
    together = [*chain(*trained)]
    assert len(set(together)) == len(together)
    evaluated = [list(sampler) for sampler in ranks(dataset, world)]
    assert {len(own) for own in evaluated} == {-(-len(dataset) // world)}
    assert set(chain(*evaluated)) == set(range(len(dataset)))


@pytest.mark.parametrize('workers', [0, 2])
def test_loader_reads_each_chip_once(dataset, workers):
    loader = chip_loader(dataset, batch_size=5, shuffle=True, seed=0, num_workers=workers)
    first = drawn(loader)
    assert len(first) == len(dataset) // 5 * 5 == 5 * len(loader)
    assert len(set(first)) == len(first)
    assert drawn(loader) == first
    loader.sampler.set_epoch(1)
    assert drawn(loader) != first
    assert drawn(chip_loader(dataset, batch_size=5)) == drawn(chip_loader(dataset, batch_size=7))


def test_memory_of_a_worker_is_filled_again_but_never_under_a_batch_that_is_kept(dataset):
    def made(workers):
        return [*chip_loader(dataset, batch_size=2, num_workers=workers)]

    kept, alone = made(1), made(0)
    assert len(kept) > 5  # several fit into what a worker has lent
    for one, other in zip(kept, alone):
        assert other['mask'].equal(one['mask'])
        for name, views in other['sensors'].items():
            for a, b in zip(views, one['sensors'][name]):
                assert all(a[key].equal(b[key]) for key in a)
    first = borrow(100)
    second = borrow(100)
    assert first.data_ptr() != second.data_ptr()
    first[:100] = 7
    own = give_back(first, 100)
    assert borrow(90).data_ptr() == first.data_ptr()
    first[:100] = 8
    assert own.tolist() == [7] * 100


@pytest.mark.parametrize(('workers', 'later'), [(0, 0), (2, 1)])
def test_loader_resumes_in_the_middle(dataset, workers, later):
    def make(n):
        return chip_loader(dataset, batch_size=2, shuffle=True, seed=0, num_workers=n)

    loader = make(workers)
    loader.sampler.set_epoch(3)
    whole = drawn(loader)
    batches = iter(loader)
    begun = [chip for _ in range(3) for chip in times(next(batches))]
    state = loader.state_dict()
    again = make(later)
    again.load_state_dict(state)
    assert begun + drawn(again) == whole
    assert len(again) == len(loader)
    assert drawn(again) == whole  # the next time it starts at the start


def test_resume_with_other_batches_is_refused(dataset):
    state = chip_loader(dataset, batch_size=4).state_dict()
    with pytest.raises(
        ValueError, match='batch_size=8: the checkpoint was written with batch_size=4'
    ):
        chip_loader(dataset, batch_size=8).load_state_dict(state)


class Notes(LightningModule):
    """Learns nothing, and writes down what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, number):
        self.seen.append((self.current_epoch, times(batch)))
        return self.weight * 0

    def predict_step(self, batch, number):
        return times(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(tmp_path, steps, **options):
    return Trainer(
        accelerator='cpu',
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            ModelCheckpoint(tmp_path, filename='{step}', every_n_train_steps=1, save_top_k=-1)
        ],
        limit_val_batches=0,
        **options,
    )


@pytest.mark.parametrize('stop', ['middle', 'end of epoch'])
def test_lightning_resumes_with_the_chips_that_remained(chips, tmp_path, stop):
    def data():
        torch.manual_seed(next(seeds))  # of the order too, unless a run goes on
        return ChippedDataModule(chips, batch_size=3)

    seeds = count()

    batches = len(ChippedDataset(chips)) // 3
    at = batches + (2 if stop == 'middle' else batches)
    whole = Notes()
    trainer(tmp_path, 3 * batches).fit(whole, data())
    epochs = [[b for e, b in whole.seen if e == epoch] for epoch in range(3)]
    assert all(len(epoch) == batches for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    resumed = Notes()
    trainer(tmp_path, 3 * batches).fit(resumed, data(), ckpt_path=tmp_path / f'step={at}.ckpt')
    assert resumed.seen == whole.seen[at:]


def test_ranks_that_were_not_seeded_have_one_order(chips):
    """The first rank tells the others its seed."""
    orders = []
    for own in (1, 2):
        torch.manual_seed(own)
        data = ChippedDataModule(chips, batch_size=2)
        data.trainer = SimpleNamespace(strategy=SimpleNamespace(broadcast=lambda seed: 1))
        data.setup('fit')
        orders.append(list(data.train_dataloader().sampler))
    assert orders[0] == orders[1]


def test_predicts_each_chip_once(chips, tmp_path):
    module = trainer(tmp_path, 1)
    found = module.predict(Notes(), ChippedDataModule(chips, batch_size=4))
    assert len([*chain(*found)]) == len(ChippedDataset(chips, split='test'))


def test_training_batches_alone_are_transformed(chips):
    data = ChippedDataModule(chips, train_transforms=[lambda batch: batch | {'turned': 1}])
    data.trainer = type('Fake', (), {'training': True})()
    assert 'turned' in data.on_after_batch_transfer({}, 0)
    data.trainer.training = False
    assert 'turned' not in data.on_after_batch_transfer({}, 0)


def test_epoch_without_a_batch_is_said(chips):
    data = ChippedDataModule(chips, batch_size=10_000)
    data.setup('fit')
    with pytest.raises(ValueError, match=r'epoch of \d+ chips has no batch of 10000'):
        data.train_dataloader()


def test_facts_and_picture(chips):
    data = ChippedDataModule(chips)
    data.setup('fit')
    assert data.facts()['sensors'] == 'sentinel2_l2a, landsat_c2l2'
    assert data.facts()['patch in metres'] == 240
    figure = data.plot(data.chips['train'][0], suptitle='chip')
    assert [ax.get_title() for ax in figure.axes] == ['sentinel2_l2a', 'landsat_c2l2', 'mask']
    plt.close(figure)

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Every rank draws its own patches, all of them the epoch, and a stopped epoch is gone on with."""

import itertools
import socket

import pytest
import torch
from rank_fit import BATCH, CHIP_BATCH, LENGTH, fit, fit_in_two_processes, patches_of
from torch.utils.data import DistributedSampler

from torchgeo_anysensor.datasets import ChippedDataset, MultiSensorDataset, collate_sensors
from torchgeo_anysensor.samplers import AlignedPatchSampler, RankSampler, ResumableDataLoader


class Numbers:
    """Stands for a sampler: its patches are numbers."""

    epoch, seed = 0, 0

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __iter__(self):
        return iter(range(1000 * self.epoch, 1000 * self.epoch + self.length))

    def set_epoch(self, epoch):
        self.epoch = epoch


def shares(length, ranks, batch_size):
    return [
        RankSampler(Numbers(length), batch_size=batch_size, num_replicas=ranks, rank=rank)
        for rank in range(ranks)
    ]


LENGTHS = pytest.mark.parametrize(
    ('length', 'ranks', 'batch_size'),
    [*itertools.product([1, 5, 24, 25, 31, 48], [1, 2, 3], [1, 4]), (2, 4, 3), (100, 7, 5)],
)


@LENGTHS
def test_ranks_cover_the_epoch_and_are_as_long_as_each_other(length, ranks, batch_size):
    drawn = [list(share) for share in shares(length, ranks, batch_size)]
    assert {len(own) for own in drawn} == {len(shares(length, ranks, batch_size)[0])}
    together = sorted(itertools.chain(*drawn))
    assert set(together) == set(range(length))
    # No more is drawn twice than there are ranks to make even
    assert len(together) == -(-length // ranks) * ranks or len(together) - length < ranks
    assert all(len(set(own)) == len(own) for own in drawn)


def test_batches_stay_whole():
    for own in shares(24, 2, 4):
        for batch in itertools.batched(own, 4):
            assert batch == tuple(range(batch[0], batch[0] + 4))


@LENGTHS
def test_share_goes_on_at_any_patch(length, ranks, batch_size):
    for share in shares(length, ranks, batch_size):
        whole = list(share)
        for start in range(len(whole) + 1):
            share.start = start
            assert list(share) == whole[start:]


def test_epoch_reaches_the_sampler():
    share = shares(8, 2, 2)[1]
    share.set_epoch(3)
    assert list(share) == [3002, 3003, 3006, 3007]


def test_lightning_takes_it_for_a_sampler_of_ranks():
    assert isinstance(shares(8, 2, 2)[0], DistributedSampler)


class Echo:
    """A dataset whose samples are the numbers that it is asked for."""

    def __getitem__(self, number):
        return number


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('stop', [0, 1, 3, 4])
def test_loader_goes_on_with_what_was_not_handed_out(workers, stop):
    def loader():
        (share,) = shares(19, 1, 4)
        share.set_epoch(2)
        options = {'num_workers': workers, 'persistent_workers': workers > 0, 'drop_last': True}
        return ResumableDataLoader(Echo(), sampler=share, **options)

    whole = [batch.tolist() for batch in loader()]
    assert len(whole) == 4
    first = loader()
    begun = [batch.tolist() for batch in itertools.islice(first, stop)]
    state = first.state_dict()
    assert (state['epoch'], state['batches']) == (2, stop)
    again = loader()
    again.load_state_dict(state)
    assert len(again) == 4
    rest = [batch.tolist() for batch in again]
    assert begun + rest == (whole if stop < 4 else whole + whole)  # a finished epoch is no stop
    assert [batch.tolist() for batch in again] == whole  # the next time all of it


def one_view(number):
    """A sample of which only the number matters."""
    view = {key: torch.tensor(float(number)) for key in ('image', 't')}
    return {'sensors': {'s2': ({**view, 'res': torch.tensor(10.0), **FACTS},)}}


FACTS = {key: torch.ones(1) for key in ('wavelength', 'bandwidth', 'gsd')}


class Samples:
    """As :class:`Echo`, with samples of one sensor."""

    def __getitem__(self, number):
        return one_view(number)


def mixed_loader(rank=0, *, ranks=1, length=45, epoch=0, buffer=3, workers=0):
    share = shares(length, ranks, 4)[rank]
    share.set_epoch(epoch)
    return ResumableDataLoader(
        Samples(),
        sampler=share,
        shuffle_buffer=buffer,
        num_workers=workers,
        collate_fn=collate_sensors,
    )


def numbers_of(loader):
    return [batch['sensors']['s2'][0]['t'].int().tolist() for batch in loader]


@pytest.mark.parametrize('buffer', [2, 3, 5, 50])
def test_buffer_mixes_the_samples_of_its_batches_alone(buffer):
    plain, mixed = (numbers_of(mixed_loader(buffer=n)) for n in (1, buffer))
    assert [len(batch) for batch in mixed] == [len(batch) for batch in plain]
    for before, after in zip(*(itertools.batched(x, buffer) for x in (plain, mixed))):
        assert sorted(itertools.chain(*after)) == [*itertools.chain(*before)]
    assert mixed != plain
    assert mixed == numbers_of(mixed_loader(buffer=buffer))


def test_buffer_spreads_neighbours_over_batches():
    mixed = numbers_of(mixed_loader(length=160, buffer=8))
    places = [len({number // 4 for number in batch}) for batch in mixed]
    assert sum(places) / len(places) > 3  # of 4 samples; without it is 1


def test_buffer_is_another_one_in_each_epoch_and_on_each_rank():
    def dealt(**options):  # which of its batches a sample comes to
        return [[n % 1000 % 8 % 4 for n in batch] for batch in numbers_of(mixed_loader(**options))]

    assert dealt(epoch=0) != dealt(epoch=1)
    assert dealt(rank=0, ranks=2, length=48) != dealt(rank=1, ranks=2, length=48)


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('stop', [0, 1, 2, 3, 5, 11, 12])
def test_loader_goes_on_within_a_buffer(workers, stop):
    whole = numbers_of(mixed_loader(epoch=2))
    first = mixed_loader(epoch=2, workers=workers)
    begun = numbers_of(itertools.islice(first, stop))
    again = mixed_loader(epoch=2, workers=workers)
    again.sampler.sampler.seed = 7  # the order is that of the run that began it
    again.load_state_dict(first.state_dict())
    assert begun + numbers_of(again) == (whole if stop < 12 else whole + whole)
    assert numbers_of(again) == whole


@pytest.mark.parametrize('options', [{'buffer': 2}, {'ranks': 2}])
def test_epoch_does_not_go_on_with_other_batches(options):
    begun = mixed_loader()
    numbers_of(itertools.islice(begun, 2))
    (name,) = options
    other = mixed_loader(**options)
    other.load_state_dict(begun.state_dict())
    with pytest.raises(ValueError, match=f'middle of an epoch with .*{name}.*=2: .*written with'):
        next(iter(other))
    other.load_state_dict(begun.state_dict())
    other.sampler.set_epoch(1)
    numbers_of(other)  # a new epoch may have others


def test_empty_buffer_is_refused():
    with pytest.raises(ValueError, match='shuffle_buffer=0 must be at least 1 batch'):
        mixed_loader(buffer=0)


def test_loader_leaves_the_global_generator_alone():
    (share,) = shares(8, 1, 2)
    before = torch.get_rng_state()
    list(ResumableDataLoader(Echo(), sampler=share))
    assert torch.equal(before, torch.get_rng_state())


# -- through Lightning -------------------------------------------------------------------------

STEPS = LENGTH // BATCH


@pytest.fixture(scope='module')
def dataset(demo_sensors):
    return MultiSensorDataset({'landsat_c2l2': demo_sensors['landsat_c2l2']})


@pytest.fixture(scope='module')
def whole(dataset, tmp_path_factory):
    """One process: its checkpoints, and what it has seen."""
    folder = tmp_path_factory.mktemp('whole')
    return folder, fit(patches_of(dataset), folder)


def flat(batches):
    return [tuple(patch) for batch in batches for patch in batch]


def test_epochs_differ(whole):
    _, seen = whole
    assert [len(flat(seen[epoch])) for epoch in range(2)] == [STEPS * BATCH] * 2
    assert flat(seen[0]) != flat(seen[1])


@pytest.mark.parametrize(('step', 'workers'), [(1, 0), (4, 2), (STEPS, 0), (STEPS + 2, 2)])
def test_resumed_run_sees_the_patches_that_remained(dataset, whole, tmp_path, step, workers):
    folder, seen = whole
    data = patches_of(dataset, num_workers=workers)
    again = fit(data, tmp_path, ckpt_path=folder / f'step={step}.ckpt')
    expected = (seen[0] + seen[1])[step:]
    assert again.get(0, []) + again.get(1, []) == expected


@pytest.fixture(scope='module')
def ranks(dataset, chips, tmp_path_factory):
    """Two processes: what each has seen, and again from the second step on."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp('ranks')
    return fit_in_two_processes(dataset, chips, folder, port, 'step=2.ckpt')


def test_ranks_share_the_epoch_of_one_process(ranks, whole):
    _, alone = whole
    steps = LENGTH // (2 * BATCH)
    for epoch in (0, 1):
        first, second = (rank['patches']['whole'][str(epoch)] for rank in ranks)
        assert len(first) == len(second) == steps
        dealt = [batch for pair in zip(first, second) for batch in pair]
        assert dealt == alone[epoch][: 2 * steps]


def test_ranks_share_the_chips(ranks, chips):
    first, second = (
        {epoch: flat(batches) for epoch, batches in rank['chips']['whole'].items()}
        for rank in ranks
    )
    steps = len(ChippedDataset(chips)) // (2 * CHIP_BATCH)
    for epoch in ('0', '1'):
        assert len(first[epoch]) == len(second[epoch]) == steps * CHIP_BATCH
        assert len({*first[epoch], *second[epoch]}) == 2 * steps * CHIP_BATCH
    assert first['0'] != first['1']


@pytest.mark.parametrize('kind', ['patches', 'chips'])
def test_resumed_ranks_see_what_remained(ranks, kind):
    for rank in ranks:
        whole, resumed = rank[kind]['whole'], rank[kind]['resumed']
        assert whole['0'][2:]
        assert resumed['0'] == whole['0'][2:]
        assert resumed['1'] == whole['1']


# -- neighbours --------------------------------------------------------------------------------


def groups(dataset, neighbours, **options):
    sampler = AlignedPatchSampler(
        dataset, size=120, length=240, seed=3, neighbours=neighbours, **options
    )
    assert len(list(sampler)) == 240
    return sampler, list(sampler)


@pytest.mark.parametrize('file_block', [None, 250])
@pytest.mark.parametrize(('neighbours', 'spacing'), [(4, None), (4, 180), (6, None)])
def test_neighbours_lie_apart_in_one_acquisition(dataset, neighbours, spacing, file_block):
    _, patches = groups(dataset, neighbours, spacing=spacing, file_block=file_block)
    across = 2 if neighbours == 4 else 3
    apart = spacing or 120
    left = patches
    sizes = []
    while left:
        x0, y0, t0 = left[0]
        size = 1
        while size < min(neighbours, len(left)):
            x, y, t = left[size]
            near = max(abs(x.start - x0.start), abs(y.start - y0.start)) <= (across - 1) * apart
            overlap = any(
                max(abs(x.start - a.start), abs(y.start - b.start)) < apart - 1e-6
                for a, b, _ in left[:size]
            )
            if t != t0 or not near or overlap:
                break
            size += 1
        sizes.append(size)
        left = left[size:]
    assert max(sizes) == neighbours
    assert sum(sizes) / len(sizes) > 0.6 * neighbours  # fewer at the edge of the ground
    ground = dataset.index.geometry.union_all().buffer(0.1)
    boxes = [(x.start, y.start, x.stop, y.stop) for x, y, _ in patches]
    assert all(ground.bounds[0] <= w and e <= ground.bounds[2] for w, _, e, _ in boxes)
    again, _ = groups(dataset, neighbours, spacing=spacing, file_block=file_block)
    assert list(again) == patches
    again.set_epoch(1)
    assert list(again) != patches


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'neighbours': 0}, 'neighbours=0 must be at least 1'),
        ({'spacing': 60}, 'spacing=60 is less than size=120'),
        ({'spacing': 125}, 'spacing=125 m is not a multiple of 30 m'),
    ],
)
def test_neighbours_that_make_no_sense_are_refused(dataset, options, message):
    with pytest.raises(ValueError, match=message):
        AlignedPatchSampler(dataset, size=120, **options)


def test_ranks_get_whole_groups_of_few_blocks(dataset):
    sampler, patches = groups(dataset, 4, file_block=250)
    shares = [RankSampler(sampler, batch_size=8, num_replicas=2, rank=rank) for rank in (0, 1)]
    batches = [[*itertools.batched(share, 8)] for share in shares]
    assert [*itertools.chain(*itertools.chain(*zip(*batches)))] == patches


def test_loader_of_neighbours_has_the_samples_of_each_alone(demo_sensors):
    dataset = MultiSensorDataset(demo_sensors, tolerance=3)
    patches = AlignedPatchSampler(dataset, size=120, length=12, seed=1, neighbours=4)
    share = RankSampler(patches, batch_size=12, num_replicas=1, rank=0)
    (batch,) = ResumableDataLoader(dataset, sampler=share, collate_fn=collate_sensors)
    alone = collate_sensors([dataset[patch] for patch in patches])
    for name, views in alone['sensors'].items():
        for one, other in zip(views, batch['sensors'][name]):
            assert all(torch.equal(one[key], other[key]) for key in one)

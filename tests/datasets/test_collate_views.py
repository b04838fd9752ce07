# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import pytest
import torch

from torchgeo_anysensor.datasets import (
    collate_sensors,
    concat_views,
    join_batches,
    merge_views,
    take_rows,
)


def view(*, bands=2, size=4, value=0.0, wavelength=0.5, t=0.0, res=10.0):
    return {
        'image': torch.full((bands, size, size), value),
        'valid': torch.ones(size, size, dtype=torch.bool),
        'wavelength': torch.full((bands,), wavelength),
        'bandwidth': torch.full((bands,), 0.03),
        'gsd': torch.full((bands,), res),
        'res': torch.tensor(res),
        't': torch.tensor(t, dtype=torch.float64),
        'dx': torch.tensor(0.0),
        'dy': torch.tensor(0.0),
        'bounds': torch.zeros(9),
        'transform': torch.zeros(9),
    }


def test_present_says_which_samples_a_sensor_saw():
    batch = collate_sensors(
        [
            {'sensors': {'a': (view(value=1),), 'b': (view(value=10),)}},
            {'sensors': {'b': (view(value=20),)}},
            {'sensors': {'a': (view(value=3),), 'b': (view(value=30),)}},
        ]
    )
    assert batch['present']['a'].tolist() == [True, False, True]
    assert batch['present']['b'].tolist() == [True, True, True]
    # The absent one has no row: no zeros stand for it
    assert batch['sensors']['a'][0]['image'][:, 0, 0, 0].tolist() == [1, 3]
    assert batch['sensors']['b'][0]['image'][:, 0, 0, 0].tolist() == [10, 20, 30]
    assert 'mask' not in batch


def test_sensor_that_comes_later_is_not_lost():
    batch = collate_sensors([{'sensors': {'a': (view(),)}}, {'sensors': {'b': (view(),)}}])
    assert list(batch['sensors']) == ['a', 'b']
    assert batch['present']['b'].tolist() == [False, True]


def test_each_grid_is_stacked_by_itself():
    views = (view(size=6), view(size=3, res=20, bands=5))
    batch = collate_sensors([{'sensors': {'a': views}}] * 2)
    fine, coarse = batch['sensors']['a']
    assert fine['image'].shape == (2, 2, 6, 6)
    assert coarse['image'].shape == (2, 5, 3, 3)
    assert (float(fine['res']), float(coarse['res'])) == (10, 20)


def test_facts_of_the_bands_are_kept_once_where_all_agree():
    batch = collate_sensors([{'sensors': {'a': (view(t=1),)}}, {'sensors': {'a': (view(t=2),)}}])
    (out,) = batch['sensors']['a']
    for key in ('wavelength', 'bandwidth', 'gsd'):
        assert out[key].shape == (2,), key
    for key in ('t', 'dx', 'dy'):
        assert out[key].shape == (2,), key
    assert out['t'].tolist() == [1, 2]
    assert out['t'].dtype == torch.float64
    assert out['bounds'].shape == out['transform'].shape == (2, 9)


def test_facts_of_the_bands_are_kept_for_each_sample_where_they_differ():
    batch = collate_sensors([{'sensors': {'a': (view(wavelength=w),)}} for w in (0.49, 0.50, 0.49)])
    (out,) = batch['sensors']['a']
    assert out['wavelength'].shape == (3, 2)
    assert out['wavelength'][:, 0].tolist() == pytest.approx([0.49, 0.50, 0.49])
    assert out['gsd'].shape == (2,)


def test_masks_are_stacked():
    sample = {'sensors': {'a': (view(),)}, 'mask': torch.arange(16).reshape(4, 4)}
    assert collate_sensors([sample, sample])['mask'].shape == (2, 4, 4)


@pytest.mark.parametrize(
    ('samples', 'message'),
    [
        ([], 'at least one sample'),
        (
            [{'sensors': {'hls': (view(),)}}, {'sensors': {'hls': (view(size=5),)}}],
            r'hls: image differs in shape .*\(2, 4, 4\), \(2, 5, 5\)',
        ),
        (
            [{'sensors': {'hls': (view(),)}}, {'sensors': {'hls': (view(bands=3),)}}],
            'hls: image differs in shape .*one set of bands',
        ),
        (
            [{'sensors': {'hls': (view(),)}}, {'sensors': {'hls': (view(), view())}}],
            r'hls: samples of one batch have \[1, 2\] grids',
        ),
        (
            [
                {'sensors': {'a': (view(),)}, 'mask': torch.zeros(4, 4)},
                {'sensors': {'a': (view(),)}},
            ],
            '1 of 2 samples have no mask',
        ),
    ],
)
def test_samples_that_make_no_batch_are_refused(samples, message):
    with pytest.raises(ValueError, match=message):
        collate_sensors(samples)


def same_batches(a, b):
    assert list(a['sensors']) == list(b['sensors'])
    for name, views in a['sensors'].items():
        assert a['present'][name].tolist() == b['present'][name].tolist()
        for one, other in zip(views, b['sensors'][name], strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(a['mask'], b['mask'])


def many():
    """Samples that lack sensors, and of which one sensor's bands differ."""
    samples = []
    for n in range(5):
        sensors = {'s2': (view(value=n, t=n), view(value=n, size=2, res=20))}
        sensors |= {'l8': (view(value=-n, bands=3, res=30),)} if n % 2 else {}
        samples.append({'sensors': sensors, 'mask': torch.full((4, 4), n)})
    samples[4]['sensors']['s2'][0]['wavelength'] = torch.tensor([0.5, 0.8])
    return samples


def test_batches_are_joined_as_their_samples_are():
    samples = many()
    for cuts in ((1, 3), (2, 4), (3, 3)):
        parts = samples[: cuts[0]], samples[cuts[0] : cuts[1]], samples[cuts[1] :]
        joined = join_batches([collate_sensors(part) for part in parts if part])
        same_batches(joined, collate_sensors(samples))


def test_rows_of_a_batch_are_those_samples():
    samples = many()
    for rows in ([3, 1], [4, 0, 0], [1]):
        taken = take_rows(collate_sensors(samples), torch.tensor(rows))
        expected = collate_sensors([samples[n] for n in rows])
        first = expected['sensors']['s2'][0]  # of each sample, as in the batch
        first['wavelength'] = first['wavelength'].expand(len(rows), -1)
        same_batches(taken, expected)


def test_batches_that_cannot_be_joined_are_refused():
    a, b = (collate_sensors([{'sensors': {'s2': (view(size=n),)}}]) for n in (4, 6))
    with pytest.raises(ValueError, match='s2: image differs between the batches to join'):
        join_batches([a, b])
    b = collate_sensors([{'sensors': {'s2': (view(res=20),)}}])
    with pytest.raises(ValueError, match=r's2: res differs .* \[10.0, 20.0\]'):
        join_batches([a, b])
    b = collate_sensors([{'sensors': {'s2': (view(), view())}}])
    with pytest.raises(ValueError, match=r's2: batches to join have \[1, 2\] grids'):
        join_batches([a, b])
    b = collate_sensors([{'sensors': {'s2': (view(),)}, 'mask': torch.ones(4, 4)}])
    with pytest.raises(ValueError, match='1 of 2 batches have no mask'):
        join_batches([a, b])
    with pytest.raises(ValueError, match='at least one batch'):
        join_batches([])


def test_concatenation_keeps_what_belongs_to_the_patch_once():
    first, second = view(value=1, t=1), view(value=2, bands=3, t=2, res=30)
    second['valid'][0, 0] = False
    out = concat_views([first, second, {'mask': torch.ones(4, 4), 'bounds': torch.ones(9)}])
    assert out['image'][:, 0, 0].tolist() == [1, 1, 2, 2, 2]
    assert out['gsd'].tolist() == [10, 10, 30, 30, 30]
    assert (float(out['t']), float(out['res'])) == (1, 10)
    assert out['bounds'].shape == (9,)
    assert (out['bounds'] == 0).all()
    assert (~out['valid']).nonzero().tolist() == [[0, 0]]
    assert out['mask'].sum() == 16
    assert first['image'].shape[0] == 2  # the samples given are left as they are


def test_merging_lets_the_first_valid_pixel_win():
    samples = [view(value=v, t=v) for v in (-0.01, 5.0, 9.0)]
    samples[0]['valid'][:2] = False
    samples[1]['valid'][0] = False
    out = merge_views(samples)
    assert out['image'][0, :, 0].tolist() == pytest.approx([9.0, 5.0, -0.01, -0.01])
    assert out['valid'].all()
    assert float(out['t']) == pytest.approx(-0.01)
    assert not samples[0]['valid'][0, 0]


def test_merging_leaves_invalid_what_nobody_saw():
    samples = [view(value=0.0), view(value=0.0)]
    for sample in samples:
        sample['valid'][1, 1] = False
    assert (~merge_views(samples)['valid']).nonzero().tolist() == [[1, 1]]


def test_merging_one_sample_returns_it():
    out = merge_views([view(value=3)])
    assert (out['image'] == 3).all()

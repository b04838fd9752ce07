# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The benchmarks run, in miniature; their numbers are of no interest here."""

import argparse
import pickle

import pytest
import torch


def test_costs_of_the_objectives(benchmark, capsys):
    losses = benchmark('losses')
    small = [
        '--batch',
        '64',
        '--sensors',
        '2',
        '4',
        '--dim',
        '32',
        '--chunk',
        '16',
        '--threads',
        '1',
        '--repeats',
        '1',
    ]
    losses.main(small)
    table = [line.strip('| ').split(' | ') for line in capsys.readouterr().out.splitlines()[4:]]
    assert len(table) == 2 * len(losses.OBJECTIVES)
    gflop = {(row[0], row[1]): float(row[4]) for row in table}
    mib = {(row[0], row[1]): float(row[5]) for row in table}
    assert all(float(row[3]) >= 0 and mib[row[0], row[1]] >= 0 for row in table)
    assert set(gflop) == {(name, m) for name in losses.OBJECTIVES for m in ('2', '4')}


def test_operations_of_ours_grow_linearly_and_of_pairs_do_not(benchmark):
    """The bounds on cost that can be counted: linear in sensors, 0.35 of all pairs at eight."""
    losses = benchmark('losses')
    options = argparse.Namespace(dim=16, device='cpu')

    def flops(name, sensors):
        loss, embeddings = losses.OBJECTIVES[name](64), losses.draw(sensors, 64, options)
        with losses.FlopCounterMode(display=False) as counter:
            losses.step(loss, embeddings)
        return counter.get_total_flops()

    assert flops(losses.OURS, 8) == 4 * flops(losses.OURS, 2)
    assert flops(losses.OURS, 2) == 3 * 2 * (2 * 64 * 64 * 16)  # three products of each sensor
    assert flops(losses.OURS, 8) <= 0.35 * flops(losses.PAIRS, 8)


def test_memory_is_counted_until_nothing_holds_it(benchmark):
    losses = benchmark('losses')

    def call():
        for _ in range(3):
            x = torch.zeros(2**18)  # 1 MiB
            y = x.view(2, -1) + 1  # a second one
            del x, y

    assert losses.peak_mib(call, 'cpu') == 2.0


def test_calibration_of_variances(benchmark, demo, tmp_path, capsys):
    calibration = benchmark('calibration')
    small = {'steps': 2, 'batch': 2, 'train': 6, 'held-out': 2, 'seeds': 1, 'block': 300}
    options = [f'--{key}={value}' for key, value in small.items()]
    figure = tmp_path / 'calibration.png'
    calibration.main([f'--data={demo}', *options, f'--figure={figure}', '--ground=val'])
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    fused = {(row[0], row[1]): row[2:] for row in rows[2:] if len(row) == 5}
    assert {way for _, way in fused} == {*calibration.WAYS, calibration.LEFT_OUT}
    assert len(fused) == 3 + 4
    assert all(0 <= float(row[1].split()[0]) <= 1 for row in fused.values())
    assert figure.stat().st_size > 10_000


def test_memory_of_a_step(benchmark, capsys):
    memory = benchmark('memory')
    memory.main(['--depth', '1', '--batch', '4', '--chunk', '2', '--repeats', '1'])
    table = [line.strip('| ').split(' | ') for line in capsys.readouterr().out.splitlines()[4:]]
    mib = {row[1]: float(row[2]) for row in table}
    assert mib['chunks of 2'] < 0.8 * mib['plain']
    assert mib['checkpointing, chunks of 2'] <= mib['chunks of 2']
    assert all(float(row[3]) > 0 for row in table)


def test_retention_of_what_one_sensor_sees(benchmark, demo, tmp_path, capsys):
    retention = benchmark('retention')
    small = {'steps': 4, 'batch': 2, 'train': 8, 'held-out': 3, 'seeds': 1, 'block': 300}
    options = [f'--{key}={value}' for key, value in small.items()]
    out = ['--out', str(tmp_path / 'seeds.json'), '--ground', 'val', f'--data={demo}']
    retention.main([*options, *out])
    lines = [line.strip('| ').split(' | ') for line in capsys.readouterr().out.splitlines()[2:]]
    assert {'bands and squares', *retention.WAYS} <= {line[0] for line in lines}
    assert all(float(line[1].split()[0]) <= 1 for line in lines)
    retention.pretrain = None  # what is finished is not run again
    retention.main([*options, *out])


def test_traits_are_seen_by_the_bands_at_their_wavelength(benchmark):
    retention = benchmark('retention')
    view = {
        'image': torch.zeros(3, 24, 24),
        'valid': torch.ones(24, 24, dtype=torch.bool),
        'wavelength': torch.tensor([0.56, 0.74, 1.61]),
    }
    sample = {'sensors': {'sentinel2_l2a': (view,), 'hls_s30': (view,)}}
    changed = retention.with_traits(sample, seed=0)
    assert list(changed['sensors']) == ['sentinel2_l2a']
    green, red_edge, infrared = changed['sensors']['sentinel2_l2a'][0]['image']
    assert green.abs().max() < 1e-6
    alone, shared = 0.03 * changed['mask']
    assert torch.allclose(red_edge, alone, atol=1e-6)
    assert torch.allclose(infrared, shared, atol=1e-6)


@pytest.fixture(scope='module')
def scenes(benchmark, tmp_path_factory):
    loading = benchmark('loading')
    return loading, loading.write_scenes(tmp_path_factory.mktemp('scenes'), km=3, dates=2)


def test_costs_of_loading(scenes):
    loading, written = scenes
    options = argparse.Namespace(size=600, patches=4, workers=1)
    costs = loading.compare(written, [*loading.WAYS], options, 'cold')
    lines = [line.strip('| ').split(' | ') for line in loading.rows('2 dates', 'cold', costs)]
    assert [line[2:4] for line in lines] == [[n, way] for n in '01' for way in loading.WAYS]
    assert all(float(line[n]) > 0 for line in lines for n in (4, 5, 7, 8))
    assert all(float(line[6]) >= 0 for line in lines)  # what was read before is not read again
    assert costs['ours', 0].mb < 0.3 * costs['TorchGeo', 0].mb  # nothing is brought to 10 m


def test_all_ways_to_load_read_the_same_ground(scenes):
    loading, written = scenes
    patches = argparse.Namespace(size=600, count=4)
    ours, bare, theirs = (
        loading.WAYS[name](written, patches) for name in ('ours', 'bare reads', 'TorchGeo')
    )
    assert ours.keys == bare.keys == theirs.keys
    for key in ours.keys:
        blue = ours.dataset[key]['sensors']['sentinel2'][0]['image'][0]
        place = list(written.files['sentinel2'][0]).index('B02')
        assert torch.allclose(blue, bare.dataset[key][place][0].float() / 10_000 - 0.1)
        assert torch.allclose(blue, theirs.dataset[key]['image'][place] / 10_000 - 0.1)


def test_profile_and_memory_of_loading(scenes):
    loading, written = scenes
    options = argparse.Namespace(size=600, patches=2, count=10)
    parts = loading.profile(written, options)
    assert parts['a sample'] >= parts['the views'] >= parts['their bands'] >= parts['decoding'] > 0
    assert all(ms > 0 for ms in parts.values())
    source = loading.ours(written, options, qa=True)
    assert 'MB after 10 patches' in loading.memory(pickle.dumps(source))


def test_costs_of_an_index(benchmark, capsys):
    index = benchmark('index')
    index.main(['--files', '14', '--pairs', '9x4'])
    lines = [line.strip('| ').split(' | ') for line in capsys.readouterr().out.splitlines()]
    tables = [line for line in lines if len(line) > 1 and '---' not in line[0]]
    heads, *rows = tables
    assert [dict(zip(heads, row))['products'] for row in rows[:2]] == ['1', '1']
    pairs = dict(zip(*tables[-2:]))
    assert int(pairs['acquisitions']) == 2 * 9 * 4
    assert all(float(cell) >= 0 for cell in tables[-1][2:])


def test_negatives_of_neighbours(benchmark, demo, capsys):
    neighbours = benchmark('neighbours')
    small = {'steps': 2, 'batch': 4, 'seeds': 1, 'block': 300, 'looks': 2}
    options = [f'--{key}={value}' for key, value in small.items()]
    neighbours.main([f'--data={demo}', *options, '--neighbours', '2'])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.strip('| ').split(' | ') for line in lines if line.startswith('| ')][2:]
    assert [row[:2] for row in rows] == [['2', '2']]
    assert all(0 <= float(cell.split()[0]) <= 2 for row in rows for cell in row[2:])


@pytest.fixture
def chipped_scenes(benchmark, tmp_path):
    """Scenes of 600 m that were prepared, and options to read them."""
    prepared = benchmark('prepared')
    options = argparse.Namespace(
        scene_km=0.6, size=300, patches=2, batch=4, epochs=1, workers=0, root=tmp_path
    )
    scenes = prepared.scenes_of(tmp_path, 3, options)
    return prepared, scenes, options, *prepared.prepare(scenes, options)


def test_costs_of_prepared_data(benchmark, chipped_scenes):
    prepared, scenes, options, retiled, chips = chipped_scenes
    found = prepared.from_files(scenes, retiled, options)
    found |= prepared.from_chips(chips, options)
    assert {'TorchGeo, delivered', 'ours, re-tiled', 'chips, 0 workers'} <= set(found)
    assert all(cost > 0 for cost in found.values())
    dataset = prepared.ChippedDataset(chips)
    assert len(dataset) == 3 * 2 * 2
    tensors = benchmark('loading').tensors
    for name in ('tar of safetensors, by offset (ours)', 'safetensors, mapped, by column'):
        folder = options.root / name[:3]
        folder.mkdir()
        load = prepared.FORMATS[name][1](dataset, folder / 'data', 4)
        batch, whole = load([5, 0]).batch(), dataset.batch([5, 0])
        for one, other in zip(tensors(batch), tensors(whole), strict=True):
            assert torch.equal(one, other)
    assert len(list(prepared.compression(chips))) == 9

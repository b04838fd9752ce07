# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The commands, and every config in conf/ trained through them."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from torchgeo_anysensor import simulate
from torchgeo_anysensor.cli import lightning_cli
from torchgeo_anysensor.comparison import learning
from torchgeo_anysensor.comparison import report as report_of_comparison
from torchgeo_anysensor.main import main
from torchgeo_anysensor.models import AnySensorViT
from torchgeo_anysensor.models.pretrained import load_encoder
from torchgeo_anysensor.tasks import ProbabilisticContrastive

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / 'conf').rglob('*.yaml'))
COMPARISON = ROOT / 'conf' / 'compare.yaml'
SHORT = [
    '--trainer.max_epochs=1',
    '--trainer.check_val_every_n_epoch=1',
    '--trainer.limit_train_batches=1',
    '--trainer.limit_val_batches=1',
    '--trainer.limit_test_batches=1',
    '--trainer.enable_progress_bar=false',
    '--trainer.accelerator=cpu',
    '--data.init_args.batch_size=2',
]
SMALL_BLOCKS = ['--data.init_args.split.size=300', '--data.init_args.split.buffer=0']


@pytest.fixture
def workplace(tmp_path, monkeypatch, demo):
    """A folder with demo scenes where the configs expect them."""
    place = tmp_path / 'checkout'
    (place / 'data').mkdir(parents=True)
    (place / 'data' / 'demo').symlink_to(demo)
    monkeypatch.chdir(place)
    # What a comparison fits its regressions to; workers of its own processes do not hear of it
    monkeypatch.setattr(learning, '_MAX_PIXELS', 500)
    monkeypatch.setattr(learning, '_MAX_PATCHES', 16)
    return place


def scores(folder):
    """Last value of each column of the newest metrics."""
    newest = max(Path(folder).glob('csv/*/metrics.csv'), key=os.path.getmtime)
    found = {}
    for row in csv.DictReader(newest.open()):
        found |= {key: float(value) for key, value in row.items() if value}
    return found


def test_main_job_then_probe_then_test_on_another_sensor(workplace):
    main(['fit', '--config', str(ROOT / 'conf/pretrain.yaml'), *SHORT, *SMALL_BLOCKS])
    assert {'val_loss', 'val_retrieval', 'val_chance'} <= scores('logs/pretrain').keys()
    main(['export', 'logs/pretrain/encoder.ckpt', 'shared'])
    card = Path('shared/README.md').read_text()
    assert '| sensors | sentinel2_l2a, landsat_c2l2' in card
    assert '| steps | 1 |' in card
    assert '| val_retrieval | ' in card
    probe = ['--config', str(ROOT / 'conf/probe.yaml'), *SHORT, *SMALL_BLOCKS]
    main(['fit', *probe])
    found = scores('logs/probe')
    assert {'val_miou', 'val_accuracy'} <= found.keys()
    assert any(key.startswith('val_iou/') for key in found)
    assert any(b'val/first' in p.read_bytes() for p in Path('logs/probe').rglob('events*'))
    other = ['--model.init_args.test_sensors=[landsat_c2l2]']
    main(['test', *probe, *other, '--ckpt_path', 'logs/probe/probe.ckpt'])
    assert 'test_miou' in scores('logs/probe')


@pytest.fixture
def one_rank():
    """What Lightning leaves in a process that was a rank is taken away."""
    before = dict(os.environ)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for key in os.environ.keys() - before.keys():
        del os.environ[key]


@pytest.mark.parametrize('name', ['gpu', 'ddp'])
def test_trainer_is_put_on_top_of_the_main_job(name, workplace, one_rank, monkeypatch):
    """On a CPU, with one rank; test_parallel_training.py has two."""
    asked = []  # of the compiler, which would take a minute
    monkeypatch.setattr(AnySensorViT, 'compile', lambda self, **options: asked.append(options))
    configs = [f'--config={ROOT}/conf/{stem}.yaml' for stem in ('pretrain', f'trainer_{name}')]
    small = ['--trainer.devices=1', '--data.init_args.num_workers=0', '--data.init_args.length=4']
    less = ['--efficiency.chunk=1', '--efficiency.compile=true']
    main(['fit', *configs, *SHORT, *SMALL_BLOCKS, *small, *less])
    assert asked == [{}]
    assert 'val_retrieval' in scores('logs/pretrain')
    saved = torch.load('logs/pretrain/encoder.ckpt', weights_only=True)
    assert saved['hyper_parameters']['schedule']['lr_batch'] == 16


@pytest.mark.parametrize(
    'name', ['unet_scratch', 'early_fusion', 'late_fusion', 'decision_fusion', 'harmonised']
)
def test_baseline_trains(name, workplace):
    main(['fit', '--config', str(ROOT / f'conf/baselines/{name}.yaml'), *SHORT, *SMALL_BLOCKS])
    assert 'val_miou' in scores(f'logs/{name}')
    assert Path(f'logs/{name}/{name}.ckpt').exists()


@pytest.mark.parametrize(('name', 'value'), [('mae', 'val_loss'), ('temporal', 'val_retrieval')])
def test_other_pretrainings(workplace, name, value):
    main(['fit', '--config', str(ROOT / f'conf/{name}.yaml'), *SHORT, *SMALL_BLOCKS])
    assert value in scores(f'logs/{name}')
    assert load_encoder(f'logs/{name}/encoder.ckpt').embed_dim == 192


def test_pretraining_from_chips(workplace, capsys):
    config = ['--config', str(ROOT / 'conf/pretrain.yaml'), *SMALL_BLOCKS, '--chips_per_shard=16']
    main(['chip', 'data/chips', *config, '--shard', '1/2'])
    assert 'shards written' in capsys.readouterr().out
    chipped = ['fit', '--config', str(ROOT / 'conf/pretrain_chips.yaml'), *SHORT]
    with pytest.raises(ValueError, match='is missing'):
        main(chipped)
    main(['chip', 'data/chips', *config, '--shard', '2/2'])
    os.remove('data/demo')  # no file of a sensor is opened
    main(chipped)
    assert {'val_loss', 'val_retrieval'} <= scores('logs/pretrain_chips').keys()
    card = torch.load('logs/pretrain_chips/encoder.ckpt', weights_only=True)['run']['data']
    assert card['sensors'].startswith('sentinel2_l2a, landsat_c2l2')


@pytest.mark.parametrize(
    ('more', 'said'),
    [
        (['--shard', '3/2'], 'must be from 1/2 to 2/2'),
        (['--shard', 'one'], '--shard=one is not like 2/8'),
        (['--data.init_args.tolerance', '3'], 'tolerance'),
    ],
)
def test_chip_refuses(more, said, workplace, capsys):
    with pytest.raises(SystemExit, match='2'):
        main(['chip', 'data/chips', '--config', str(ROOT / 'conf/pretrain.yaml'), *more])
    assert said in capsys.readouterr().err


def test_pretraining_with_variances(workplace):
    main(['fit', '--config', str(ROOT / 'conf/probabilistic.yaml'), *SHORT, *SMALL_BLOCKS])
    assert {'val_token_nll', 'val_token_chi2'} <= scores('logs/probabilistic').keys()
    task = ProbabilisticContrastive.load_from_checkpoint('logs/probabilistic/encoder.ckpt')
    assert task.variance_weight == 0.1


def test_translation_trains_then_a_map_of_what_it_makes(workplace):
    translation, translated = (
        ['--config', str(ROOT / f'conf/baselines/{name}.yaml'), *SHORT, *SMALL_BLOCKS]
        for name in ('translation', 'translated')
    )
    main(['fit', *translation])
    assert {'val_loss', 'val_nearest'} <= scores('logs/translation').keys()
    main(['fit', *translated])
    main(['test', *translated, '--ckpt_path', 'logs/translated/translated.ckpt'])
    assert 'test_miou' in scores('logs/translated')


def miniature(path, protocols):
    """A config of a comparison with all methods, a step of training each, and few protocols."""
    config = yaml.safe_load(path.read_text())
    one = ('steps', 'trials', 'trial_steps', 'pretrain_steps', 'batch_size', 'pretrain_batch_size')
    config |= {'seeds': [0], 'workers': 0, 'budget': dict.fromkeys(one, 1)}
    config['budget'] |= {'batch_size': 2, 'pretrain_batch_size': 2}
    config['protocols'] = [p for p in config['protocols'] if p['class_path'] in protocols]
    for method in config['methods'].values():
        init_args = method['init_args']
        init_args.pop('only', None)
        if 'anysensor_vit_tiny' in str(init_args.get('encoder')):
            init_args['encoder']['init_args']['depth'] = 1
        if 'RandomConvolutions' in str(method):
            init_args['segmenter']['init_args'] = {'filters': 4}
    return config


def test_comparison_runs_every_method_once_and_reports(workplace, capsys, monkeypatch):
    """All methods of the config; a second run finds all finished, by other code."""
    config = miniature(COMPARISON, ['SensorsRemoved', 'SensorMatrix'])
    sensors = config['data']['init_args']['dataset']['init_args']['datasets']
    del sensors['hls_s30'], sensors['hls_l30']
    for protocol in config['protocols']:
        protocol['init_args']['sensors'] = [*sensors]
    for name, method in config['methods'].items():
        if name not in ('pretrained linear', 'regression on common bands', 'translation'):
            method['init_args']['only'] = ['removed']
    config['data']['init_args']['split'] |= {'size': 720, 'buffer': 60}
    Path('small.yaml').write_text(yaml.safe_dump(config))
    main(['compare', '--config', 'small.yaml'])
    first = capsys.readouterr().out
    assert 'matrix, other sensor: pretrained linear (' in first
    report = Path('logs/compare/report.md').read_text()
    absent = {'DOFA', 'Panopticon', 'Copernicus-FM'}  # no weights here
    for name in config['methods']:
        assert (f'- {name}: the file of' if name in absent else f'| {name} |') in report
    with Path('logs/compare/results.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert {row['method'] for row in rows} == set(config['methods']) - absent
    assert all(0 <= float(row['miou']) <= 1 and float(row['ece']) >= 0 for row in rows)
    pictures = {path.stem for path in Path('logs/compare').glob('*.png')}
    assert pictures == {'matrix', 'matrix-heat', 'matrix-maps', 'removed', 'removed-maps'}
    assert '| method | same sensor | other sensor | other / same |' in report
    assert '| method | all | one removed |' in report
    assert 'All of it was made by the present code' in report
    monkeypatch.setattr(report_of_comparison, 'CODE', 'newer')
    main(['compare', '--config', 'small.yaml'])
    assert 'Other code than the present (newer)' in Path('logs/compare/report.md').read_text()
    again = capsys.readouterr().out
    assert '[run' not in again
    assert '[tune' not in again
    assert f'{len({(r["method"], r["case"]) for r in rows})} cells' in again


def test_comparison_of_virtual_sensors_runs(workplace, demo):
    (workplace / 'data' / 'spectra').symlink_to(demo)
    config = miniature(ROOT / 'conf/virtual_compare.yaml', ['LeaveOut'])
    del config['methods']['no change'], config['methods']['band drop']  # as in conf/compare.yaml
    config['data']['init_args']['split'] |= {'size': 480, 'buffer': 60}
    Path('small.yaml').write_text(yaml.safe_dump(config))
    main(['compare', '--config', 'small.yaml'])
    with Path('logs/virtual_compare/results.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert {row['method'] for row in rows} == set(config['methods'])


def test_comparison_says_why_nothing_is_finished(workplace, capsys):
    leak = ['--data.init_args.split={size: 480, buffer: 0}', '--seeds=[0]', '--workers=0']
    with pytest.raises(SystemExit, match='2'):
        main(['compare', '--config', str(COMPARISON), *leak])
    assert 'train and val share ground' in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize('config', CONFIGS, ids=lambda p: p.stem)
def test_config_names_no_absolute_path(config):
    text = config.read_text()
    assert not any(f'{mark}/' in text for mark in (': ', '~', '[', "'"))
    compares = 'compare' in config.stem
    assert compares or yaml.safe_load(text)['seed_everything'] == 0


def compare_on_real_data(path):
    """One protocol of an example, on few dates and labels and a quarter of the ground."""
    config = miniature(path, ['FewLabels'])
    config['protocols'][0]['init_args']['fractions'] = [0.1]
    config['data']['init_args']['dataset']['init_args']['tolerance'] = 1  # few dates
    size = config['data']['init_args']['size']
    config['data']['init_args']['split'] = {
        'size': 2 * size,
        'fractions': [0.6, 0.2, 0.2],
        'buffer': size / 2,
    }
    Path('small.yaml').write_text(yaml.safe_dump(config))
    main(['compare', '--config', 'small.yaml'])
    with Path(config['out'], 'results.csv').open() as file:
        found = {row['method'] for row in csv.DictReader(file)}
    absent = {name for name in config['methods'] if 'simulated' in name}  # no weights
    two = {'late fusion', 'decision fusion'}  # sensors that they need
    assert found == set(config['methods']) - absent - two
    report = Path(config['out'], 'report.md').read_text()
    assert 'simulated linear: no weights at logs/pretrain/encoder.ckpt' in report


@pytest.mark.parametrize(
    'config', [c for c in CONFIGS if c.parent.name == 'examples'], ids=lambda p: p.stem
)
def test_example_trains_on_real_data(config, workplace, shared_data):
    place = config.stem.split('_')[0]
    (folder,) = shared_data.glob(f'{place}*')
    (workplace / 'data' / folder.name).symlink_to(folder)
    if 'compare' in config.stem:
        compare_on_real_data(config)
        return
    untrained = {
        'class_path': 'torchgeo_anysensor.models.anysensor_vit_tiny',
        'init_args': {'depth': 1},
    }
    args = ['fit', '--config', str(config), *SHORT]
    if 'probe' in config.stem:
        args += [f'--model.init_args.encoder={untrained}']
    main(args)
    found = scores(f'logs/{config.stem}')
    assert ('val_miou' if 'probe' in config.stem else 'val_retrieval') in found
    assert list(Path('logs', config.stem).glob('*.ckpt'))


def test_missing_demo_scenes_are_written_first(workplace, demo, monkeypatch, capsys):
    os.remove('data/demo')
    asked = []

    def fake(root, **options):
        asked.append(options)
        os.symlink(demo, root)

    monkeypatch.setattr(simulate, 'simulate_scenes', fake)
    config = str(ROOT / 'conf/pretrain.yaml')
    main(['fit', '--config', config, *SHORT, *SMALL_BLOCKS])
    lightning_cli(['--config', config, *SHORT, *SMALL_BLOCKS], run=False)
    assert len(asked) == 1
    printed = capsys.readouterr().out
    assert 'No data in data/demo: writing simulated scenes there' in printed
    assert 'Wrote' in printed


def test_probe_without_pretraining_says_what_to_do(workplace):
    with pytest.raises((FileNotFoundError, ValueError), match='Pretrain first'):
        main(['fit', '--config', str(ROOT / 'conf/probe.yaml'), *SHORT, *SMALL_BLOCKS])


def test_settings_of_the_user_stay(workplace, monkeypatch):
    monkeypatch.setenv('GDAL_DISABLE_READDIR_ON_OPEN', 'FALSE')
    monkeypatch.delenv('AWS_NO_SIGN_REQUEST', raising=False)
    with pytest.raises(SystemExit):
        main(['fit', '--help'])
    assert os.environ['GDAL_DISABLE_READDIR_ON_OPEN'] == 'FALSE'
    assert 'AWS_NO_SIGN_REQUEST' not in os.environ


def test_nodata_of_a_sidecar_file_is_found(workplace, code, monkeypatch):
    """Whatever GDAL is told to make it fast."""
    monkeypatch.delenv('GDAL_DISABLE_READDIR_ON_OPEN', raising=False)
    with pytest.raises(SystemExit):
        main(['fit', '--help'])
    path = code.write(
        workplace / 'a.tif', np.zeros((4, 4), 'uint8'), code.grid(0, 0, 10, (4, 4)), nodata=None
    )
    band = '<PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand>'
    path.with_suffix('.tif.aux.xml').write_text(f'<PAMDataset>{band}</PAMDataset>')
    assert os.environ['GDAL_DISABLE_READDIR_ON_OPEN']
    read = f"import rasterio; print(rasterio.open('{path}').nodata)"
    done = subprocess.run([sys.executable, '-c', read], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '7.0'

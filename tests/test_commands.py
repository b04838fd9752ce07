# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The commands that need no config."""

import io
import subprocess
import sys

import pytest

from torchgeo_anysensor import __version__, simulate
from torchgeo_anysensor.main import main
from torchgeo_anysensor.sensors import SENSORS


def test_sensors_prints_all(capsys):
    main(['sensors'])
    printed = capsys.readouterr().out
    assert all(name in printed for name in SENSORS)


@pytest.mark.parametrize('name', SENSORS)
def test_sensors_prints_the_bands_of_one(name, capsys):
    main(['sensors', name])
    printed = capsys.readouterr().out
    assert all(band in printed for band in SENSORS[name].band_names)


def test_export_says_what_is_wrong(tmp_path, capsys):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'file').touch()
    for args, said in (
        (['nowhere.ckpt', 'new'], 'nowhere.ckpt: no such checkpoint'),
        (['nowhere.ckpt', str(tmp_path / 'full')], 'is there and not empty'),
    ):
        with pytest.raises(SystemExit):
            main(['export', *args])
        assert said in capsys.readouterr().err


def test_unknown_sensor_is_said(capsys):
    with pytest.raises(SystemExit):
        main(['sensors', 'sentinel2_l2'])
    assert 'sentinel2_l2a' in capsys.readouterr().err


def test_simulate_writes_and_refuses_what_is_there(tmp_path, capsys, monkeypatch):
    made = []
    monkeypatch.setattr(simulate, 'simulate_scenes', lambda root, **k: made.append((root, k)))
    main(['simulate', str(tmp_path / 'new'), '--seed', '4', '--places', '1'])
    assert made == [(tmp_path / 'new', {'seed': 4, 'places': 1, 'spectrometer': False})]
    monkeypatch.undo()
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'file').touch()
    with pytest.raises(SystemExit):
        main(['simulate', str(tmp_path / 'full')])
    assert str(tmp_path / 'full') in capsys.readouterr().err


def test_inspect_prints_and_draws(world, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = world.hls(size=240)
    main(['inspect', str(folder)])
    printed = capsys.readouterr().out
    assert printed.startswith('HLS v2.0 S30 (Sentinel-2) (hls_s30)\n  products     1\n')
    assert printed.endswith(f'\nQuick-look: {folder.name}.png\n')
    assert (tmp_path / f'{folder.name}.png').stat().st_size > 1000
    main(['inspect', str(folder), '--out', 'a.png'])
    assert (tmp_path / 'a.png').exists()


def test_inspect_without_a_picture(world, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(['inspect', str(world.hls(size=240)), '--no-picture'])
    assert 'Quick-look' not in capsys.readouterr().out
    assert not list(tmp_path.glob('*.png'))


def test_inspect_says_why_there_is_no_picture(world, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = world.landsat_c2l2(size=240)
    for file in folder.glob('*.TIF'):
        file.unlink()
    main(['inspect', str(folder)])
    assert 'No quick-look' in capsys.readouterr().out
    assert not list(tmp_path.glob('*.png'))


@pytest.mark.parametrize(
    ('args', 'said'),
    [
        (['nowhere'], 'nowhere: there is no such file or folder'),
        (['.'], 'found no product of a known sensor'),
        (['world', '--out', 'mine.png'], 'mine.png: is there'),
        (['world', '--out', 'nowhere/a.png'], 'there is no folder nowhere'),
    ],
)
def test_inspect_refuses(args, said, world, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'mine.png').write_bytes(b'of the user')
    if args[0] == 'world':
        world.hls(size=240)
    with pytest.raises(SystemExit) as stop:
        main(['inspect', *args])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert (tmp_path / 'mine.png').read_bytes() == b'of the user'


def test_inspect_prints_any_name_on_any_terminal(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    world.hls(size=240).rename(tmp_path / 'données')
    terminal = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
    monkeypatch.setattr(sys, 'stdout', terminal)
    main(['inspect', 'données'])
    assert b"HLSS30('" in terminal.buffer.getvalue()
    assert b'Quick-look: donn\\xe9es.png' in terminal.buffer.getvalue()


def test_module_runs():
    done = subprocess.run(
        [sys.executable, '-m', 'torchgeo_anysensor', '--version'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert __version__ in done.stdout


def test_small_commands_do_without_torch():
    code = (
        'import sys; from torchgeo_anysensor.main import main; '
        "main(['sensors']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, '-c', code], capture_output=True, check=True)

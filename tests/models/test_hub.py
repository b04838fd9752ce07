# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Encoders go to a folder and come back, without a network."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from torchgeo_anysensor.models import (
    AnySensorViT,
    CanonicalEncoder,
    DOFAEncoder,
    PointBandCode,
    SensorEncoder,
    anysensor_vit_tiny,
    encode,
)
from torchgeo_anysensor.models.description import describe
from torchgeo_anysensor.models.pretrained import load_encoder

BUILDERS = {
    'anysensor': lambda: AnySensorViT(32, depth=1, num_heads=2, band_dim=8, code=PointBandCode),
    'canonical': lambda: CanonicalEncoder(AnySensorViT(32, depth=1, num_heads=2, band_dim=8)),
    'dofa': lambda: DOFAEncoder(48, depth=1, num_heads=3, patch_size=4, token_m=60.0),
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError('the network was asked')

    monkeypatch.setattr('socket.socket.connect', refuse)


@pytest.mark.parametrize('name', BUILDERS)
@pytest.mark.parametrize('read', [SensorEncoder.from_pretrained, load_encoder])
def test_folder_and_back(name, read, tmp_path, awake, make_view):
    torch.manual_seed(0)
    encoder = awake(BUILDERS[name]()).eval()
    encoder.save_pretrained(tmp_path / 'it')
    assert {p.name for p in (tmp_path / 'it').iterdir()} == {
        'config.json',
        'model.safetensors',
        'README.md',
    }
    again = read(tmp_path / 'it')
    assert type(again) is type(encoder)
    assert not again.training
    assert describe(again) == describe(encoder)
    view = make_view()
    assert torch.equal(encode(again, view).tokens, encode(encoder, view).tokens)


def test_card_tells_the_run(tmp_path):
    encoder = anysensor_vit_tiny(depth=1)
    encoder.run = {
        'task': 'CrossSensorContrastive',
        'steps': 96,
        'data': {'sensors': 'sentinel2_l2a, landsat_c2l2'},
        'metrics': {'val_retrieval': 0.8},
    }
    encoder.save_pretrained(tmp_path)
    card = (tmp_path / 'README.md').read_text()
    for line in ('| steps | 96 |', '| sensors | sentinel2_l2a, landsat_c2l2 |', '| depth | 1 |'):
        assert line in card
    assert '| val_retrieval | 0.8 |' in card
    assert '| code | torchgeo_anysensor.models.codes.BandCode |' in card
    assert 'library_name: torchgeo_anysensor' in card
    assert SensorEncoder.from_pretrained(tmp_path).run == encoder.run
    CanonicalEncoder(encoder).save_pretrained(tmp_path / 'canonical')
    card = (tmp_path / 'canonical' / 'README.md').read_text()
    assert '| encoder | torchgeo_anysensor.models.anysensor.AnySensorViT |' in card
    assert '| code | torchgeo_anysensor.models.codes.BandCode |' in card
    encoder.run = None
    encoder.save_pretrained(tmp_path)  # the card is of these weights, not of those before
    assert 'Nothing is known of a training' in (tmp_path / 'README.md').read_text()


def test_arguments_of_another_kind_are_an_error(tmp_path):
    anysensor_vit_tiny(depth=1).save_pretrained(tmp_path)
    with pytest.raises(TypeError, match='AnySensorViT is not a class of DOFAEncoder'):
        DOFAEncoder.from_pretrained(tmp_path)


def test_a_config_imports_nothing(tmp_path):
    anysensor_vit_tiny(depth=1).save_pretrained(tmp_path)
    config = json.loads((tmp_path / 'config.json').read_text())
    config['class_path'] = 'antigravity.Encoder'
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='import antigravity first if you trust it'):
        SensorEncoder.from_pretrained(tmp_path)


OTHERS = {
    'os.system': 'not a class of',
    'pathlib.Path': 'not a class of',
    'torch.nn.Linear': 'not a class of',
    'torchgeo_anysensor.models.anysensor_vit_tiny': 'not a class of',
    'torchgeo_anysensor.__main__.Encoder': 'in no module that is imported',
    'torchgeo_anysensor.models.anysensor.Another': 'made by a newer version',
    'Encoder': 'in no module that is imported',
}


@pytest.mark.parametrize('path', OTHERS)
@pytest.mark.parametrize('init_args', [None, {'command': 'exit 1'}])
@pytest.mark.parametrize('inside', [False, True])
def test_a_file_calls_nothing_but_encoders_and_codes(
    path, init_args, inside, tmp_path, monkeypatch
):
    def called(*args, **kwargs):
        raise AssertionError('it was called')

    anysensor_vit_tiny(depth=1).save_pretrained(tmp_path)
    description = {'class_path': path} | ({'init_args': init_args} if init_args else {})
    if inside:
        config = json.loads((tmp_path / 'config.json').read_text())
        config['init_args']['code'] = description
        description = config
    (tmp_path / 'config.json').write_text(json.dumps(description))
    checkpoint = {'hyper_parameters': {'encoder': description}, 'state_dict': {}}
    torch.save(checkpoint, tmp_path / 'last.ckpt')
    monkeypatch.setattr('os.system', called)
    monkeypatch.setattr('torch.nn.Linear.__init__', called)
    with pytest.raises((TypeError, ValueError), match=f'{tmp_path}: .*{OTHERS[path]}'):
        SensorEncoder.from_pretrained(tmp_path)
    with pytest.raises((TypeError, ValueError), match=f'last.ckpt: .*{OTHERS[path]}'):
        load_encoder(tmp_path / 'last.ckpt')
    assert 'torchgeo_anysensor.__main__' not in sys.modules


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r'no config.json that describes an encoder'):
        SensorEncoder.from_pretrained(tmp_path)
    anysensor_vit_tiny(depth=1).save_pretrained(tmp_path)
    weights = load_file(tmp_path / 'model.safetensors')
    weights.pop(next(iter(weights)))
    save_file(weights, tmp_path / 'model.safetensors')
    with pytest.raises(ValueError, match='the weights do not fit the config'):
        SensorEncoder.from_pretrained(tmp_path)
    (tmp_path / 'model.safetensors').unlink()
    with pytest.raises(ValueError, match='a config and no weights'):
        SensorEncoder.from_pretrained(tmp_path)

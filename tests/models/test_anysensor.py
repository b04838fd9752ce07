# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""How the encoder is made; what it does is in the battery and in the tests of its parts."""

import pytest
import torch
from jsonargparse import ArgumentParser

from torchgeo_anysensor.models import (
    AnySensorViT,
    FourierBandCode,
    PointBandCode,
    SensorEncoder,
    anysensor_vit_base,
    anysensor_vit_small,
    anysensor_vit_tiny,
)


def test_a_config_chooses_code_and_facts():
    parser = ArgumentParser()
    parser.add_argument('--encoder', type=SensorEncoder)
    args = {'embed_dim': 32, 'depth': 1, 'num_heads': 2, 'facts': ['time', 'level']}
    args['code'] = 'torchgeo_anysensor.models.FourierBandCode'
    config = {
        'encoder': {'class_path': 'torchgeo_anysensor.models.AnySensorViT', 'init_args': args}
    }
    encoder = parser.instantiate(parser.parse_object(config)).encoder
    assert type(encoder.cells.band_code) is FourierBandCode
    assert set(encoder.cells.acquisition.maps) == {'time', 'level'}


def test_init_args_hold_every_argument():
    args = {'embed_dim': 32, 'depth': 1, 'num_heads': 2, 'band_dim': 8, 'token_m': 30.0}
    args |= {'code': PointBandCode, 'facts': ['time'], 'detail_dim': 4}
    encoder = AnySensorViT(**args)
    assert encoder.init_args == args
    AnySensorViT(**encoder.init_args).load_state_dict(encoder.state_dict())


def test_token_must_have_a_width():
    with pytest.raises(ValueError, match='token_m must be positive'):
        anysensor_vit_tiny(token_m=0.0)


@pytest.mark.parametrize(
    ('build', 'size'),
    [
        (anysensor_vit_tiny, (192, 3, 64)),
        (anysensor_vit_small, (384, 6, 128)),
        (anysensor_vit_base, (768, 12, 256)),
    ],
)
def test_sizes(build, size):
    with torch.device('meta'):
        encoder = build(depth=1, token_m=120.0)
    args = encoder.init_args
    assert isinstance(encoder, AnySensorViT)
    assert (args['embed_dim'], args['num_heads'], args['band_dim']) == size
    assert (args['depth'], args['token_m'], encoder.embed_dim) == (1, 120.0, size[0])

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import copy
import pickle

import pytest
import torch
from torch.testing import assert_close

from torchgeo_anysensor.models import anysensor_vit_tiny, encode
from torchgeo_anysensor.models.codes import BandCode
from torchgeo_anysensor.models.spectral import SpatialBasis


@pytest.fixture
def counted(monkeypatch):
    """Names of what was made, one for each time."""
    made = []
    for kind, name in ((SpatialBasis, '_integrate'), (BandCode, '_encode')):
        original = getattr(kind, name)

        def count(self, *args, name=name, original=original):
            made.append(name)
            return original(self, *args)

        monkeypatch.setattr(kind, name, count)
    return made


def test_kernels_and_codes_are_made_once_for_each_sensor(counted, make_view):
    encoder = anysensor_vit_tiny(depth=1).eval()
    s2 = [make_view(4), make_view(6, size=(6, 6), res=20.0)]
    landsat = make_view(7, size=(4, 4), res=30.0)
    for _ in range(3):
        with torch.no_grad():
            encode(encoder, s2)
            encode(encoder, landsat)
    assert sorted(counted) == ['_encode'] * 3 + ['_integrate'] * 3


def test_what_is_kept_is_that_of_the_parameters(awake, make_view):
    encoder, view = awake(anysensor_vit_tiny(depth=1)).eval(), make_view()
    with torch.no_grad():
        before = encode(encoder, view).pooled
        for parameter in encoder.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        kept = encode(encoder, view).pooled
    assert_close(kept, encode(encoder, view).pooled, atol=1e-6, rtol=0)  # with gradients, made anew
    assert (kept - before).abs().max() > 1e-2
    other = anysensor_vit_tiny(depth=1).eval()
    with torch.no_grad():
        encode(other, view)
        other.load_state_dict(encoder.state_dict())
        assert_close(encode(other, view).pooled, kept)
        assert_close(encode(other.bfloat16().float(), view).pooled, kept, atol=0.1, rtol=0)


def test_gradients_reach_kernels_and_codes_after_evaluation(awake, make_view):
    encoder, view = awake(anysensor_vit_tiny(depth=1)), make_view()
    with torch.no_grad():
        encode(encoder, view)
    encode(encoder, view).pooled[:, 0].sum().backward()  # the sum of all is constant
    assert encoder.cells.basis.coef.grad.any()
    assert all(p.grad.any() for p in encoder.cells.band_code.mlp.parameters())


def test_modes_do_not_mix(awake, make_view):
    encoder, view = awake(anysensor_vit_tiny(depth=1)).eval(), make_view()
    with torch.inference_mode():
        encode(encoder, view)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            encode(encoder, view)
    with torch.no_grad():
        kept = encode(encoder, view)
    assert torch.equal(kept.pooled, encode(encoder, view).pooled)


def test_copies_and_files_hold_nothing(awake, make_view):
    encoder, view = awake(anysensor_vit_tiny(depth=1)).eval(), make_view()
    size = len(pickle.dumps(encoder))
    with torch.no_grad():
        expected = encode(encoder, view).pooled
        assert abs(len(pickle.dumps(encoder)) - size) < 100
        assert_close(encode(copy.deepcopy(encoder), view).pooled, expected)

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import math

import pytest
import torch
from torch.testing import assert_close

from torchgeo_anysensor.models import RAMEN, encode, ramen_small, ramen_tiny
from torchgeo_anysensor.models.ramen import LEAST_TEMPERATURE, ScaleExperts, sincos


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return ramen_tiny(depth=1).eval()


def one_value(view, side):
    """Each square of ``side`` pixels gets the mean of its pixels."""
    mean = torch.nn.functional.avg_pool2d(view['image'], side)
    return {**view, 'image': mean.repeat_interleave(side, -2).repeat_interleave(side, -1)}


def test_token_m_changes_the_grid_and_not_the_parameters(encoder, make_view):
    before = {name: p.clone() for name, p in encoder.named_parameters()}
    view = make_view()
    for token_m, n in ((120.0, 1), (60.0, 2), (30.0, 4), (20.0, 6), (10.0, 12), (5.0, 24)):
        features = encode(encoder, view, token_m=token_m)
        assert features.grid == (n, n)
        assert features.tokens.shape == (2, n * n, 192)
        as_its_own = RAMEN(**{**encoder.init_args, 'token_m': token_m}).eval()
        as_its_own.load_state_dict(encoder.state_dict())
        assert torch.equal(encode(as_its_own, view).tokens, features.tokens)
    assert all(torch.equal(p, before[name]) for name, p in encoder.named_parameters())


def test_resampling_is_by_area(encoder, make_view):
    view = make_view(size=(12, 18))
    for token_m, side in ((60.0, 6), (30.0, 3), (20.0, 2)):
        expected = encode(encoder, view, token_m=token_m)
        actual = encode(encoder, one_value(view, side), token_m=token_m)
        assert_close(actual.tokens, expected.tokens, atol=1e-5, rtol=0)
    # 30 m pixels and 20 m tokens: half of a token is a quarter or a half of a pixel
    image = torch.tensor([[1.0, 2.0], [5.0, 10.0]]).expand(1, 1, 2, 2)
    means = torch.tensor([[1.0, 1.5, 2.0], [3.0, 4.5, 6.0], [5.0, 7.5, 10.0]]).expand(1, 1, 3, 3)
    coarse = make_view(1, size=(2, 2), res=30.0, batch=1) | {'image': image}
    fine = make_view(1, size=(3, 3), res=20.0, batch=1) | {'image': means, 'gsd': coarse['gsd']}
    tokens = [encode(encoder, v, token_m=20.0).tokens for v in (coarse, fine)]
    assert_close(*tokens, atol=1e-5, rtol=0)


def test_averaging_before_the_projection_equals_averaging_after(encoder, make_view):
    view = make_view(batch=1)
    token, _, _ = encoder.view_tokens(view, token_m=120.0)
    pixels = (view['image'] - 0.2) / 0.2
    projected = encoder.project(pixels.flatten(-2).mT, view['wavelength'])  # (1, 144, D)
    scale = torch.tensor(10.0 / 120.0).log()
    expected = encoder.norm(encoder.experts(projected.mean(dim=1, keepdim=True), scale))
    assert_close(token, expected, atol=1e-5, rtol=0)


def test_weights_of_each_band_are_normed(encoder):
    wavelength = torch.tensor([0.443, 0.842, 10.9])
    weights = encoder.project(torch.eye(3)[None], wavelength)[0]  # (C, D)
    assert_close(weights.mean(dim=-1), torch.zeros(3), atol=1e-5, rtol=0)
    assert_close(weights.std(dim=-1, correction=0), torch.ones(3), atol=1e-2, rtol=0)


def test_normed_tokens_get_their_metres_from_the_first_one(encoder, make_view):
    entered = []
    encoder.trunk.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    view = make_view(size=(12, 18))
    tokens, _, grid = encoder.view_tokens(view, token_m=60.0)
    assert_close(tokens.mean(dim=-1), torch.zeros(2, 6), atol=1e-5, rtol=0)
    encode(encoder, view)
    assert grid == (2, 3)
    places = [[60.0 * row, 60.0 * col] for row in range(2) for col in range(3)]
    expected = tokens + sincos(torch.tensor(places), 96).flatten(-2)
    assert_close(entered[0], expected, atol=1e-5, rtol=0)


def test_correction_is_the_formula_of_the_paper():
    torch.manual_seed(0)
    experts = ScaleExperts(8)
    x, scale = torch.randn(2, 3, 8), torch.tensor([-1.0, 0.5])
    actual = experts(x, scale)
    weight, bias = experts.experts.weight.reshape(4, 8, 8), experts.experts.bias.reshape(4, 8)
    for b in range(2):
        gate = (experts.gate(sincos(scale[b], 8)) / 0.7).softmax(dim=-1)
        assert gate.sum().item() == pytest.approx(1)
        corrections = [gate[n] * (x[b] @ weight[n].mT + bias[n]) for n in range(4)]
        assert_close(actual[b], x[b] + sum(corrections))


@pytest.mark.parametrize('temperature', [0.0, -1.0])
def test_temperature_stays_above_zero(temperature):
    torch.manual_seed(0)
    experts, x, scale = ScaleExperts(8), torch.randn(2, 3, 8), torch.tensor(0.5)
    torch.nn.init.constant_(experts.temperature, LEAST_TEMPERATURE)
    least = experts(x, scale)
    torch.nn.init.constant_(experts.temperature, temperature)
    assert_close(experts(x, scale), least)


def test_scale_moves_the_gate(encoder, make_view):
    view = make_view(batch=1)
    uniform = one_value(view, 12)  # the same pixels at any resolution: only the scale differs
    coarse, fine = (encoder.view_tokens(uniform, token_m=m)[0][:, 0] for m in (120.0, 20.0))
    assert (coarse - fine).abs().max() > 1e-3
    # ... and by the ratio alone
    doubled = {**uniform, 'gsd': 2 * uniform['gsd'], 'res': 2 * uniform['res']}
    assert_close(encoder.view_tokens(doubled, token_m=240.0)[0][:, 0], coarse)
    torch.nn.init.zeros_(encoder.experts.gate[2].weight)
    coarse, fine = (encoder.view_tokens(uniform, token_m=m)[0][:, 0] for m in (120.0, 20.0))
    assert_close(coarse, fine)


def test_facts_but_the_bandwidth_matter(encoder, make_view):
    view = make_view()
    expected = encode(encoder, view)
    for key, other, matters in (
        ('image', view['image'] + 0.1, True),
        ('wavelength', view['wavelength'] * 1.1, True),
        ('gsd', view['gsd'] * 2, True),
        ('bandwidth', view['bandwidth'] * 2, False),
    ):
        changed = encode(encoder, {**view, key: other})
        assert ((changed.tokens - expected.tokens).abs().max() > 1e-3) == matters, key
        assert ((changed.pooled - expected.pooled).abs().max() > 1e-4) == matters, key


def test_no_data_of_one_view_changes_nothing_anywhere(encoder, make_view):
    one, other = make_view(3), make_view(2, size=(4, 4), res=30.0, seed=1)
    one['valid'][:, :6] = False
    nothing = {**other, 'valid': torch.zeros_like(other['valid'])}
    alone, both = encode(encoder, one), encode(encoder, [one, nothing])
    assert torch.equal(alone.valid, both.valid)
    assert_close(both.tokens, alone.tokens, atol=2e-5, rtol=0)


def test_equal_pixels_at_other_places_differ(encoder, make_view):
    view = one_value(make_view(batch=1), 12)
    tokens = encode(encoder, view).tokens[0]
    assert torch.cdist(tokens, tokens).add(10 * torch.eye(4)).min() > 1e-2


def test_codes_are_sines_and_cosines():
    x = torch.tensor([0.5, 842.0])
    expected = [[f(v / 10_000 ** (k / 4)) for f in (math.sin, math.cos) for k in (0, 2)] for v in x]
    assert_close(sincos(x, 4), torch.tensor(expected), atol=1e-4, rtol=0)


def test_init_args_hold_every_argument():
    args = {'embed_dim': 32, 'depth': 1, 'num_heads': 2, 'registers': 2, 'token_m': 30.0}
    encoder = RAMEN(**args)
    assert encoder.init_args == args
    RAMEN(**encoder.init_args).load_state_dict(encoder.state_dict())


def test_token_must_have_a_width():
    with pytest.raises(ValueError, match='token_m must be positive'):
        ramen_tiny(token_m=0.0)


@pytest.mark.parametrize(
    ('build', 'size', 'millions'), [(ramen_tiny, (192, 3), 5.65), (ramen_small, (384, 6), 22.52)]
)
def test_sizes(build, size, millions):
    with torch.device('meta'):
        encoder = build(token_m=120.0)
    args = encoder.init_args
    assert (args['embed_dim'], args['num_heads']) == size
    assert (args['depth'], args['token_m']) == (12, 120.0)
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_small_reads_views_of_two_grids(make_view):
    encoder = ramen_small(depth=1).eval()
    features = encode(encoder, [make_view(4), make_view(3, size=(4, 4), res=30.0)])
    assert features.tokens.shape == (2, 4, encoder.embed_dim)
    assert features.pooled.shape == (2, encoder.embed_dim)

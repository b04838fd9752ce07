# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What every encoder keeps, ours and wrapped ones alike."""

import math
import re
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from torchgeo_anysensor.models import (
    AnySensorViT,
    CanonicalEncoder,
    CopernicusFMEncoder,
    DOFAEncoder,
    EncoderMoments,
    Features,
    PanopticonEncoder,
    TimmEncoder,
    anysensor_vit_small,
    anysensor_vit_tiny,
    atomizer_tiny,
    encode,
    ramen_tiny,
)


def canonical():
    """With a map of moments that somebody could have seen."""
    encoder = CanonicalEncoder(anysensor_vit_tiny(depth=1))
    moments = EncoderMoments(encoder.encoder)
    size = len(moments.tokens.mean)
    mix = torch.randn(size, size) / size**0.5
    total = mix @ mix.T + torch.eye(size)
    moments.tokens.update(mean=mix[0], total=total, within=total / 2 + 0.1 * torch.eye(size))
    moments.bands.meet(torch.tensor([0.44, 0.79, 1.03, 2.2]))  # some of those that are shown
    return encoder.fit(moments)


# Builders of encoders with random weights, small enough for a test of less than a second
BUILDERS = {
    'anysensor': lambda: anysensor_vit_tiny(depth=2),
    'anysensor_small_token_30': lambda: anysensor_vit_small(depth=1, token_m=30.0),
    'canonical': canonical,
    'dofa': lambda: DOFAEncoder(48, depth=2, num_heads=3, patch_size=4, token_m=60.0),
    'panopticon': lambda: PanopticonEncoder(48, attn_dim=96, token_m=60.0),
    'copernicusfm': lambda: CopernicusFMEncoder(
        48, depth=2, num_heads=3, patch_size=4, token_m=60.0
    ),
    'atomizer': lambda: atomizer_tiny(depth=2),
    'atomizer_token_30': lambda: atomizer_tiny(depth=2, token_m=30.0),
    'ramen': lambda: ramen_tiny(depth=2),
    'ramen_token_30': lambda: ramen_tiny(depth=2, token_m=30.0),
    'anysensor_facts': lambda: AnySensorViT(
        32, depth=1, num_heads=2, band_dim=16, facts=['time', 'place', 'level']
    ),
    'timm_vit': lambda: TimmEncoder(FIXED_BANDS, model='vit_tiny_patch16_224', token_m=60.0),
    'timm_resnet': lambda: TimmEncoder(FIXED_BANDS, model='resnet10t', token_m=60.0),
}

DOCS = Path(__file__).resolve().parents[2] / 'docs' / 'encoders.md'
#: What users call the encoders that have exceptions, by the first word of a builder.
CLASSES = {
    'dofa': 'DOFAEncoder',
    'panopticon': 'PanopticonEncoder',
    'copernicusfm': 'CopernicusFMEncoder',
    'timm': 'TimmEncoder',
    'ramen': 'RAMEN',
    'atomizer': 'Atomizer',
}
#: Bands of the encoders that cannot have others: all views but one of the tests have them.
FIXED_BANDS = (0.44, 1.6133)

NO_GSD = 'the original is not told the ground sample distance'
NO_BANDWIDTH = 'the original is not told the bandwidth'
A_SET = 'the tokens of Atomizer know their place, so the set shows which pixels are missing'
NO_OFFSET = 'its pixels are read as if they lay where the patch does'
POSITIONS = 'its tokens are told where in the patch they are'
FIXED = 'the bands are fixed: others are an error, and nothing is told about them'
# What an encoder cannot do, by builder and test; the table for users is in DOCS
EXCEPTIONS = {
    ('dofa', 'test_gsd_matters'): NO_GSD,
    ('dofa', 'test_bandwidth_matters'): NO_BANDWIDTH,
    ('panopticon', 'test_gsd_matters'): NO_GSD,
    ('panopticon', 'test_bandwidth_matters'): NO_BANDWIDTH,
    ('copernicusfm', 'test_gsd_matters'): NO_GSD,
    ('ramen', 'test_bandwidth_matters'): NO_BANDWIDTH,
    ('ramen_token_30', 'test_bandwidth_matters'): NO_BANDWIDTH,
    ('atomizer', 'test_invalid_pixels_are_excluded_not_zero'): A_SET,
    ('atomizer_token_30', 'test_invalid_pixels_are_excluded_not_zero'): A_SET,
    ('atomizer', 'test_pixels_are_read_where_they_lie'): NO_OFFSET,
    ('atomizer_token_30', 'test_pixels_are_read_where_they_lie'): NO_OFFSET,
    **{
        (builder, 'test_place_in_the_patch_does_not_matter'): POSITIONS
        for builder in BUILDERS
        if not builder.startswith(('anysensor', 'canonical', 'atomizer'))
    },
    **{
        (builder, test): FIXED
        for builder in ('timm_vit', 'timm_resnet')
        for test in (
            'test_wavelength_matters',
            'test_bandwidth_matters',
            'test_gsd_matters',
            'test_one_band',
            'test_band_facts_may_differ_between_samples',
        )
    },
}


@pytest.fixture(params=BUILDERS)
def encoder(request, awake, small_dinov2):
    if reason := EXCEPTIONS.get((request.param, request.node.originalname)):
        fails = (AssertionError, ValueError) if reason == FIXED else AssertionError
        cannot = pytest.mark.xfail(strict=True, reason=reason, raises=fails)
        request.applymarker(cannot)
    torch.manual_seed(0)
    return awake(BUILDERS[request.param]()).eval()


def test_exceptions_name_builders_and_tests():
    assert all(builder in BUILDERS and test in globals() for builder, test in EXCEPTIONS)


def test_exceptions_are_those_of_the_docs():
    told = set()
    for names, tests in re.findall(r'(?m)^\|(.*?)\|.*\|(.*)\|$', DOCS.read_text()):
        found = re.findall(r'`(test_\w+)`', tests)
        told |= {(name, test) for name in re.findall(r'`(\w+)`', names) for test in found}
    assert told == {(CLASSES[name.partition('_')[0]], test) for name, test in EXCEPTIONS}


def close(actual: Features, expected: Features, atol: float = 2e-5) -> None:
    assert actual.grid == expected.grid
    assert torch.equal(actual.valid, expected.valid)
    assert_close(actual.tokens, expected.tokens, atol=atol, rtol=0)
    assert_close(actual.pooled, expected.pooled, atol=atol, rtol=0)


def some_invalid(view):
    """Single pixels of the first row, and a square of 60 m of the last row, are not valid."""
    valid = view['valid'].clone()
    valid[0, ::3, 1::2] = False
    valid[-1, :6, :6] = False
    return {**view, 'valid': valid}


def test_shapes(encoder, make_view):
    features = encode(encoder, make_view(batch=3))
    rows, cols = features.grid
    assert features.tokens.shape == (3, rows * cols, encoder.embed_dim)
    assert features.pooled.shape == (3, encoder.embed_dim)
    assert features.valid.shape == (3, rows * cols)
    assert features.valid.all()


def differ(encoder, view, other):
    actual, expected = encode(encoder, other), encode(encoder, view)
    assert (actual.tokens - expected.tokens).abs().max() > 1e-3
    assert (actual.pooled - expected.pooled).abs().max() > 1e-4


def test_image_matters(encoder, make_view):
    view = make_view()
    differ(encoder, view, {**view, 'image': view['image'] + 0.1})


def test_wavelength_matters(encoder, make_view):
    view = make_view()
    differ(encoder, view, {**view, 'wavelength': view['wavelength'] * 1.1})


def test_bandwidth_matters(encoder, make_view):
    view = make_view()
    differ(encoder, view, {**view, 'bandwidth': view['bandwidth'] * 2})


def test_gsd_matters(encoder, make_view):
    view = make_view()
    differ(encoder, view, {**view, 'gsd': view['gsd'] * 2})


def test_band_order_does_not_matter(encoder, make_view):
    view = make_view(7, thermal=True)
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    shuffled = {**view, 'image': view['image'][:, order]}
    for key in ('wavelength', 'bandwidth', 'gsd'):
        shuffled[key] = view[key][order]
    close(encode(encoder, shuffled), encode(encoder, view))
    # ... and the facts must move with the bands
    wrong = encode(encoder, {**view, 'image': view['image'][:, order]})
    assert (wrong.tokens - encode(encoder, view).tokens).abs().max() > 1e-2


def test_view_order_does_not_matter(encoder, make_view):
    fine, coarse = make_view(4), make_view(13, size=(4, 4), res=30.0, seed=1)
    close(encode(encoder, [fine, coarse]), encode(encoder, [coarse, fine]))


def test_row_alone_equals_row_in_batch(encoder, make_view):
    view = some_invalid(make_view(batch=3))
    together = encode(encoder, view)
    for i in range(3):
        of_row = ('image', 'valid', 't', 'dx', 'dy', 'bounds', 'transform')
        alone = encode(encoder, {**view, **{key: view[key][i : i + 1] for key in of_row}})
        one = (x[i : i + 1] for x in (together.tokens, together.pooled))
        close(alone, Features(*one, together.grid, together.valid[i : i + 1]))


@pytest.mark.parametrize('value', [1e6, -1.0, math.nan, math.inf])
def test_invalid_pixels_change_nothing(encoder, make_view, value):
    view = some_invalid(make_view(thermal=True))
    expected = encode(encoder, view)
    image = torch.where(view['valid'][:, None], view['image'], value)
    actual = encode(encoder, {**view, 'image': image})
    close(actual, expected, atol=0)
    (actual.tokens.sum() + actual.pooled.sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())


def test_invalid_pixels_are_excluded_not_zero(encoder, make_view):
    view = make_view()
    view['image'] = view['image'][..., :1, :1].expand(-1, -1, 12, 12).contiguous()
    holes = view['valid'].clone()
    holes[:, ::2, 1::2] = False
    close(encode(encoder, {**view, 'valid': holes}), encode(encoder, view))


def test_nothing_valid_is_finite(encoder, make_view):
    view = make_view()
    view['valid'][0] = False
    view['image'][0] = math.nan
    features = encode(encoder, view)
    assert not features.valid[0].any()
    assert features.valid[1].all()
    assert features.tokens.isfinite().all()
    assert features.pooled.isfinite().all()
    (features.tokens.sum() + features.pooled.sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())


def test_absent_sensor_equals_invalid_view(encoder, make_view):
    one, other = make_view(4), make_view(7, size=(4, 4), res=30.0, seed=1, thermal=True)
    nothing = {**other, 'valid': torch.zeros_like(other['valid'])}
    close(encode(encoder, [one, nothing]), encode(encoder, one))
    with_other = encode(encoder, [one, other])
    assert (with_other.tokens - encode(encoder, one).tokens).abs().max() > 1e-2


def test_one_band(encoder, make_view):
    features = encode(encoder, make_view(1))
    assert features.tokens.isfinite().all()
    assert features.pooled.shape == (2, encoder.embed_dim)


@pytest.mark.parametrize('bands', [4, 13, 200])
def test_any_number_of_bands(encoder, make_view, bands):
    features = encode(encoder, make_view(bands))
    assert features.tokens.isfinite().all()
    assert features.pooled.shape == (2, encoder.embed_dim)


def test_grid_does_not_depend_on_pixels(encoder, make_view):
    fine = encode(encoder, make_view(size=(12, 12), res=10.0))
    coarse = encode(encoder, make_view(size=(4, 4), res=30.0))
    both = encode(encoder, [make_view(size=(12, 12)), make_view(size=(4, 4), res=30.0)])
    assert fine.grid == coarse.grid == both.grid
    assert fine.tokens.shape == coarse.tokens.shape == both.tokens.shape


@pytest.mark.parametrize('size', [(6, 30), (30, 6), (12, 18)])
def test_rectangular_patches(encoder, make_view, size):
    features = encode(encoder, make_view(size=size))
    rows, cols = features.grid
    assert rows * size[1] == cols * size[0]
    assert features.tokens.shape[1] == rows * cols
    assert features.tokens.isfinite().all()


def test_tokens_stand_where_their_pixels_are(encoder, make_view):
    view = make_view(size=(12, 18))
    view['valid'][:, :6, 12:] = False  # the north-east corner
    rows, cols = encode(encoder, view).grid
    valid = encode(encoder, view).valid.reshape(2, rows, cols)
    assert not valid[:, : rows // 2, -cols // 3 :].any()
    assert valid[:, rows // 2 :].all()
    assert valid[:, :, : cols * 2 // 3].all()


def test_place_in_the_patch_does_not_matter(encoder, make_view):
    """Ground that moves by whole tokens in a patch without other ground takes its tokens along."""
    shown = make_view(size=(12, 12))
    places = ((0, 0), (12, 18))  # rows and columns of pixels; a token is at most 6 wide
    found = []
    for row, col in places:
        view = make_view(size=(24, 36))
        view['valid'][:] = False
        view['valid'][:, row : row + 12, col : col + 12] = True
        view['image'][:, :, row : row + 12, col : col + 12] = shown['image']
        features = encode(encoder, view)
        found.append((features.tokens[features.valid], features.pooled))
    for one, other in zip(*found):
        assert_close(one, other, atol=1e-4, rtol=0)


def test_pixels_are_read_where_they_lie(encoder, make_view):
    """A step in the east: a view that lies 10 m farther east sees it one pixel to the west."""
    step, shifted = make_view(), make_view()
    for view, edge in ((step, 6), (shifted, 5)):
        view['image'][:] = 0.1
        view['image'][..., edge:] = 0.5
    step['valid'][..., 0] = False  # where the other view does not reach
    moved = {**shifted, 'dx': shifted['dx'] + 10}
    close(encode(encoder, moved), encode(encoder, step))
    differ(encoder, step, shifted)


def test_wavelengths_in_nanometres_raise(encoder, make_view):
    view = make_view()
    with pytest.raises(ValueError, match='are they in nm'):
        encode(encoder, {**view, 'wavelength': view['wavelength'] * 1000})


def test_band_facts_may_differ_between_samples(encoder, make_view):
    view = make_view()
    facts = ('wavelength', 'bandwidth', 'gsd')
    each = {**view, **{key: view[key].expand(2, -1) for key in facts}}
    close(encode(encoder, each), encode(encoder, view))
    for key in facts:
        each[key] = torch.stack([view[key], view[key] * 1.2])
    second = {**view, **{key: view[key] * 1.2 for key in facts}}
    assert_close(encode(encoder, each).pooled[0], encode(encoder, view).pooled[0])
    assert_close(encode(encoder, each).pooled[1], encode(encoder, second).pooled[1])
    # Two platforms see other light on the same grid: one fact differs, the others are shared
    one = {**view, 'wavelength': torch.stack([view['wavelength'], view['wavelength'] * 1.01])}
    second = {**view, 'wavelength': view['wavelength'] * 1.01}
    assert_close(encode(encoder, one).pooled[1], encode(encoder, second).pooled[1])


def test_every_parameter_gets_gradient(encoder, make_view):
    view = some_invalid(make_view(thermal=True))
    for key, value in (('t', 1e9), ('lon', 5.0), ('lat', 51.0), ('level', 1.0)):
        view[key] = torch.tensor([math.nan, value], dtype=torch.float64)  # known and not known
    features = encode(encoder, view)
    weight = torch.linspace(-1, 1, encoder.embed_dim)
    ((features.tokens * weight).sin().sum() + (features.pooled * weight).sin().sum()).backward()
    without = [
        name
        for name, p in encoder.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any() or not p.grad.isfinite().all())
    ]
    assert not without


def test_state_dict_round_trip(encoder, make_view):
    copy = type(encoder)(**encoder.init_args).eval()
    view = make_view()
    assert not torch.equal(encode(copy, view).pooled, encode(encoder, view).pooled)
    copy.load_state_dict(encoder.state_dict())
    close(encode(copy, view), encode(encoder, view), atol=0)


def test_bfloat16_is_close(encoder, make_view):
    view = some_invalid(make_view(thermal=True))
    expected = encode(encoder, view)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        actual = encode(encoder, view)
    for x, y in ((actual.tokens, expected.tokens), (actual.pooled, expected.pooled)):
        assert (x.float() - y).norm() < 0.03 * y.norm()


def test_inputs_stay_as_they_are(encoder, make_view):
    view = some_invalid(make_view())
    before = {key: value.clone() for key, value in view.items()}
    encode(encoder, view)
    assert all(torch.equal(view[key], before[key]) for key in before)

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What is finer than a token: the branch, and the heads and probes that ask for it."""

import pytest
import torch
from torch.testing import assert_close

from torchgeo_anysensor.models import (
    AnySensorViT,
    CanonicalEncoder,
    LinearHead,
    SMPDecoderHead,
    TokenRegression,
    encode,
    encode_sensors,
    ramen_tiny,
)
from torchgeo_anysensor.tasks import SegmentationProbe


@pytest.fixture
def encoder(awake):
    torch.manual_seed(0)
    return awake(AnySensorViT(32, depth=1, num_heads=2, band_dim=8, detail_dim=6)).eval()


def fine(encoder, views, detail_m=10.0):
    return encode(encoder, views, detail_m=detail_m).detail


def test_grid_is_that_of_the_call(encoder, make_view):
    views = [make_view(4), make_view(6, size=(6, 6), res=20.0)]
    assert fine(encoder, views).shape == (2, 6, 12, 12)
    assert fine(encoder, views, 20.0).shape == (2, 6, 6, 6)
    assert fine(encoder, views, 60.0).shape == (2, 6, 2, 2)
    assert encode(encoder, views).detail is None


def test_a_pixel_shows_in_its_own_cell_alone(encoder, make_view):
    view = make_view(size=(12, 18))
    changed = {**view, 'image': view['image'].clone()}
    changed['image'][0, :, 2, 7] += 0.2
    moved = (fine(encoder, changed) - fine(encoder, view)).abs().amax(dim=1)  # (B, 12, 18)
    assert moved.nonzero().tolist() == [[0, 2, 7]]
    assert moved.max() > 1e-2


def test_coarse_view_equals_its_upsampling(encoder, make_view):
    coarse = make_view(size=(4, 4), res=30.0)
    image, valid = (
        coarse[key].repeat_interleave(3, dim=-2).repeat_interleave(3, dim=-1)
        for key in ('image', 'valid')
    )
    upsampled = {**coarse, 'image': image, 'valid': valid, 'res': torch.tensor(10.0)}
    assert_close(fine(encoder, coarse), fine(encoder, upsampled), atol=1e-5, rtol=0)


def test_pixels_are_read_where_they_lie(encoder, make_view):
    view = make_view(size=(12, 18))
    moved = {**view, 'dx': torch.full((2,), 20.0), 'dy': torch.full((2,), -10.0)}
    assert_close(
        fine(encoder, moved)[..., 1:, 2:], fine(encoder, view)[..., :-1, :-2], atol=1e-5, rtol=0
    )


def test_bands_are_a_set_and_know_what_they_are(encoder, make_view):
    view, order = make_view(4), torch.tensor([2, 0, 3, 1])
    facts = {key: view[key][order] for key in ('wavelength', 'bandwidth', 'gsd')}
    shuffled = {**view, 'image': view['image'][:, order], **facts}
    assert_close(fine(encoder, shuffled), fine(encoder, view), atol=1e-5, rtol=0)
    other = {**view, 'wavelength': view['wavelength'] * 1.2}
    assert (fine(encoder, other) - fine(encoder, view)).abs().max() > 1e-2


def test_pixels_that_are_not_valid_change_nothing(encoder, make_view):
    view = make_view()
    view['valid'][0, 3:9, 2:4] = False
    expected = fine(encoder, view)
    bad = torch.where(view['valid'][:, None], view['image'], torch.nan)
    assert_close(fine(encoder, {**view, 'image': bad}), expected, atol=0, rtol=0)
    # ... and a second sensor shows through the hole
    other = make_view(3, size=(6, 6), res=20.0, seed=1)
    assert_close(
        fine(encoder, [view, other])[0, :, 4, 2],
        fine(encoder, other)[0, :, 4, 2],
        atol=1e-5,
        rtol=0,
    )


def test_gradient_reaches_every_parameter(encoder, make_view):
    view = make_view(thermal=True)
    view['valid'][0, 0, 0] = False
    weight = torch.linspace(-1, 1, 6)[:, None, None]
    (fine(encoder, view) * weight).sin().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.fine.parameters())


def test_an_encoder_without_detail_says_so(make_view):
    plain = AnySensorViT(32, depth=1, num_heads=2, band_dim=8)
    for encoder in (plain, ramen_tiny(depth=1)):
        with pytest.raises(ValueError, match='nothing finer than its tokens'):
            encode(encoder, make_view(), detail_m=10.0)


@pytest.mark.parametrize('head', [LinearHead, SMPDecoderHead])
def test_detail_shows_in_its_own_pixel(encoder, make_view, head):
    features = encode(encoder, make_view(), detail_m=10.0)
    made = head(32, 2, detail_dim=6).eval()
    changed = features.detail.clone()
    changed[0, :, 2, 7] += 0.5
    one, other = (made(f, (12, 12)) for f in (features, features._replace(detail=changed)))
    moved = (other - one).detach().abs().amax(dim=1)
    assert (moved > 1e-4).nonzero().tolist() == [[0, 2, 7]]


@pytest.mark.parametrize('head', [LinearHead, SMPDecoderHead])
def test_a_probe_asks_for_the_detail(encoder, make_view, head):
    batch = {'sensors': {'a': (make_view(),)}, 'present': {'a': torch.ones(2, dtype=torch.bool)}}
    probe = SegmentationProbe(encoder, ['x', 'y'], head=head, detail_m=10.0).eval()
    expected = probe.head(encode(encoder, make_view(), detail_m=10.0), (12, 12))
    assert torch.equal(probe(batch), expected)
    assert SegmentationProbe(encoder, ['x', 'y'], head=head).head.detail is None


def test_a_head_that_expects_detail_says_what_is_missing(encoder, make_view):
    with pytest.raises(ValueError, match='encode with a detail_m'):
        LinearHead(32, 2, detail_dim=6)(encode(encoder, make_view()), (12, 12))


def test_regression_reads_the_detail(encoder, make_view):
    probe = TokenRegression(encoder, 2, detail_m=10.0)
    x, seen = probe.inputs({'a': [make_view()]}, (12, 12))['all']
    assert x.shape == (2, 32 + 6, 12, 12)
    assert torch.equal(x[:, 32:], fine(encoder, make_view()))
    assert seen.all()


def test_regression_reads_a_detail_that_holds_the_tokens_alone(encoder, make_view):
    canonical = CanonicalEncoder(encoder).eval()
    x, _ = TokenRegression(canonical, 2, detail_m=10.0).inputs({'a': [make_view()]}, (12, 12))[
        'all'
    ]
    assert torch.equal(x, encode(canonical, make_view(), detail_m=10.0).detail)
    x, _ = TokenRegression(canonical, 2).inputs({'a': [make_view()]}, (12, 12))['all']
    assert x.shape[1] == canonical.embed_dim


def test_regression_asks_how_far_sensors_are_apart_in_what_it_reads(encoder):
    assert TokenRegression(encoder, 2, detail_m=10.0).noise() is None
    canonical = CanonicalEncoder(encoder).eval()
    canonical.tokens.own.fill_(1.0)
    canonical.fine.own.fill_(3.0)
    for detail_m, own, size in (
        (None, 1.0, canonical.embed_dim),
        (10.0, 3.0, canonical.detail_dim),
    ):
        noise = TokenRegression(canonical, 2, detail_m=detail_m).noise()
        assert_close(noise, torch.full((size,), 2 * own))


def test_regression_takes_the_mean_of_what_sensors_say(encoder, make_view):
    """Of those that saw the pixel; an encoder that knows nothing of sensors joins them itself."""
    canonical = CanonicalEncoder(encoder).eval()
    one, other, sees_little = make_view(seed=1), make_view(seed=2), make_view(seed=2)
    sees_little['valid'] = torch.zeros_like(sees_little['valid'])
    sees_little['valid'][:, :6] = True

    def read(encoder, *views):
        probe = TokenRegression(encoder, 2, detail_m=10.0)
        return probe.inputs({str(n): [view] for n, view in enumerate(views)}, (12, 12))['all']

    alone = [read(canonical, view)[0] for view in (one, other, sees_little)]
    assert_close(read(canonical, one, other)[0], (alone[0] + alone[1]) / 2)
    x, seen = read(canonical, one, sees_little)
    assert_close(x[:, :, :6], ((alone[0] + alone[2]) / 2)[:, :, :6])
    assert_close(x[:, :, 6:], alone[0][:, :, 6:])
    assert seen.all()
    assert not read(canonical, sees_little)[1][:, 6:].any()
    joint = encode(encoder, [one, other], detail_m=10.0).detail
    assert torch.equal(read(encoder, one, other)[0][:, 32:], joint)


def test_sensors_count_by_their_pixels_in_the_mean(encoder, make_view):
    canonical = CanonicalEncoder(encoder).eval()
    views = make_view(seed=1), make_view(seed=2, size=(6, 6), res=20.0)

    def read(*views):
        probe = TokenRegression(canonical, 2, detail_m=10.0)
        return probe.inputs({str(n): [view] for n, view in enumerate(views)}, (12, 12))['all'][0]

    fine, coarse = map(read, views)
    assert_close(read(*views), (4 * fine + coarse) / 5)
    assert_close(read(*views[::-1]), (4 * fine + coarse) / 5)
    views[0]['gsd'] = torch.full((4,), 20.0)  # 20 m delivered as 10 m
    assert_close(read(*views), (read(views[0]) + coarse) / 2)


@torch.no_grad()
def test_several_sensors_are_read_one_by_one_where_sensors_agree(encoder, make_view):
    """By a probe of any head, too; an encoder that knows of no agreement joins them itself."""
    canonical = CanonicalEncoder(encoder).eval()
    sensors = {'a': [make_view(seed=1)], 'b': [make_view(seed=2)]}
    one, other = (encode(canonical, views, detail_m=10.0) for views in sensors.values())
    found = encode_sensors(canonical, sensors, detail_m=10.0)
    for mean, x, y in zip(found, one, other):
        if mean is not found.grid and mean is not found.valid:
            assert_close(mean, (x + y) / 2)
    batch = {'sensors': sensors, 'present': dict.fromkeys(sensors, torch.ones(2, dtype=torch.bool))}
    probe = SegmentationProbe(canonical, ['x', 'y'], detail_m=10.0).eval()
    assert_close(probe(batch), probe.head(found, (12, 12)))
    joint = encode(encoder, [*sensors['a'], *sensors['b']])
    assert torch.equal(encode_sensors(encoder, sensors).tokens, joint.tokens)
    sensors['b'] = [make_view(size=(24, 24))]
    with pytest.raises(ValueError, match='must share its ground'):
        encode_sensors(canonical, sensors)

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import math

import pytest
import torch
from torch.testing import assert_close

from torchgeo_anysensor.models import anysensor_vit_tiny, encode
from torchgeo_anysensor.models.ground import cell_grid, cut, pixels_per_cell, place


def repeat(view, k):
    """The view on a grid k times finer, by nearest neighbour; the bands stay what they are."""
    image, valid = (
        x.repeat_interleave(k, dim=-2).repeat_interleave(k, dim=-1)
        for x in (view['image'], view['valid'])
    )
    return {**view, 'image': image, 'valid': valid, 'res': view['res'] / k}


@pytest.fixture
def encoder(awake):
    torch.manual_seed(0)
    return awake(anysensor_vit_tiny(depth=2)).eval()


@pytest.mark.parametrize(
    ('res', 'token_m', 'expected'),
    [
        (10, 60, (1, 6)),
        (60, 60, (1, 1)),
        (30, 20, (3, 2)),
        (60, 20, (3, 1)),
        (20, 30, (2, 3)),
        (0.3, 6, (1, 20)),
        (4.8, 60, (2, 25)),
        (300, 60, (5, 1)),
    ],
)
def test_pixels_per_cell(res, token_m, expected):
    assert pixels_per_cell(float(torch.tensor(res)), token_m) == expected


@pytest.mark.parametrize(('res', 'token_m'), [(10, 60.5), (10, 0.1), (9.7, 60)])
def test_no_simple_ratio_raises(res, token_m):
    with pytest.raises(ValueError, match='choose token_m as a multiple'):
        pixels_per_cell(res, token_m)


@pytest.mark.parametrize(('res', 'token_m'), [(10, 0), (10, -60), (0, 60), (math.nan, 60)])
def test_sizes_must_be_positive(res, token_m):
    with pytest.raises(ValueError, match='positive metres'):
        pixels_per_cell(res, token_m)


def test_patch_must_be_whole_tokens(encoder, make_view):
    with pytest.raises(ValueError, match=r'640 x 720 m .* token_m=60 m; cut patches of 600 x 720'):
        encode(encoder, make_view(size=(64, 72)))
    assert encode(encoder, make_view(size=(64, 72)), token_m=80.0).grid == (8, 9)
    with pytest.raises(ValueError, match='whole number'):
        cell_grid((3, 3), res=10, token_m=60)  # less than one token


def test_cut_keeps_pixels_in_place():
    # Each pixel holds its own row and column
    rows, cols = torch.meshgrid(torch.arange(6.0), torch.arange(9.0), indexing='ij')
    image = torch.stack([rows, cols])[None]
    cells = cut(image, torch.ones(1, 6, 9, dtype=torch.bool), res=10, token_m=30)
    assert cells.grid == (2, 3)
    assert cells.pixels.shape == (1, 6, 2, 3, 3)
    fourth = cells.pixels[0, 4]  # second row, second column
    assert_close(fourth, image[0, :, 3:6, 3:6])


def test_nothing_stays_of_what_is_not_valid():
    image = torch.tensor([[1.0, 3.0], [math.nan, math.inf]])[None, None]
    valid = torch.tensor([[True, True], [False, False]])[None]
    cells = cut(image, valid, res=10, token_m=10)
    assert cells.pixels.flatten().tolist() == [1.0, 3.0, 0.0, 0.0]
    assert cells.seen.tolist() == [[True, True, False, False]]


@pytest.mark.parametrize(('res', 'size', 'k'), [(60.0, 3, 6), (30.0, 4, 3), (20.0, 6, 2)])
def test_coarse_view_equals_its_upsampling(encoder, make_view, res, size, k):
    view = make_view(5, size=(size, size), res=res, thermal=True)
    view['valid'][0, 0, 0] = False
    view['image'][0, :, 0, 0] = math.nan
    coarse, fine = encode(encoder, view), encode(encoder, repeat(view, k))
    assert torch.equal(coarse.valid, fine.valid)
    assert_close(coarse.tokens, fine.tokens, atol=5e-5, rtol=0)
    assert_close(coarse.pooled, fine.pooled, atol=5e-5, rtol=0)


@pytest.mark.parametrize(
    ('res', 'token_m', 'k'), [(30.0, 20.0, 3), (20.0, 30.0, 2), (45.0, 60.0, 3)]
)
def test_any_ratio_equals_explicit_repetition(encoder, make_view, res, token_m, k):
    view = make_view(size=(12, 24), res=res)
    view['valid'][1, 1:3, 2] = False
    expected = encode(encoder, repeat(view, k), token_m=token_m)
    actual = encode(encoder, view, token_m=token_m)
    assert actual.grid == (12 * res / token_m, 24 * res / token_m)
    assert_close(actual.tokens, expected.tokens)
    assert_close(actual.pooled, expected.pooled)


def test_token_size_of_the_call_wins(encoder, make_view):
    view = make_view(size=(12, 24))
    assert encode(encoder, view).grid == (2, 4)
    assert encode(encoder, view, token_m=30.0).grid == (4, 8)
    assert encode(encoder, view, token_m=120.0).grid == (1, 2)
    other = anysensor_vit_tiny(depth=2, token_m=30.0).eval()
    other.load_state_dict(encoder.state_dict())
    assert_close(encode(other, view).pooled, encode(encoder, view, token_m=30.0).pooled)


def test_views_of_other_ground_raise(encoder, make_view):
    views = [make_view(size=(12, 12)), make_view(size=(12, 18))]
    with pytest.raises(ValueError, match='views of one patch must agree'):
        encode(encoder, views)
    with pytest.raises(ValueError, match='share their ground'):
        encoder(views)


def off(view, *, east, north):
    """The same numbers, measured so many metres east and north of the patch, by row."""
    return {**view, 'dx': torch.tensor(east), 'dy': torch.tensor(north)}


@pytest.mark.parametrize(
    ('east', 'north'), [(15.0, 0.0), (0.0, -15.0), (-20.0, 10.0), (30.0, 60.0)]
)
def test_pixels_are_read_where_they_lie(encoder, make_view, east, north):
    """A view of 30 m off its patch is one of 5 m whose pixels are moved.

    It goes on for one pixel beyond its edge; what comes from farther away is not known.
    """
    coarse = make_view(size=(6, 8), res=30.0)
    fine = repeat(coarse, 6)
    rows, cols = torch.arange(36)[:, None] + int(north / 5), torch.arange(48) - int(east / 5)
    near = (rows >= -6) & (rows < 42) & (cols >= -6) & (cols < 54)
    source = rows.clamp(0, 35), cols.clamp(0, 47)
    moved = {key: fine[key][..., *source] for key in ('image', 'valid')}
    moved['valid'] = moved['valid'] & near
    expected = encode(encoder, {**fine, **moved})
    actual = encode(encoder, off(coarse, east=[east] * 2, north=[north] * 2))
    assert torch.equal(actual.valid, expected.valid)
    assert_close(actual.tokens, expected.tokens, atol=2e-5, rtol=0)
    assert (encode(encoder, coarse).tokens - actual.tokens).abs().max() > 1e-2


def test_rows_may_lie_apart(encoder, make_view):
    view = make_view(size=(6, 8), res=30.0)
    both = encode(encoder, off(view, east=[15.0, -10.0], north=[0.0, 15.0]))
    for row, (east, north) in enumerate([(15.0, 0.0), (-10.0, 15.0)]):
        alone = encode(encoder, off(view, east=[east] * 2, north=[north] * 2))
        assert_close(both.tokens[row], alone.tokens[row], atol=2e-5, rtol=0)


def test_any_offset_is_placed_to_a_part_of_a_pixel(make_view):
    view = make_view(size=(4, 4), res=30.0)
    image, valid, res = place(view['image'], view['valid'], res=30.0, dx=[7.3] * 2, dy=[0.0] * 2)
    assert res == 30 / 16
    assert image.shape[-2:] == (64, 64)
    assert valid.all()  # the nearest window of a grid of its own fills the patch
    first, second = view['image'][0, 0, 0, :2]
    start = int((image[0, 0, 0] == second).nonzero()[0]) * res  # the second pixel, in metres
    assert abs(start - 30 - 7.3) <= res / 2
    assert (image[0, 0, 0, : int(start / res)] == first).all()


def test_no_offset_changes_nothing(make_view):
    view = make_view()
    image, valid, res = place(view['image'], view['valid'], res=10.0, dx=[0.0] * 2, dy=[0.0] * 2)
    assert (image is view['image'], valid is view['valid'], res) == (True, True, 10.0)

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import math

import pytest
import torch
from torch.testing import assert_close

from torchgeo_anysensor.models import Atomizer, atomizer_small, atomizer_tiny, encode
from torchgeo_anysensor.models.atomizer import ATOM_DIM, Look, atomize, fourier, spectral_basis

FACTS = ('wavelength', 'bandwidth', 'gsd')


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return atomizer_tiny(depth=2).eval()


def holes(view):
    valid = view['valid'].clone()
    valid[0, ::3, 1::2] = False
    valid[-1, :6, :6] = False
    return {**view, 'valid': valid}


@pytest.mark.parametrize(('size', 'res', 'token_m'), [((12, 18), 10, 60), ((4, 6), 30, 30)])
def test_there_is_a_token_for_each_valid_pixel_and_band(make_view, size, res, token_m):
    view = holes(make_view(5, size=size, res=float(res)))
    atoms = atomize(view, token_m=token_m)
    everything = slice(None)
    assert int(atoms.keys(everything).sum()) == 5 * int(view['valid'].sum())
    assert atoms.tokens(everything).shape == (*atoms.keys(everything).shape, ATOM_DIM)


@pytest.mark.parametrize('token_m', [40.0, 24.0, 20.0, 15.0])
def test_a_pixel_is_read_by_each_cell_that_it_shares_ground_with(make_view, token_m):
    view = make_view(1, size=(4, 4), res=30.0, batch=1)
    view['image'] = torch.arange(16.0).reshape(1, 1, 4, 4)
    atoms = atomize(view, token_m=token_m)
    n = atoms.grid[0]
    assert n == 120 / token_m
    for cell in range(n * n):
        row, col = divmod(cell, n)
        near = [
            4 * i + j
            for i in range(4)
            for j in range(4)
            if all(
                30 * k < token_m * (c + 1) and 30 * (k + 1) > token_m * c
                for k, c in ((i, row), (j, col))
            )
        ]
        found = atoms.values[0, cell, :, 0][atoms.seen[0, cell]] * 0.2 + 0.2
        assert_close(found, torch.tensor(near, dtype=torch.float32), atol=1e-5, rtol=0)


def test_tokens_say_where_they_are(make_view):
    # Four pixels of 10 m in a cell of 20 m: 5 m from its centre
    atoms = atomize(make_view(1, size=(4, 4)), token_m=20.0)
    south, east = torch.tensor([-5.0, -5, 5, 5]), torch.tensor([-5.0, 5, -5, 5])
    expected = torch.cat([fourier(x, (512.0, 4.0), 16) for x in (south, east)], dim=-1)
    assert_close(atoms.places, expected.expand(4, -1, -1), atol=1e-5, rtol=0)
    # 30 m pixels in cells of 20 m: the second cell of the first row shares ground with two
    atoms = atomize(make_view(1, size=(2, 2), res=30.0), token_m=20.0)
    written = atoms.tokens(slice(1, 2))[0, 0, :, 32:64][atoms.keys(slice(1, 2))[0, 0]]
    south, east = torch.tensor([5.0, 5.0]), torch.tensor([-15.0, 15.0])
    expected = torch.cat([fourier(x, (512.0, 4.0), 16) for x in (south, east)], dim=-1)
    assert_close(written, expected, atol=1e-5, rtol=0)


def test_a_token_removed_equals_one_that_is_not_valid():
    torch.manual_seed(0)
    look = Look(24)
    latents, tokens = torch.randn(2, 3, 24), torch.randn(2, 3, 7, ATOM_DIM)
    seen = torch.ones(2, 3, 7, dtype=torch.bool)
    seen[..., 4] = False
    kept = [0, 1, 2, 3, 5, 6]
    expected = look(latents, tokens[:, :, kept], seen[:, :, kept])
    assert_close(look(latents, tokens, seen), expected)
    assert (look(latents, tokens, torch.ones_like(seen)) - expected).abs().max() > 1e-4


def test_a_pixel_removed_equals_one_that_is_not_valid(encoder, make_view):
    # The tokens of the first row of pixels alone
    view = make_view(3, size=(6, 6))
    atoms = atomize(view, token_m=60.0)
    fewer = atoms._replace(
        values=atoms.values[:, :, :6], seen=atoms.seen[:, :, :6], places=atoms.places[:, :6]
    )
    view['valid'][:, 1:] = False
    latents = torch.zeros(2, 1, 192)
    expected = encoder._read(encoder.looks[0], latents, [fewer])
    actual = encoder._read(encoder.looks[0], latents, [atomize(view, token_m=60.0)])
    assert_close(actual, expected, atol=1e-5, rtol=0)


def test_bands_of_one_view_are_the_tokens_of_many(encoder, make_view):
    view = holes(make_view(5, thermal=True))
    parts = [
        {**view, 'image': view['image'][:, i], **{key: view[key][i] for key in FACTS}}
        for i in ([3], [0, 4], [1, 2])
    ]
    expected, actual = encode(encoder, view), encode(encoder, parts)
    assert_close(actual.tokens, expected.tokens, atol=2e-5, rtol=0)
    assert_close(actual.pooled, expected.pooled, atol=2e-5, rtol=0)


def test_no_data_of_one_view_changes_nothing_anywhere(encoder, make_view):
    one, other = make_view(3), make_view(2, size=(4, 4), res=30.0, seed=1)
    one['valid'][:, :6] = False
    nothing = {**other, 'valid': torch.zeros_like(other['valid'])}
    alone, both = encode(encoder, one), encode(encoder, [one, nothing])
    assert torch.equal(alone.valid, both.valid)
    assert_close(both.tokens, alone.tokens, atol=2e-5, rtol=0)


@pytest.mark.parametrize('chunk', [1, 2 * 36 * 4 * 3])
def test_chunks_change_nothing(encoder, make_view, chunk):
    chunked = Atomizer(**{**encoder.init_args, 'chunk': chunk})
    chunked.load_state_dict(encoder.state_dict())
    views = [holes(make_view(size=(12, 18))), make_view(2, size=(4, 6), res=30.0)]
    for training in (False, True):
        gradients = []
        for model in (encoder.train(training), chunked.train(training)):
            features = encode(model, views)
            model.zero_grad()
            (features.tokens.sin().sum() + features.pooled.sum()).backward()
            gradients.append((features, [p.grad for p in model.parameters()]))
        (expected, gradient), (actual, other) = gradients
        assert_close(actual.tokens, expected.tokens, atol=1e-5, rtol=0)
        assert_close(other, gradient, atol=1e-3, rtol=1e-4)


def test_chunks_bound_what_is_held(encoder, make_view):
    held = []

    def look(latents, tokens, seen):
        held.append(tokens.shape[:3].numel())
        return latents

    view = make_view(size=(12, 18))
    atoms = [atomize(view, token_m=20.0)]  # 54 cells of 4 pixels and 4 bands, in 2 samples
    encoder.chunk = 200
    encoder._read(look, torch.zeros(2, 54, 192), atoms)
    assert max(held) <= 200
    assert sum(held) == 2 * 12 * 18 * 4


def test_a_latent_reads_its_own_cell(encoder, make_view):
    view = make_view()
    changed = {**view, 'image': view['image'].clone()}
    changed['image'][:, :, :6, :6] += 0.1
    latents = torch.zeros(2, 4, 192)
    one, other = (
        encoder._read(encoder.looks[0], latents, [atomize(v, token_m=60.0)])
        for v in (view, changed)
    )
    assert (one[:, 0] - other[:, 0]).abs().max() > 1e-3
    assert_close(one[:, 1:], other[:, 1:], atol=1e-6, rtol=0)


def test_holes_in_one_colour_are_seen_but_little(encoder, make_view):
    view = make_view()
    view['image'] = view['image'][..., :1, :1].expand(-1, -1, 12, 12).contiguous()
    expected = encode(encoder, view)
    valid = view['valid'].clone()
    valid[:, ::2, 1::2] = False
    actual = encode(encoder, {**view, 'valid': valid})
    zeros = view['image'] * valid[:, None]
    filled = encode(encoder, {**view, 'image': zeros})
    difference = (actual.tokens - expected.tokens).abs().mean()
    assert 0 < difference < 0.5 * (filled.tokens - expected.tokens).abs().mean()


def test_basis_is_the_largest_value_within_the_band():
    low, high = math.log(0.3), math.log(15.0)
    centres = torch.linspace(low, high, 64)
    width = (high - low) / 63
    for wavelength, bandwidth in ((0.49, 0.065), (0.86, 0.02), (1.61, 0.09), (10.9, 0.6)):
        begin, end = wavelength - bandwidth / 2, wavelength + bandwidth / 2
        samples = torch.linspace(begin, end, 2001).log()[:, None]
        expected = torch.exp(-(((samples - centres) / width) ** 2) / 2).amax(dim=0)
        actual = spectral_basis(torch.tensor(wavelength), torch.tensor(bandwidth))
        assert_close(actual, expected, atol=1e-3, rtol=0)
    assert spectral_basis(torch.tensor(0.5), torch.tensor(2.0)).isfinite().all()


def test_init_args_hold_every_argument():
    args = {'embed_dim': 32, 'depth': 3, 'num_heads': 2, 'turns': 3}
    args |= {'registers': 2, 'token_m': 30.0, 'chunk': 100}
    encoder = Atomizer(**args)
    assert encoder.init_args == args
    Atomizer(**encoder.init_args).load_state_dict(encoder.state_dict())


def test_wrong_sizes_raise():
    with pytest.raises(ValueError, match='token_m must be positive'):
        atomizer_tiny(token_m=0.0)
    with pytest.raises(ValueError, match='depth must be a multiple of turns'):
        atomizer_tiny(depth=3)


@pytest.mark.parametrize(
    ('build', 'size', 'millions'),
    [(atomizer_tiny, (192, 3), 6.82), (atomizer_small, (384, 6), 25.44)],
)
def test_sizes(build, size, millions):
    with torch.device('meta'):
        encoder = build(token_m=120.0)
    args = encoder.init_args
    assert (args['embed_dim'], args['num_heads']) == size
    assert (args['depth'], args['token_m']) == (12, 120.0)
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_small_reads_views_of_two_grids(make_view):
    encoder = atomizer_small(depth=2).eval()
    features = encode(encoder, [make_view(4), make_view(3, size=(4, 4), res=30.0)])
    assert features.tokens.shape == (2, 4, encoder.embed_dim)
    assert features.pooled.shape == (2, encoder.embed_dim)


def test_latents_may_read_before_each_block(make_view):
    encoder = Atomizer(32, depth=3, num_heads=2, turns=3).eval()
    assert [len(trunk.blocks) for trunk in encoder.trunks] == [1, 1, 1]
    assert encode(encoder, make_view()).tokens.isfinite().all()

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from torchgeo_anysensor.models import (
    Features,
    LinearHead,
    SMPDecoderHead,
    anysensor_vit_tiny,
    encode,
)
from torchgeo_anysensor.models.heads import as_map


def features(grid, dim=16, batch=2):
    n = grid[0] * grid[1]
    valid = torch.ones(batch, n, dtype=torch.bool)
    return Features(torch.randn(batch, n, dim), torch.randn(batch, dim), grid, valid)


def smp_head(dim=16, num_classes=5):
    return SMPDecoderHead(dim, num_classes, pyramid_channels=16, segmentation_channels=32)


HEADS = {'linear': lambda: LinearHead(16, num_classes=5), 'smp': smp_head}


@pytest.mark.parametrize('name', HEADS)
@pytest.mark.parametrize('grid', [(1, 1), (2, 2), (3, 3), (1, 4), (5, 2), (8, 8)])
def test_map_has_the_size_asked_for(name, grid):
    head = HEADS[name]()
    size = (6 * grid[0], 6 * grid[1])
    logits = head(features(grid), size)
    assert logits.shape == (2, 5, *size)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize('name', HEADS)
def test_rows_are_independent(name):
    head, both = HEADS[name]().eval(), features((3, 4))
    one = Features(both.tokens[:1], both.pooled[:1], both.grid, both.valid[:1])
    assert_close(head(one, (12, 16)), head(both, (12, 16))[:1], atol=1e-5, rtol=0)


def test_tokens_lie_row_by_row():
    tokens = torch.arange(6.0).reshape(1, 6, 1)
    given = Features(tokens, tokens[:, 0], (2, 3), torch.ones(1, 6, dtype=torch.bool))
    assert_close(as_map(given)[0, 0], torch.tensor([[0.0, 1, 2], [3, 4, 5]]))


def test_linear_head_classifies_each_token_by_itself():
    head, given = LinearHead(16, num_classes=3), features((2, 4))
    logits = head.eval()(
        given, (2, 4)
    )  # no resizing; running statistics of no batch change nothing
    weight, bias = head.classify.weight[:, :, 0, 0], head.classify.bias
    expected = (given.tokens @ weight.T + bias).reshape(2, 2, 4, 3).permute(0, 3, 1, 2)
    assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_linear_head_does_not_mind_the_scale_of_the_tokens():
    head, given = LinearHead(16, num_classes=3), features((2, 4))
    scaled = given._replace(tokens=given.tokens * 100 + 7)
    assert_close(head(scaled, (2, 4)), head(given, (2, 4)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('grid', [(8, 8), (7, 9)])
@torch.no_grad()
def test_smp_head_keeps_places(grid):
    """What one token says is strongest where the token lies."""
    torch.manual_seed(0)
    head, given = smp_head(num_classes=8).eval(), features(grid)
    size = (8 * grid[0], 8 * grid[1])
    base = head(given, size)
    for place in ((0, 0), (2, 5), (grid[0] - 1, grid[1] - 1)):
        tokens = given.tokens.clone()
        tokens[:, place[0] * grid[1] + place[1]] += 3 * torch.randn(16)
        change = (head(given._replace(tokens=tokens), size) - base).abs().mean(dim=(0, 1))
        strongest = (change >= change.quantile(0.98)).nonzero().float().mean(dim=0)  # in pixels
        away = (strongest + 0.5) / 8 - (torch.tensor(place) + 0.5)  # in tokens
        assert away.abs().max() < 1.5


@torch.no_grad()
def test_smp_head_repeats_the_edge_of_odd_grids():
    head, given = smp_head().eval(), features((3, 5))
    padded = F.pad(as_map(given), (0, 1, 0, 1), mode='replicate').flatten(2).mT  # (B, 4 * 6, D)
    even = Features(padded, given.pooled, (4, 6), torch.ones(2, 24, dtype=torch.bool))
    assert_close(head(given, (12, 20)), head(even, (16, 24))[..., :12, :20])


@pytest.mark.parametrize('args', [{'embed_dim': 18}, {'segmentation_channels': 40}])
def test_sizes_that_do_not_divide_raise(args):
    with pytest.raises(ValueError, match='multiple'):
        SMPDecoderHead(**{'embed_dim': 16, 'num_classes': 2, **args})


@pytest.mark.parametrize('build', [LinearHead, SMPDecoderHead])
def test_on_an_encoder(build, make_view):
    encoder = anysensor_vit_tiny(depth=1)
    head = build(encoder.embed_dim, 4)
    logits = head(encode(encoder, make_view(size=(18, 12))), (18, 12))
    assert logits.shape == (2, 4, 18, 12)
    logits.logsumexp(1).sum().backward()
    assert encoder.cells.basis.coef.grad.any()

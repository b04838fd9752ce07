# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Chunks of a batch and blocks that are computed again: less memory, the same gradient."""

import pytest
import torch
from torch.testing import assert_close

from torchgeo_anysensor.models import AnySensorViT, TimmEncoder, encode


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return AnySensorViT(32, depth=2, num_heads=2, band_dim=16, detail_dim=8).train()


@pytest.fixture
def views(make_view):
    """Five samples, one with a hole, of which the bands of a grid differ from sample to sample."""
    views = [make_view(4, batch=5), make_view(6, size=(6, 6), res=20.0, batch=5)]
    views[0]['valid'][1, :6] = False
    views[1]['wavelength'] = views[1]['wavelength'] + 0.01 * torch.arange(5)[:, None]
    return views


def features_and_gradients(encoder, views):
    encoder.zero_grad()
    found = encode(encoder, views, token_m=60.0, detail_m=20.0)
    (found.tokens.square().sum() + found.pooled.sum() + found.detail.square().sum()).backward()
    return found, {name: p.grad.clone() for name, p in encoder.named_parameters()}


def same(found, expected):
    assert_close(found[0]._asdict(), expected[0]._asdict(), atol=1e-5, rtol=1e-4)
    assert_close(found[1], expected[1], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize('chunk', [1, 2, 5])
def test_chunks_change_neither_features_nor_gradients(encoder, views, chunk):
    expected = features_and_gradients(encoder, views)
    encoder.batch_chunk = chunk
    same(features_and_gradients(encoder, views), expected)


def test_checkpointing_changes_neither_features_nor_gradients(encoder, views):
    expected = features_and_gradients(encoder, views)
    encoder.set_grad_checkpointing()
    same(features_and_gradients(encoder, views), expected)
    encoder.batch_chunk = 2
    same(features_and_gradients(encoder, views), expected)


def test_checkpointing_is_part_of_the_graph(make_view):
    torch.manual_seed(0)
    encoder = AnySensorViT(16, depth=1, num_heads=2, band_dim=8, detail_dim=8).train()
    views = [make_view(3)]
    expected = features_and_gradients(encoder, views)
    encoder.set_grad_checkpointing()
    encoder.compile(fullgraph=True, backend='eager')  # a break in the graph would raise
    same(features_and_gradients(encoder, views), expected)
    torch.compiler.reset()


def test_both_work_in_half_precision(encoder, views):
    with torch.autocast('cpu', dtype=torch.bfloat16):
        expected = features_and_gradients(encoder, views)
        encoder.set_grad_checkpointing()
        encoder.batch_chunk = 2
        found = features_and_gradients(encoder, views)
    assert_close(found[0].tokens, expected[0].tokens, atol=0.05, rtol=0)
    for name, gradient in found[1].items():
        error = (gradient - expected[1][name]).norm()
        assert error <= 0.1 * expected[1][name].norm() + 1e-3, name


def saved_mib(encoder, views):
    """What autograd keeps for the way back, in MiB."""
    sizes = {}

    def keep(x):
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        held = encode(encoder, views, token_m=20.0)
    del held
    return sum(sizes.values()) / 2**20


def test_both_keep_less(encoder, make_view):
    views = [make_view(4, size=(48, 48), batch=8)]
    plain = saved_mib(encoder, views)
    encoder.set_grad_checkpointing()
    checkpointing = saved_mib(encoder, views)
    encoder.batch_chunk = 2
    assert saved_mib(encoder, views) < 0.2 * plain
    assert checkpointing < 0.9 * plain


def test_chunks_draw_the_same_on_the_way_back(encoder, views):
    """An encoder that draws at random would else have the gradient of another draw."""
    drawn = []

    def draw(module, args, output):
        drawn.append(torch.rand(()))
        return output * drawn[-1]

    encoder.cells.spectral.register_forward_hook(draw)
    encoder.batch_chunk = 2
    features_and_gradients(encoder, views)
    forward, back = drawn[:3], drawn[3:]
    assert len(set(map(float, forward))) == 3
    assert sorted(map(float, back)) == sorted(map(float, forward))


def test_evaluation_is_cut_too(encoder, views):
    expected = encode(encoder, views).tokens
    encoder.batch_chunk = 2
    calls = []
    encoder.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        found = encode(encoder, views).tokens
    assert len(calls) == -(-len(expected) // 2) > 1
    assert torch.allclose(found, expected, atol=1e-5)


def test_neither_is_part_of_the_description(encoder):
    before = dict(encoder.init_args)
    encoder.batch_chunk = 2
    encoder.set_grad_checkpointing()
    assert encoder.init_args == before
    assert AnySensorViT(**before).batch_chunk is None


def test_networks_of_timm_can_too(make_view):
    view = make_view(4, size=(32, 32))
    encoder = TimmEncoder(view['wavelength'].tolist(), model='vit_tiny_patch16_224').train()
    encoder.set_grad_checkpointing()
    expected = encode(encoder, view).tokens
    encoder.set_grad_checkpointing(False)
    assert_close(encode(encoder, view).tokens, expected)


def test_an_encoder_without_blocks_says_so(encoder, monkeypatch):
    monkeypatch.delattr(type(encoder.cells.trunk), 'set_grad_checkpointing')
    with pytest.raises(ValueError, match='no blocks to compute again; set its batch_chunk'):
        encoder.set_grad_checkpointing()

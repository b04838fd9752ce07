# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""A vision transformer over ground cells that knows where they lie, in metres.

Letters as in :mod:`torchgeo_anysensor.types`, and ``R`` class token and registers, ``h`` heads.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

#: Shortest and longest wavelength of the rotary positions, in metres on the ground.
ROTARY_WAVELENGTHS_M = (20.0, 10_000.0)


def cell_centres(grid: tuple[int, int], *, token_m: float, device: torch.device) -> Tensor:
    """Give the centres of cells in metres south and east of the centre of the patch.

    Args:
        grid: Rows and columns of cells.
        token_m: Width of a cell in metres.
        device: Where to make them.

    Returns:
        ``(N, 2)`` float32, row by row from the north-west corner.
    """
    south, east = (
        (torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2) * token_m for n in grid
    )
    return torch.cartesian_prod(south, east)


class Rotation(NamedTuple):
    """By what to rotate queries and keys (RoFormer, arXiv 2104.09864)."""

    cos: Tensor  #: ``(N, r / 2)`` float32
    sin: Tensor  #: ``(N, r / 2)`` float32


def rotary(positions: Tensor, head_dim: int, *, placeless: int = 0) -> Rotation:
    """Give the rotations of tokens on the ground, after those of tokens without a place.

    The first half of the features of a head rotate, ``r``; half of their pairs turn with the
    southing and half with the easting. The other half stays as it is. Tokens without a place have
    zeros in the first half, so that they look at all places alike, wherever the patch begins.

    Args:
        positions: ``(N, 2)`` in metres.
        head_dim: Features of an attention head, a multiple of 8.
        placeless: Number of tokens without a place, before the others.
    """
    low, high = (math.log10(w) for w in ROTARY_WAVELENGTHS_M)
    wavelengths = torch.logspace(low, high, head_dim // 8, device=positions.device)
    angles = 2 * math.pi * positions.float()[..., None] / wavelengths  # (N, 2, head_dim / 8)
    angles = angles.flatten(-2)
    return Rotation(*(F.pad(x, (0, 0, placeless, 0)) for x in (angles.cos(), angles.sin())))


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate pairs of features in the first half of them.

    Args:
        x: ``(..., N, head_dim)``; a feature of the first quarter pairs with one of the second.
        rotation: Of each token.

    Returns:
        ``(..., N, head_dim)`` in the type of ``x``.
    """
    pairs = rotation.cos.shape[-1]
    a, b, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    cos, sin = (part.to(x.dtype) for part in rotation)
    turned = torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(a * sin, b, cos)
    return torch.cat([*turned, rest], dim=-1)


class TrunkBlock(nn.Module):
    """A pre-norm transformer block with rotary positions."""

    def __init__(self, dim: int, *, num_heads: int) -> None:
        """Make a block of width ``dim`` with ``num_heads`` attention heads."""
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )

    def forward(self, x: Tensor, rotation: Rotation | None, keys: Tensor) -> Tensor:
        """Update tokens.

        Args:
            x: ``(B, N, D)``.
            rotation: Of each token, if they have places.
            keys: ``(B, 1, 1, N)`` bool, the tokens to look at.

        Returns:
            ``(B, N, D)``.
        """
        qkv = rearrange(self.qkv(self.norm(x)), 'b n (s h d) -> s b h n d', s=3, h=self.num_heads)
        looks = qkv[:2] if rotation is None else rotate(qkv[:2], rotation)
        y = F.scaled_dot_product_attention(looks[0], looks[1], qkv[2], attn_mask=keys)
        x = x + self.out(rearrange(y, 'b h n d -> b n (h d)'))
        updated: Tensor = x + self.mlp(x)
        return updated


class Trunk(nn.Module):
    """A vision transformer with a class token and registers (Darcet et al., arXiv 2309.16588)."""

    def __init__(self, dim: int, *, depth: int, num_heads: int, registers: int) -> None:
        """Make the trunk.

        Args:
            dim: Length of a token.
            depth: Number of blocks.
            num_heads: Attention heads of a block.
            registers: Further tokens without a place, for the trunk's own use.

        Raises:
            ValueError: If the heads do not divide the tokens into multiples of 8 features.
        """
        super().__init__()
        if dim % (8 * num_heads):
            raise ValueError(
                f'embed_dim must be a multiple of 8 * num_heads for positions in two directions, '
                f'got embed_dim={dim}, {num_heads=}'
            )
        self.head_dim = dim // num_heads
        self.prefix = nn.Parameter(0.02 * torch.randn(1 + registers, dim))
        self.blocks = nn.ModuleList(TrunkBlock(dim, num_heads=num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.grad_checkpointing = False
        self._init_weights(depth)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep of each block its input alone, and compute the rest again on the way back."""
        self.grad_checkpointing = enable

    def _init_weights(self, depth: int) -> None:
        """Start narrow, and so that the sum of all blocks has the scale of one (as in GPT-2)."""
        for name, parameter in self.blocks.named_parameters():
            if parameter.ndim == 2:
                last = name.endswith(('out.weight', 'mlp.3.weight'))
                nn.init.trunc_normal_(parameter, std=0.02 / math.sqrt(2 * depth) if last else 0.02)
            elif name.endswith('bias'):
                nn.init.zeros_(parameter)

    def forward(
        self, tokens: Tensor, valid: Tensor, positions: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Let the tokens of a patch talk to each other.

        Args:
            tokens: ``(B, N, D)``.
            valid: ``(B, N)`` bool; nobody looks at the tokens that are not valid.
            positions: ``(N, 2)`` in metres; None if the tokens know by themselves.

        Returns:
            Tokens ``(B, N, D)`` and the class token ``(B, D)``.
        """
        count = len(self.prefix)  # R
        # Not `len(tokens)`, which would fix B in an export
        prefix = self.prefix.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        x = torch.cat([prefix, tokens], dim=1)  # (B, R + N, D)
        keys = F.pad(valid, (count, 0), value=True)[:, None, None]  # (B, 1, 1, R + N)
        rotation = None
        if positions is not None:
            rotation = rotary(positions, self.head_dim, placeless=count)
        again = self.grad_checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            if again:
                x = checkpoint(block, x, rotation, keys, use_reentrant=False)
            else:
                x = block(x, rotation, keys)
        x = self.norm(x)
        return x[:, count:], x[:, 0]

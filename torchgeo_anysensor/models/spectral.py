# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""From the bands of any sensor to one feature vector for each ground cell.

Letters as in :mod:`torchgeo_anysensor.types`, and ``p`` pixels along the side of a cell, ``d``
features of a band token, ``Q`` latents.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from .codes import is_thermal
from .memo import Memo


def standardise(image: Tensor, wavelength: Tensor) -> Tensor:
    """Bring physical units to about unit range by one fixed map for each kind of band.

    Reflectance becomes ``(x - 0.2) / 0.2`` and kelvin ``(x - 290) / 20``. The map never depends on
    statistics of a band: a band that was not trained on has none.

    Args:
        image: ``(..., C, H, W)`` reflectance or kelvin.
        wavelength: ``(..., C)`` in micrometres, leading axes of 1 or as those of ``image``.

    Returns:
        ``(..., C, H, W)`` without unit.
    """
    centre, spread = unit_range(wavelength)
    return (image - centre).div_(spread)


def unit_range(wavelength: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and spread of :func:`standardise`, ``(..., C, 1, 1)`` each."""
    thermal = is_thermal(wavelength)[..., None, None]
    return torch.where(thermal, 290.0, 0.2), torch.where(thermal, 20.0, 0.2)


class SpatialBasis(nn.Module):
    """Continuous kernels on the square of a ground cell, integrated over its pixels.

    A kernel is a sum of ``cos(pi a u) cos(pi b v)`` over the unit square, and the weight of a pixel
    is the exact integral over the pixel's own square. Pixels of any size can so share the kernels,
    and a coarse image gives what its nearest-neighbour upsampling gives.
    """

    coef: Tensor

    def __init__(self, dim: int, *, order: int = 16) -> None:
        """Make the kernels.

        Args:
            dim: Number of kernels.
            order: Number of cosines along each axis.
        """
        super().__init__()
        self.order = order
        # Times `order` in `weights`: a constant cell then comes out with its own scale and white
        # noise with half of it, whatever p is, while the parameter is as small as others are.
        self.coef = nn.Parameter(torch.randn(dim, order, order) / order)
        self._memo = Memo()

    def weights(self, p: int) -> Tensor:
        """Integrate the kernels over a grid of pixels; in evaluation once for each grid.

        Args:
            p: Pixels along the side of the cell.

        Returns:
            ``(dim, p, p)`` float32.
        """
        return self._memo.get(p, [self.coef], lambda: self._integrate(p))

    def _integrate(self, p: int) -> Tensor:
        """As :meth:`weights`."""
        coef = self.coef.float()
        edges = torch.linspace(0, 1, p + 1, device=coef.device)
        orders = torch.arange(self.order, device=coef.device)[:, None]
        # The integral of cos(pi a u) from 0 to u is u sinc(a u), for a = 0 too.
        integral = (edges * torch.sinc(orders * edges)).diff(dim=-1)  # (order, p)
        with torch.autocast(coef.device.type, enabled=False):
            return self.order * torch.einsum('dab,ai,bj->dij', coef, integral, integral)

    def forward(self, pixels: Tensor, valid: Tensor) -> Tensor:
        """Project cells on the kernels.

        A pixel that is not valid counts as the mean of the valid ones of its cell and band.

        Args:
            pixels: ``(B, N, C, p, p)``, 0 where not valid.
            valid: ``(B, N, p, p)`` bool.

        Returns:
            ``(B, N, C, dim)``; 0 for cells without a valid pixel.
        """
        weights = self.weights(pixels.shape[-1]).flatten(-2).T.contiguous()  # (p p, dim): faster
        projected = pixels.flatten(-2) @ weights
        on_cpu = valid.device.type == 'cpu' and not torch.compiler.is_compiling()
        if on_cpu and bool(valid.all()):  # elsewhere to look takes longer than to compute
            return projected
        # The kernels are linear: what is missing is the mean times what they give for the holes
        holes = ((~valid).flatten(-2).to(weights.dtype) @ weights).unsqueeze(-2)
        count = valid.sum(dim=(-2, -1)).clamp(min=1)[..., None, None]  # (B, N, 1, 1)
        mean = pixels.sum(dim=(-2, -1)).unsqueeze(-1) / count  # (B, N, C, 1)
        return torch.addcmul(projected, mean.to(projected.dtype), holes.to(projected.dtype))


class FiLM(nn.Module):
    """Scale and shift features by what a code says (Perez et al. 2018, arXiv 1709.07871)."""

    def __init__(self, dim: int, *, code_dim: int) -> None:
        """Make the modulation of ``dim`` features by codes of length ``code_dim``."""
        super().__init__()
        self.linear = nn.Linear(code_dim, 2 * dim)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Modulate ``x`` ``(B, N, C, d)`` by ``code`` ``(C, code_dim)`` or ``(B, C, code_dim)``."""
        gamma, beta = self.linear(code).unsqueeze(-3).chunk(2, dim=-1)  # ([B,] 1, C, d) each
        return torch.addcmul(beta.to(x.dtype), x, 1 + gamma.to(x.dtype))


class BandBlock(nn.Module):
    """Latents look at a set of band tokens, then think.

    Keys and values are the band tokens themselves; the projections of each head are absorbed into
    the queries and the output, which are few. A further band so costs no projection.
    """

    def __init__(self, dim: int, *, heads: int) -> None:
        """Make a block of width ``dim`` with ``heads`` attention heads."""
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, heads * dim)
        self.out = nn.Linear(heads * dim, dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
        )

    def forward(self, latents: Tensor, bands: Tensor, keys: Tensor) -> Tensor:
        """Update latents.

        Args:
            latents: ``(B, N, Q, d)``, or ``(Q, d)`` for the same at all cells.
            bands: ``(B, N, C, d)`` band tokens.
            keys: ``(B, N, C, 1)``, 0 for the band tokens to look at and minus infinity for others;
                at least one in each cell is 0.

        Returns:
            ``(B, N, Q, d)``.
        """
        query = self.query(self.norm(latents))
        query = rearrange(query, '... q (h d) -> ... (q h) d', h=self.heads)
        # Plain products: fused attention is made for long sequences, and slower on short ones
        scores = bands @ (query * bands.shape[-1] ** -0.5).transpose(-1, -2)  # (B, N, C, Q h)
        share = (scores + keys).softmax(dim=-2)
        seen = share.to(bands.dtype).transpose(-1, -2) @ bands
        latents = latents + self.out(rearrange(seen, 'b n (q h) d -> b n q (h d)', h=self.heads))
        updated: Tensor = latents + self.mlp(latents)
        return updated


class SpectralAttention(nn.Module):
    """Join any set of band tokens at a ground cell to one vector, at a cost linear in the bands."""

    def __init__(
        self, dim: int, *, out_dim: int, latents: int = 4, depth: int = 2, heads: int = 4
    ) -> None:
        """Make the attention.

        Args:
            dim: Length of a band token.
            out_dim: Length of the result.
            latents: Vectors that look at the bands.
            depth: Number of looks.
            heads: Attention heads of each look.
        """
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, dim))
        self.no_data = nn.Parameter(0.02 * torch.randn(out_dim))
        self.norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(BandBlock(dim, heads=heads) for _ in range(depth))
        self.mix = nn.Sequential(nn.LayerNorm(latents * dim), nn.Linear(latents * dim, out_dim))

    def forward(self, bands: Tensor, seen: Tensor) -> Tensor:
        """Join bands.

        Args:
            bands: ``(B, N, C, d)`` finite band tokens.
            seen: ``(B, N, C)`` bool, false where the band has no data at the cell.

        Returns:
            ``(B, N, D)``; a learned vector where no band has data.
        """
        any_seen = seen.any(dim=-1, keepdim=True)  # (B, N, 1)
        # A softmax over nothing is NaN: cells without data look at everything and are replaced.
        hidden = (any_seen & ~seen).unsqueeze(-1)  # (B, N, C, 1)
        keys = torch.zeros_like(hidden, dtype=torch.float32).masked_fill(hidden, -torch.inf)
        bands = self.norm(bands)
        latents = self.latents  # (Q, d): the first look starts alike at all cells
        for block in self.blocks:
            latents = block(latents, bands, keys)
        mixed = self.mix(latents.flatten(-2))  # (B, N, D)
        return torch.where(any_seen, mixed, self.no_data.to(mixed.dtype))

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""An encoder for any optical sensor, at any resolution."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..types import SensorSample
from .base import Features, SensorEncoder
from .codes import BandCode
from .ground import cut_view
from .spectral import FiLM, SpatialBasis, SpectralAttention, standardise
from .trunk import Trunk, cell_centres

#: Length of the code of a band.
CODE_DIM = 128
#: Makes the codes of bands, given their length.
CodeBuilder = Callable[[int], BandCode]


class AnySensorViT(SensorEncoder):
    """A vision transformer that is told what its bands are.

    Each band of each grid becomes a token at each ground cell, from its own pixels at their own
    resolution. At each cell, a few latents attend to the set of all band tokens, of all grids and
    all sensors; a vision transformer follows. Nothing in it depends on the number of bands, their
    order, the pixel size or the size of the patch. Pixels are read where they lie: a view may be
    off the patch by ``dx`` and ``dy``.
    """

    def __init__(
        self,
        embed_dim: int = 384,
        *,
        depth: int = 12,
        num_heads: int = 6,
        band_dim: int = 128,
        latents: int = 4,
        registers: int = 4,
        token_m: float = 60.0,
        code: CodeBuilder = BandCode,
    ) -> None:
        """Make the encoder.

        Args:
            embed_dim: Length of the features.
            depth: Number of transformer blocks.
            num_heads: Attention heads of a transformer block.
            band_dim: Length of a band token.
            latents: Vectors that attend to the bands of a ground cell.
            registers: Tokens of the transformer without a place, beside the class token.
            token_m: Width of a ground token in metres, unless the call says another.
            code: Makes the band codes of a length.

        Raises:
            ValueError: If a token has no width, or the heads do not divide the features.
        """
        super().__init__()
        if not token_m > 0:
            raise ValueError(f'token_m must be positive metres, got {token_m}')
        self.init_args = {
            'embed_dim': embed_dim,
            'depth': depth,
            'num_heads': num_heads,
            'band_dim': band_dim,
            'latents': latents,
            'registers': registers,
            'token_m': token_m,
        }
        self.embed_dim = embed_dim
        self.token_m = token_m
        self.code = code(CODE_DIM)
        self.init_args['code'] = type(self.code)
        self.basis = SpatialBasis(band_dim)
        self.film = FiLM(band_dim, code_dim=CODE_DIM)
        self.spectral = SpectralAttention(band_dim, out_dim=embed_dim, latents=latents)
        self.trunk = Trunk(embed_dim, depth=depth, num_heads=num_heads, registers=registers)

    def band_tokens(
        self, view: SensorSample, *, token_m: float
    ) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Make a token of each band at each ground cell.

        Args:
            view: One batched view.
            token_m: Width of a ground cell in metres.

        Returns:
            Band tokens ``(B, N, C, d)``, whether the cell has data ``(B, N, C)`` bool, and the grid
            of cells.

        Raises:
            ValueError: If the patch is not a whole number of cells.
        """
        pixels = standardise(view['image'], view['wavelength'])
        cells = cut_view(pixels, view, token_m=token_m)
        y = self.basis(cells.pixels, cells.valid)  # (B, N, C, d)
        code = self.code(view['wavelength'], view['bandwidth'], view['gsd'])
        seen = cells.seen[..., None].expand(y.shape[:-1])
        return self.film(y, code), seen, cells.grid

    def forward(self, views: Sequence[SensorSample], *, token_m: float | None = None) -> Features:
        """Encode views of the same patches; see :meth:`SensorEncoder.forward`.

        Raises:
            ValueError: If the patch is not a whole number of tokens, or the views differ in it.
        """
        token_m = self.token_m if token_m is None else token_m
        tokens, seen, grids = zip(*(self.band_tokens(view, token_m=token_m) for view in views))
        if len(set(grids)) > 1:
            raise ValueError(f'views of one patch must share their ground, got token grids {grids}')
        bands, data = torch.cat(tokens, dim=2), torch.cat(seen, dim=2)
        valid = data.any(dim=-1)  # (B, N)
        positions = cell_centres(grids[0], token_m=token_m, device=valid.device)
        x, pooled = self.trunk(self.spectral(bands, data), valid, positions)
        return Features(x, pooled, grids[0], valid)


def anysensor_vit_tiny(*, token_m: float = 60.0, depth: int = 12) -> AnySensorViT:
    """Build the encoder with 192 features.

    Args:
        token_m: Width of a ground token in metres.
        depth: Number of transformer blocks.
    """
    return AnySensorViT(192, depth=depth, num_heads=3, band_dim=96, token_m=token_m)


def anysensor_vit_small(*, token_m: float = 60.0, depth: int = 12) -> AnySensorViT:
    """Build the encoder with 384 features.

    Args:
        token_m: Width of a ground token in metres.
        depth: Number of transformer blocks.
    """
    return AnySensorViT(384, depth=depth, num_heads=6, band_dim=128, token_m=token_m)


def anysensor_vit_base(*, token_m: float = 60.0, depth: int = 12) -> AnySensorViT:
    """Build the encoder with 768 features.

    Args:
        token_m: Width of a ground token in metres.
        depth: Number of transformer blocks.
    """
    return AnySensorViT(768, depth=depth, num_heads=12, band_dim=256, token_m=token_m)

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What the bands show at each pixel, for decoders that need more than a token for each cell.

Letters as in :mod:`torchgeo_anysensor.types`, and ``M`` fine cells, ``E`` features of each.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .ground import Cells
from .spectral import FiLM, SpectralAttention


class DetailBranch(nn.Module):
    """Joins the bands at each cell of a fine grid, without a look at its neighbours.

    One latent attends to the bands, once: a small :class:`~.spectral.SpectralAttention` on means of
    the pixels of each fine cell. It costs in proportion to the ground and to the bands, and nothing
    unless it is called.
    """

    def __init__(self, dim: int, *, code_dim: int) -> None:
        """Make the branch.

        Args:
            dim: Features ``E`` of a fine cell.
            code_dim: Length of the code of a band.
        """
        super().__init__()
        self.scale = nn.Parameter(torch.randn(dim))
        self.film = FiLM(dim, code_dim=code_dim)
        self.spectral = SpectralAttention(dim, out_dim=dim, latents=1, depth=1, heads=2)

    def forward(self, views: Sequence[tuple[Cells, Tensor]]) -> Tensor:
        """Join views.

        Args:
            views: Fine cells of each view, and the codes of its bands ``(C, code_dim)`` or
                ``(B, C, code_dim)``.

        Returns:
            ``(B, M, E)``; a learned vector where no view has data.
        """
        tokens, seen = [], []
        for cells, code in views:
            count = cells.valid.sum(dim=(-2, -1)).clamp(min=1).unsqueeze(-1)  # (B, M, 1)
            mean = cells.pixels.sum(dim=(-2, -1)) / count  # (B, M, C)
            tokens.append(self.film(mean[..., None] * self.scale, code))  # (B, M, C, E)
            seen.append(cells.seen[..., None].expand(mean.shape))
        joined: Tensor = self.spectral(torch.cat(tokens, dim=2), torch.cat(seen, dim=2))
        return joined

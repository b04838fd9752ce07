# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What the bands show at each pixel, for decoders that need more than a token for each cell.

Letters as in :mod:`torchgeo_anysensor.types`, and ``M`` fine cells, ``E`` features of each.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .ground import Cells
from .interpolation import SpectralJoin, join_wavelengths
from .spectral import FiLM


class DetailBranch(nn.Module):
    """Joins the bands at each cell of a fine grid, without a look at its neighbours.

    One latent attends to the bands, once: a small :class:`~.interpolation.SpectralJoin` on means of
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
        self.spectral = SpectralJoin(dim, out_dim=dim, plain_dim=1, latents=1, depth=1, heads=2)

    def forward(self, views: Sequence[tuple[Cells, Tensor, Tensor]]) -> Tensor:
        """Join views.

        Args:
            views: Fine cells of each view, the codes of its bands ``(C, code_dim)`` or
                ``(B, C, code_dim)``, and their wavelengths ``(C,)`` or ``(B, C)`` in micrometres.

        Returns:
            ``(B, M, E)``; a learned vector where no view has data.
        """
        means, tokens, seen = [], [], []
        for cells, code, _ in views:
            count = cells.valid.sum(dim=(-2, -1)).clamp(min=1).unsqueeze(-1)  # (B, M, 1)
            mean = cells.pixels.sum(dim=(-2, -1)).div(count).unsqueeze(-1)  # (B, M, C, 1)
            means.append(mean)
            tokens.append(self.film(mean * self.scale, code))  # (B, M, C, E)
            seen.append(cells.seen[..., None].expand(mean.shape[:-1]))
        wavelength = join_wavelengths([wave for *_, wave in views], means[0].shape[0])
        joined: Tensor = self.spectral(
            *(torch.cat(x, dim=2) for x in (means, tokens, seen)), wavelength
        )
        return joined

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""From the tokens of an encoder back to pixels, of any band on any grid.

Letters as in :mod:`torchgeo_anysensor.types`, and ``p`` pixels along the side of a token.
"""

from einops import rearrange
from torch import Tensor, nn

from .codes import BandCode
from .spectral import FiLM, SpatialBasis

#: Length of the code of a band.
CODE_DIM = 128


class BandRenderer(nn.Module):
    """Predicts what a band would show of each token's ground.

    A token is projected, told the band by its code, and read as weights of continuous kernels on
    the token's square. The kernels are integrated over the pixels that are asked for, so that any
    grid can be rendered: a coarse pixel is the mean of the fine ones in it.
    """

    def __init__(
        self, embed_dim: int, *, dim: int = 128, kernels: int = 64, order: int = 8
    ) -> None:
        """Make the renderer.

        Args:
            embed_dim: Length of a token.
            dim: Features that are told the band.
            kernels: Number of kernels.
            order: Cosines of a kernel along each axis.
        """
        super().__init__()
        self.band_code = BandCode(CODE_DIM)
        self.project = nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, dim))
        self.film = FiLM(dim, code_dim=CODE_DIM)
        self.mix = nn.Sequential(nn.GELU(), nn.Linear(dim, kernels + 1))
        self.basis = SpatialBasis(kernels, order=order)

    def forward(
        self, tokens: Tensor, wavelength: Tensor, bandwidth: Tensor, gsd: Tensor, *, pixels: int
    ) -> Tensor:
        """Render bands.

        Args:
            tokens: ``(B, N, D)``.
            wavelength: ``(C,)`` or ``(B, C)`` centre wavelengths in micrometres.
            bandwidth: Full widths at half maximum in micrometres.
            gsd: Native ground sample distances in metres.
            pixels: Pixels ``p`` along the side of a token.

        Returns:
            ``(B, N, C, p, p)`` in the unit of :func:`~.spectral.standardise`.
        """
        code = self.band_code(wavelength, bandwidth, gsd)
        x = self.project(tokens).unsqueeze(2)  # (B, N, 1, dim)
        x = self.mix(self.film(x.expand(-1, -1, code.shape[-2], -1), code))
        # The mean of the ground is a number of its own: kernels add what differs within the token
        mean, weights = x[..., :1], x[..., 1:]
        means = (
            self.basis.weights(pixels).flatten(-2) * pixels**2
        )  # (kernels, p p), one for a pixel
        means = means.to(weights.dtype) / means.shape[0]
        return rearrange(mean + weights @ means, 'b n c (i j) -> b n c i j', i=pixels)

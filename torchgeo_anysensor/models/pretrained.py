# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Encoders from checkpoints and folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from .base import SensorEncoder
from .canonical import CanonicalEncoder
from .codes import BandCode
from .description import build, without_weights
from .moments import EncoderMoments

#: Where a task keeps its encoder, and so how its weights are named in a checkpoint.
ENCODER_PREFIX = 'encoder.'
#: Where a task keeps what it saw sensors agree about.
MOMENTS_PREFIX = 'moments.'


def build_encoder(
    description: Mapping[str, Any], *, kind: type[nn.Module] = SensorEncoder
) -> SensorEncoder:
    """Build an encoder from its description.

    Args:
        description: ``class_path`` and ``init_args``.
        kind: Class that it must have.

    Returns:
        The encoder, with fresh weights.

    Raises:
        TypeError: If the class is of another kind; see :func:`~.description.build`.
        ValueError: If the class is not found in this package or in a module that is already
            imported (a checkpoint must not make Python import others).
    """
    return cast(SensorEncoder, build(description, kind, parts=(SensorEncoder, BandCode)))


def rebuild_encoder(
    description: Mapping[str, Any], *, source: str | Path, kind: type[nn.Module] = SensorEncoder
) -> SensorEncoder:
    """Build the encoder that a file describes, for the weights that the file holds.

    Args:
        description: See :func:`build_encoder`.
        source: What errors name.
        kind: Class that it must have.

    Returns:
        The encoder, with fresh weights.

    Raises:
        TypeError: As for :func:`build_encoder`.
        ValueError: As for :func:`build_encoder`.
    """
    try:
        return build_encoder(without_weights(description), kind=kind)
    except TypeError as error:
        raise TypeError(f'{source}: {error}') from error
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from error


def load_encoder(path: str | Path, *, canonical: bool = True) -> SensorEncoder:
    """Load the encoder out of a checkpoint that a task of this package wrote.

    Args:
        path: The ``.ckpt`` file, or a folder of :meth:`SensorEncoder.save_pretrained`.
        canonical: Of a cross-sensor pretraining, bring the features to what sensors agree about
            (:class:`CanonicalEncoder`); if not, they are as they were trained.

    Returns:
        The encoder with its weights, in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If what it describes is no encoder.
        ValueError: If the checkpoint holds no encoder, or its weights do not fit.
    """
    path = Path(path)
    if path.is_dir():
        return _as_asked(SensorEncoder.from_pretrained(path), canonical=canonical)
    if not path.is_file():
        raise FileNotFoundError(
            f'{path}: no such checkpoint. Pretrain first (torchgeo-anysensor fit --config '
            'conf/pretrain.yaml), or give the path of another one'
        )
    checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    description = checkpoint.get('hyper_parameters', {}).get('encoder')
    if not isinstance(description, Mapping) or 'class_path' not in description:
        raise ValueError(
            f'{path}: the checkpoint does not describe an encoder; '
            'expected one of CrossSensorContrastive or SegmentationProbe'
        )
    encoder = rebuild_encoder(description, source=path)
    weights = _under(ENCODER_PREFIX, checkpoint['state_dict'])
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f'{path}: the weights do not fit the encoder it describes: {error}'
        ) from None
    moments = _under(MOMENTS_PREFIX, checkpoint['state_dict'])
    if canonical and moments:
        encoder = _with_map(encoder, moments, path)
    encoder.run = checkpoint.get('run')
    return _as_asked(encoder.eval(), canonical=canonical)


def _with_map(encoder: SensorEncoder, moments: Mapping[str, Any], path: Path) -> SensorEncoder:
    """The encoder with its map to what sensors agree about, if a training saw any.

    Raises:
        ValueError: If the moments are of another version.
    """
    seen = EncoderMoments(encoder)
    try:
        seen.load_state_dict(moments)
    except RuntimeError as error:
        raise ValueError(
            f'{path}: its moments of what sensors agree about do not fit this version; pretrain again, '
            f'or load the encoder with canonical=False: {error}'
        ) from None
    return CanonicalEncoder(encoder).fit(seen) if int(seen.tokens.updates) else encoder


def _as_asked(encoder: SensorEncoder, *, canonical: bool) -> SensorEncoder:
    """The encoder, or the one inside of the map."""
    if canonical or not isinstance(encoder, CanonicalEncoder):
        return encoder
    inner: SensorEncoder = encoder.encoder
    inner.run = encoder.run
    return inner


def _under(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a state dict under a prefix, without it."""
    return {key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)}

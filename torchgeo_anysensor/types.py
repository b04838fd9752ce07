# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The samples that travel from the datasets to the encoders.

Letters in the shapes, here and in the whole package: ``B`` batch, ``C`` bands, ``H`` rows and ``W``
columns of a view, ``N`` ground tokens, ``D`` features of a token, ``K`` classes.
"""

from collections.abc import Mapping
from typing import NotRequired, TypedDict, cast

from torch import Tensor

#: Class of pixels that have no label; losses and metrics leave them out.
IGNORE_INDEX = 255

#: Facts of the bands of a view: kept once for a batch in which all samples agree on them.
BAND_FACTS = ('wavelength', 'bandwidth', 'gsd')

#: Bands with a longer wavelength, in micrometres, hold emitted light in kelvin.
THERMAL_FROM_UM = 3.0


class SensorSample(TypedDict):
    """One view: one acquisition, cut to one patch of ground, on one grid.

    It is a flat dictionary of tensors and so a valid TorchGeo sample. In a batch, the tensors that
    differ from sample to sample (``image``, ``valid``, ``t``, ``dx``, ``dy``, ``lon``, ``lat``,
    ``level``, ``bounds``, ``transform``) gain a leading batch dimension; the facts of the bands stay ``(C,)`` as long as
    all samples agree on them, and are ``(B, C)`` otherwise.
    """

    #: ``(C, H, W)`` float32: reflectance 0-1, or kelvin for thermal bands; 0 where not valid.
    image: Tensor
    #: ``(H, W)`` bool: all bands have data and the quality band calls the pixel good.
    valid: Tensor
    #: ``(C,)`` float32: centre wavelength in micrometres.
    wavelength: Tensor
    #: ``(C,)`` float32: full width at half maximum in micrometres.
    bandwidth: Tensor
    #: ``(C,)`` float32: native ground sample distance in metres.
    gsd: Tensor
    #: ``()`` float32: pixel size in metres of the grid that the view is delivered on.
    res: Tensor
    #: ``()`` float64: time of the acquisition in seconds since 1970-01-01 UTC.
    t: Tensor
    #: ``()`` float32: metres by which the view lies east of the patch (0 when grids agree).
    dx: Tensor
    #: ``()`` float32: metres by which the view lies north of the patch (0 when grids agree).
    dy: Tensor
    #: ``()`` float64: longitude of the centre of the view in degrees (WGS 84).
    lon: NotRequired[Tensor]
    #: ``()`` float64: its latitude.
    lat: NotRequired[Tensor]
    #: ``()`` float32: 0 for reflectance at the top of the atmosphere, 1 at the surface, NaN if not
    #: known.
    level: NotRequired[Tensor]
    #: ``(9,)`` float32: TorchGeo's own ``xmin, xmax, xres, ymin, ymax, yres, tmin, tmax, tres``.
    #: For display only: float32 cannot hold a northing to the centimetre.
    bounds: Tensor
    #: ``(9,)`` float32: TorchGeo's own affine transform. For display only, like ``bounds``.
    transform: Tensor


class MultiSensorSample(TypedDict):
    """Views of one patch of ground by several sensors.

    In a batch, a sensor's views hold only the samples in which it is present, and ``present`` says
    which these are.
    """

    #: One view for each native grid, finest first. An absent sensor is absent, never zeros.
    sensors: dict[str, tuple[SensorSample, ...]]
    #: ``(H, W)`` int64: class of each pixel of the label grid.
    mask: NotRequired[Tensor]
    #: ``(B,)`` bool for each sensor: the samples of the batch that the sensor saw.
    present: NotRequired[dict[str, Tensor]]


def take_bands(view: SensorSample, keep: Tensor) -> SensorSample:
    """Choose bands of a view, with their facts.

    Args:
        view: A view, batched or not.
        keep: ``(C,)`` bool.

    Returns:
        A new view; the given one is left as it is.
    """
    values = cast(Mapping[str, Tensor], view)
    chosen = keep.nonzero().squeeze(1).to(view['image'].device)
    taken = {fact: values[fact].index_select(-1, chosen) for fact in BAND_FACTS}
    taken['image'] = view['image'].index_select(-3, chosen)
    return cast(SensorSample, {**view, **taken})

# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Harmonized Landsat and Sentinel-2, version 2.0."""

import math

from ..sensors import get_sensor
from .index import Tile
from .sensor import SensorDataset

# The Level-1 products that HLS is made of name the platform
_CODES = {
    code: platform
    for level_1 in ('sentinel2_l1c', 'landsat_c2l1')
    for code, platform in get_sensor(level_1).platform_codes.items()
}


class _HLS(SensorDataset):
    """What S30 and L30 share: all metadata are in the tags of the files."""

    def _describe(self, tile: Tile) -> None:
        """Take platform and cloud cover from the tags, and check the scale that they tell.

        Raises:
            ValueError: If the date in the name is none.
        """
        super()._describe(tile)
        tile.baseline = '2.0'
        for tags in tile.tags.values():
            source = tags.get('PRODUCT_URI', tags.get('LANDSAT_PRODUCT_ID', ''))  # S30, L30
            tile.platform = tile.platform or _CODES.get(source.partition('_')[0], '')
            if 'cloud_coverage' in tags:
                tile.clear_fraction = 1 - float(tags['cloud_coverage']) / 100
        for band in self.sensor.bands:
            tags = tile.tags.get(band.name, {})
            scale = float(tags.get('scale_factor', band.scale))
            offset = float(tags.get('add_offset', band.offset))
            if not (math.isclose(scale, band.scale) and math.isclose(offset, band.offset)):
                tile.note = (
                    f'{band.name} says scale_factor={scale:g}, add_offset={offset:g}, and it is '
                    f'read with {band.scale:g} and {band.offset:g}, as the user guide has it'
                )

    def _pass(self, tile: Tile) -> str:
        """Tiles with one platform and sensing time."""
        return f'{self.sensor.name} {tile.platform} {tile.date}'


class HLSS30(_HLS):
    """HLS S30: Sentinel-2 at 30 m, masked by Fmask.

    Source: HLS User Guide, version 2.0, LP DAAC.
    """

    sensor = get_sensor('hls_s30')


class HLSL30(_HLS):
    """HLS L30: Landsat 8/9 at 30 m on the Sentinel-2 tiles, masked by Fmask.

    Its ``B05`` is near infrared; the ``B05`` of S30 is red edge.

    Source: HLS User Guide, version 2.0, LP DAAC.
    """

    sensor = get_sensor('hls_l30')

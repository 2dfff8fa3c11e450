# SPDX-License-Identifier: Apache-2.0
"""What a video stream says about its pictures, as raw code points that travel from decoder to encoder."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from crispstream.frame import ChromaSiting, ColorSpec, Frame, Matrix, Range

UNSPECIFIED = 2

# ITU-T H.273 MatrixCoefficients. FCC (4) and SMPTE 240M (7) differ from their neighbours in the third decimal.
_MATRIX = {
    1: Matrix.BT709,
    4: Matrix.BT601,
    5: Matrix.BT601,
    6: Matrix.BT601,
    7: Matrix.BT709,
    9: Matrix.BT2020,
    10: Matrix.BT2020,
}
_MATRIX_CODE = {Matrix.BT601: 6, Matrix.BT709: 1, Matrix.BT2020: 9}
_CENTERED = (2, 4, 6)  # FFmpeg's AVChromaLocation: center, top, bottom; the others lie on even columns


@dataclass(frozen=True, slots=True)
class VideoTags:
    """Code points of one video stream, exactly as they came; ``Frame.info["video_tags"]`` carries them.

    ``matrix``, ``primaries``, ``transfer``: ITU-T H.273, 2 = unspecified. ``range``: 0 unspecified, 1 limited, 2 full.
    ``chroma_location``: 0 unspecified, 1 left, 2 center, 3 top left, 4 top, 5 bottom left, 6 bottom.
    ``display_matrix``: the nine 16.16 and 2.30 fixed-point entries of ISO/IEC 14496-12 (rotation, mirroring).
    """

    matrix: int = UNSPECIFIED
    range: int = 0
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    chroma_location: int = 0
    sample_aspect_ratio: Fraction | None = None
    display_matrix: tuple[int, ...] | None = None

    def color(self, height: int) -> ColorSpec:
        """How to compute with the codes of a YUV frame of ``height`` rows.

        What is unspecified is taken as most players take it: matrix BT.709 from 720 rows up and BT.601 below, limited
        range, chroma on even columns. The tags themselves stay unspecified.
        """
        return ColorSpec(
            matrix=_MATRIX.get(self.matrix, Matrix.BT709 if height >= 720 else Matrix.BT601),
            range=Range.FULL if self.range == 2 else Range.LIMITED,
            siting=ChromaSiting.CENTER if self.chroma_location in _CENTERED else ChromaSiting.LEFT,
            primaries=self.primaries,
            transfer=self.transfer,
        )

    @classmethod
    def of(cls, frame: Frame) -> VideoTags:
        """The tags a frame carries, or those that its ColorSpec amounts to."""
        tags = frame.info.get("video_tags")
        if isinstance(tags, cls):
            return tags
        color = frame.color
        return cls(
            matrix=_MATRIX_CODE[color.matrix],
            range=2 if color.range is Range.FULL else 1,
            primaries=color.primaries,
            transfer=color.transfer,
            chroma_location=2 if color.siting is ChromaSiting.CENTER else 1,
        )

# SPDX-License-Identifier: Apache-2.0
"""Frames turned as their display matrix says, and padded to even sizes, for outputs that cannot hold either."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crispstream.frame import Frame, Plane
from crispstream.tags import VideoTags

# VideoTags.chroma_location as (column, row): 0 at the first luma sample of the pair, 1 between both, 2 at the second.
_PLACES = {1: (0, 1), 2: (1, 1), 3: (0, 0), 4: (1, 0), 5: (0, 2), 6: (1, 2)}
_LOCATION = {place: location for location, place in _PLACES.items()}


def upright(frame: Frame) -> Frame:
    """The frame as it is meant to be seen, without a display matrix (ISO/IEC 14496-12, 6.2.2).

    Quarter turns and mirrorings are applied to the pixels, the aspect ratio and the chroma siting; another matrix stays
    in the tags and the pixels stay as they are.
    """
    tags = frame.info.get("video_tags")
    if not isinstance(tags, VideoTags) or tags.display_matrix is None:
        return frame
    a, b, _, c, d, *_ = tags.display_matrix
    if a and d and not b and not c:
        turned, left, up = False, a < 0, d < 0
    elif b and c and not a and not d:
        turned, left, up = True, c < 0, b < 0
    else:
        return frame
    aspect, column, row = tags.sample_aspect_ratio, *_PLACES.get(tags.chroma_location, (0, 1))
    if turned:
        column, row = row, column
        aspect = 1 / aspect if aspect else None
    place = (2 - column if left else column, 2 - row if up else row)
    # A siting on the second column has no code point: what is unspecified is taken as the first.
    location = _LOCATION.get(place, 0) if tags.chroma_location else 0
    tags = replace(tags, display_matrix=None, sample_aspect_ratio=aspect, chroma_location=location)
    planes = tuple(_turn(plane, turned, left, up) for plane in frame.planes)
    return replace(frame, planes=planes, info={**frame.info, "video_tags": tags})


def even(frame: Frame) -> Frame:
    """The frame with its last column and row repeated where a size is odd; chroma of 4:2:0 covers them already."""
    more = (frame.height % 2, frame.width % 2)
    if not any(more):
        return frame
    first = np.pad(frame.planes[0], ((0, more[0]), (0, more[1]), (0, 0))[: frame.planes[0].ndim], mode="edge")
    return frame.with_planes((first, *frame.planes[1:]))


def _turn(plane: Plane, turned: bool, left: bool, up: bool) -> Plane:
    plane = plane.swapaxes(0, 1) if turned else plane
    return np.ascontiguousarray(plane[:: -1 if up else 1, :: -1 if left else 1])

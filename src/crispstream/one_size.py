# SPDX-License-Identifier: Apache-2.0
"""A source for an output that has one frame size."""

from __future__ import annotations

from collections.abc import Iterator

from crispstream.errors import EarlyEndError
from crispstream.frame import Frame
from crispstream.pipeline import Source


class OneSizeSource:
    """The frames of ``source`` up to the first one of another size, for which EarlyEndError is raised."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.total = source.total

    def __iter__(self) -> Iterator[Frame | None]:
        size: tuple[int, int] | None = None
        count = 0
        for frame in self._source:
            if frame is not None:
                if size is not None and (frame.width, frame.height) != size:
                    raise EarlyEndError(
                        f"frame {count + 1} is {frame.width}x{frame.height}, those before it are {size[0]}x{size[1]}: "
                        f"the output ends there and holds {count} frames",
                        "cut the input there, or write numbered pictures: out_%04d.png",
                    )
                size = (frame.width, frame.height)
                count += 1
            yield frame
            del frame

    def close(self) -> None:
        """Close the source."""
        self._source.close()

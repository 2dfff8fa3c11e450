# SPDX-License-Identifier: Apache-2.0
"""Raw frames through a pipe: ``... | python examples/ffmpeg_pipe.py 1280x720 | ...``, bgr24 in and out.

    ffmpeg -v error -i in.mp4 -f rawvideo -pix_fmt bgr24 - \
      | python examples/ffmpeg_pipe.py 1280x720 \
      | ffmpeg -v error -f rawvideo -pix_fmt bgr24 -s 1280x720 -r 25 -i - -pix_fmt yuv420p out.mp4
"""

import sys
from collections.abc import Iterator

import numpy as np

import crispstream


def frames(width: int, height: int) -> Iterator[crispstream.Frame]:
    """Frames from standard input until it ends; a cut-off last frame is left out."""
    size = width * height * 3
    while len(data := sys.stdin.buffer.read(size)) == size:
        yield crispstream.Frame.from_array(np.frombuffer(data, np.uint8).reshape(height, width, 3))


def main() -> None:
    """Restore every frame of the size given on the command line."""
    width, height = (int(n) for n in sys.argv[1].split("x"))
    with crispstream.Deblurrer("nano") as deblur:
        for frame in deblur.stream(frames(width, height)):
            sys.stdout.buffer.write(frame.planes[0].tobytes())


if __name__ == "__main__":
    main()

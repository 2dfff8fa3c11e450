# SPDX-License-Identifier: Apache-2.0
"""Many streams, one engine: every file has its own threads, and they take turns frame by frame.

    python examples/many_streams.py OUT_FOLDER a.mp4 b.mp4 c.mp4

Needs: pip install 'crispstream[live]'. For cameras, open the streams with ``crispstream.Policy.NEWEST``: who is too
fast then loses frames of its own. FFV1 loses nothing and is large.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2

import crispstream
from crispstream.pool import PoolStream


def feed(source: Path, stream: PoolStream) -> None:
    """Push every frame of a file; ``submit`` waits while too many of this stream wait."""
    capture = cv2.VideoCapture(str(source))
    try:
        if not capture.isOpened():
            raise FileNotFoundError(f"cannot open {source}")
        while (picture := capture.read())[0]:
            stream.submit(crispstream.Frame.from_array(picture[1]))
    finally:
        stream.finish()
        capture.release()


def write(stream: PoolStream, target: Path) -> str:
    """Write what comes out. Where that fails, leaving the stream lets its feeder go."""
    with stream:
        writer = None
        for frame in stream:
            if writer is None:
                size = (frame.width, frame.height)
                writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"FFV1"), 25, size)
                if not writer.isOpened():
                    raise OSError(f"cannot write {target}")
            writer.write(frame.planes[0])
        if writer is not None:
            writer.release()
    stats = stream.stats
    return f"{target.name}: {stats.frames_out} frames, {stats.latency_ms.get('p50', 0):.0f} ms from submit to result"


def main() -> None:
    """Two threads a file: one reads and pushes, one fetches and writes."""
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    folder, *sources = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    with crispstream.Deblurrer("nano") as deblur, crispstream.DeblurrerPool(deblur) as pool:
        with ThreadPoolExecutor(2 * len(sources)) as threads:
            streams = [pool.open_stream() for _ in sources]
            fed = [threads.submit(feed, source, stream) for source, stream in zip(sources, streams, strict=True)]
            targets = [folder / f"{source.stem}.mkv" for source in sources]
            for line in threads.map(write, streams, targets):
                print(line)
        for feeder in fed:
            feeder.result()


if __name__ == "__main__":
    main()

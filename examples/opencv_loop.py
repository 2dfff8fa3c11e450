# SPDX-License-Identifier: Apache-2.0
"""An OpenCV loop with one line more: a camera or a video file in, a video file out, until the end or Ctrl+C.

    python examples/opencv_loop.py 0 out.mkv
    python examples/opencv_loop.py in.mp4 out.mkv

0 is the first camera. FFV1 loses nothing and is large. Needs: pip install 'crispstream[live]'.
"""

import sys

import cv2

import crispstream


def main() -> None:
    """Restore picture after picture; a stream keeps the past, so that idle branches of the network are left out."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = sys.argv[1:]
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not capture.isOpened():
        sys.exit(f"cannot open {source}")
    size = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    writer = cv2.VideoWriter(target, cv2.VideoWriter.fourcc(*"FFV1"), capture.get(cv2.CAP_PROP_FPS) or 25, size)
    if not writer.isOpened():
        sys.exit(f"cannot write {target}")
    try:
        with crispstream.Deblurrer("nano") as deblur:
            stream = deblur.open_stream()
            while True:
                arrived, image = capture.read()
                if not arrived:
                    break
                writer.write(stream.process(crispstream.Frame.from_array(image)).planes[0])
    except KeyboardInterrupt:
        pass
    finally:
        capture.release()
        writer.release()


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""A video file into a video file: ``python examples/video_file.py in.mp4 out.mp4``."""

import sys

import crispstream


def main() -> None:
    """Restore the video; sound, timestamps and colour tags are kept."""
    report = crispstream.run(sys.argv[1], sys.argv[2], preset="nano", overwrite=True)
    print(f"{report.frames} frames, {report.fps:.1f} fps")


if __name__ == "__main__":
    main()

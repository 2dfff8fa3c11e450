# SPDX-License-Identifier: Apache-2.0
"""Small files of every kind that a user may bring, all written by ourselves: what the fuzzer begins with."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "media"))

from clips import pattern, write_clip

from crispstream import manifest, plan, quantised, record
from crispstream.plan import Gpu, PartPlan, Plan, Profile

ONE_THREAD = {"threads": "1"}
TURNED = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
GPU = Gpu("Orin", (8, 7), 8, 12060)
VERSION = "10.3.0"
TEXTS = {
    "list.mp4": "ffconcat version 1.0\nfile h264.mp4\ninpoint 0\nduration 1\n",
    "list.mkv": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nh264.ts\n#EXT-X-ENDLIST\n",
    "session.mov": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "words.avi": "1\n00:00:00,000 --> 00:00:01,000\nwords\n",
}


def films(folder: Path) -> None:
    """Write a film of three to five tiny frames in each container and codec, and texts that look like films."""
    exact = {"fflags": "bitexact"}
    same: dict[str, Any] = {"size": (32, 32), "frames": 4, "container": exact, "options": ONE_THREAD}
    write_clip(folder / "h264.mp4", **same, audio="aac", subtitles="mov_text", metadata={"title": "a film"})
    write_clip(
        folder / "part.mp4", **same | {"container": {**exact, "movflags": "frag_keyframe+empty_moov"}}, audio="aac"
    )
    write_clip(folder / "turned.mov", **same, codec="mpeg4", matrix=TURNED, aspect=Fraction(4, 3))
    write_clip(folder / "prores.mov", **same, codec="prores_ks", pixel_format="yuv422p10le", content=_deep)
    write_clip(folder / "h264.mkv", **same, audio="aac", subtitles="srt", attachment=True)
    write_clip(folder / "ten.mkv", **same, pixel_format="yuv420p10le", color=(9, 1, 9, 16), content=_deep)
    write_clip(folder / "ffv1.mkv", **same, codec="ffv1")
    write_clip(folder / "vp9.webm", **same, codec="libvpx-vp9")
    write_clip(folder / "vp8.webm", **same, codec="libvpx", time_base=Fraction(1, 1000), pts=[0, 40, 80, 120])
    write_clip(folder / "mpeg4.avi", **same, codec="mpeg4", time_base=Fraction(1, 25), pts=[0, 1, 2, 3], audio="mp3")
    write_clip(folder / "h264.ts", **same, audio="aac")
    write_clip(folder / "mpeg2.mpg", **same, codec="mpeg2video", time_base=Fraction(1, 25), pts=[0, 1, 2, 3])
    write_clip(folder / "mpeg2.mxf", **same, codec="mpeg2video", time_base=Fraction(1, 25), pts=[0, 1, 2, 3])
    write_clip(folder / "wmv2.wmv", **same, codec="wmv2", time_base=Fraction(1, 25), pts=[0, 1, 2, 3])
    write_clip(folder / "h264.flv", **same, time_base=Fraction(1, 1000), pts=[0, 40, 80, 120])
    write_clip(folder / "vp8.ogv", **same, codec="libvpx", time_base=Fraction(1, 25), pts=[0, 1, 2, 3])
    write_clip(folder / "nut.nut", **same, codec="mpeg4")
    write_clip(folder / "vp9.ivf", **same, codec="libvpx-vp9", time_base=Fraction(1, 25), pts=[0, 1, 2, 3])
    write_clip(folder / "hevc.mp4", **same | {"options": {"x265-params": "log-level=none:pools=1"}}, codec="libx265")
    _packed(folder / "raw.avi", "rawvideo", "bgr24")
    _packed(folder / "mjpeg.avi", "mjpeg", "yuvj420p")
    _packed(folder / "a.gif", "gif", "rgb8")
    _packed(folder / "a.apng", "apng", "rgba")
    for chroma, size in (("420jpeg", 384), ("422p10", 1024), ("mono", 256)):
        header = f"YUV4MPEG2 W16 H16 F25:1 Ip A1:1 C{chroma} XCOLORRANGE=FULL\n".encode()
        frames = b"".join(b"FRAME\n" + bytes([40 * i]) * size for i in range(3))
        (folder / f"{chroma}.y4m").write_bytes(header + frames)
    for name, text in TEXTS.items():
        (folder / name).write_text(text)


def pictures(folder: Path) -> None:
    """Write a tiny picture in each format and mode that is taken, and in some that are not."""
    samples = pattern(1, 3 * 24, 20).reshape(20, 24, 3)
    rgb = Image.fromarray(samples)
    exif = Image.Exif()
    exif[274], exif[271] = 6, "a camera"
    rgba, grey, palette = rgb.convert("RGBA"), rgb.convert("L"), rgb.quantize(16)
    rgb.save(folder / "rgb.png", exif=exif, icc_profile=b"not a profile" * 20, dpi=(72, 72))
    rgba.save(folder / "rgba.png")
    palette.save(folder / "palette.png", transparency=3)
    Image.fromarray(samples[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    rgb.save(folder / "moves.png", save_all=True, append_images=[rgb.rotate(90)])
    rgb.save(folder / "rgb.jpg", exif=exif, icc_profile=b"not a profile" * 20)
    grey.save(folder / "grey.jpg", progressive=True)
    rgb.convert("CMYK").save(folder / "cmyk.jpeg")
    rgb.save(folder / "pair.jpg", "MPO", save_all=True, append_images=[rgb.rotate(90)])
    rgb.save(folder / "rgb.webp", exif=exif.tobytes())
    rgba.save(folder / "rgba.webp", lossless=True)
    rgb.save(folder / "rgb.bmp")
    palette.save(folder / "palette.bmp")
    for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        (grey if name == "packbits" else rgb).save(folder / f"{name}.tif", compression=name, exif=exif)
    rgb.save(folder / "several.tiff", save_all=True, append_images=[rgb])
    rgb.save(folder / "gif.png", "GIF")


def notes(folder: Path) -> None:
    """Write an engine, and a cache beside it with plans and INT8 graphs of it that no library would take."""
    engine = folder / "engine"
    engine.mkdir()
    shipped = manifest.load("nano")
    for path in (shipped.folder / manifest.FILE_NAME, shipped.weights_path, *map(shipped.path, shipped.graphs)):
        shutil.copy(path, engine)
    made = manifest.load(engine)
    blobs = {part: b"plan of " + part.encode() for part in manifest.PARTS}
    profile = Profile((320, 192), (1280, 720), (1920, 1088))
    stored = Plan(
        folder=Path(),
        preset=made.preset,
        weights=made.weights.sha256,
        graphs=made.part_hashes,
        flavour="tensorrt",
        version=VERSION,
        gpu=GPU,
        capabilities=("sm87",),
        precision="float16",
        profile=profile,
        tensors={name: replace(t, dtype="float16", layout="LINEAR") for name, t in made.tensors.items()},
        flags=("STRONGLY_TYPED",),
        parts={p: PartPlan(f"{p}.plan", manifest.sha256(b), 1 << 30, 1.5) for p, b in blobs.items()},
    )
    replace(stored, folder=plan.folder_for(made, "tensorrt", VERSION, GPU, profile)).write(blobs)
    parts = {part: quantised.part_file(part, blob) for part, blob in blobs.items()}
    weights = made.weights.sha256
    figures = ({"frames": 2}, {"psnr": 40.0, "lost": {"sharp": 0.1}}, {"speedup": 2.0, "seconds": 0.1})
    quantised.Quantised(quantised.folder_for(made), made.preset, weights, parts, "1.20", "A CPU", *figures).write(blobs)
    (folder / "job").mkdir()
    (folder / "job" / "a.png").write_bytes(b"an output")
    record.JobRecord(folder / "job").add(folder / "job" / "a.png", "0" * 64, "1" * 64, True)
    (folder / "secret.txt").write_text("outside the engine\n")


def _deep(index: int, width: int, height: int) -> Any:
    """Rows of 16-bit samples of 10 bits, as bytes: ``width`` is that of the plane in samples."""
    return pattern(index, width, height) & 1


def _packed(path: Path, codec: str, pixel_format: str) -> None:
    with av.open(str(path), "w", container_options={"fflags": "bitexact"}) as output:
        stream: Any = output.add_stream(codec, rate=25, width=16, height=16, options=ONE_THREAD)
        stream.pix_fmt = pixel_format
        for index in range(3):
            samples = pattern(index, 48, 16).reshape(16, 16, 3)
            output.mux(stream.encode(VideoFrame.from_ndarray(samples, "rgb24").reformat(format=pixel_format)))
        output.mux(stream.encode(None))


WRITERS: dict[str, Callable[[Path], None]] = {"film": films, "picture": pictures, "note": notes}
"""What writes the seeds of each kind into an empty folder."""

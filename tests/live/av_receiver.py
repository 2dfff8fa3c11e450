# SPDX-License-Identifier: Apache-2.0
"""A receiver for pushed streams, by PyAV: ``av_receiver.py URL MUXER``; prints one JSON line for every frame.

RTMP: the server of one connection. Brightest column over four as in ``shots.shot``, so that frames can be told apart.
"""

import json
import sys
import time

import av
from av.video.frame import PictureType

url, muxer = sys.argv[1:]
options = {"listen": "1"} if url.startswith("rtmp") else {"timeout": "30000000"}
print("ready", flush=True)
with av.open(url, format=muxer, options={**options, "analyzeduration": "500000", "fpsprobesize": "2"}) as film:
    for frame in film.decode(video=0):
        about = {
            "seconds": float(frame.time),
            "now": time.monotonic(),
            "key": bool(frame.key_frame),
            "kind": PictureType(frame.pict_type).name,
            "size": [frame.width, frame.height],
            "number": int(frame.to_ndarray(format="gray")[10].argmax()) // 4,
            "color": [int(frame.colorspace), int(frame.color_range)],
            "codec": film.streams.video[0].codec_context.name,
        }
        print(json.dumps(about), flush=True)

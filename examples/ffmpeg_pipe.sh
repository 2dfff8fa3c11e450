#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# ffmpeg | crispstream | ffmpeg: whatever ffmpeg reads in, whatever it writes out, no file between.
#
#     examples/ffmpeg_pipe.sh in.mp4 out.mp4 -c:v libx264 -crf 18
#
# YUV4MPEG2 says size and rate in its header, so neither is given here. Sound comes from the input again.
# What follows OUT goes to the last ffmpeg.
set -euo pipefail
input=${1:?usage: ffmpeg_pipe.sh IN OUT [OPTIONS]} output=${2:?usage: ffmpeg_pipe.sh IN OUT [OPTIONS]}

ffmpeg -v error -nostdin -i "$input" -pix_fmt yuv420p -f yuv4mpegpipe - |
  crispstream run - - |
  ffmpeg -v error -y -f yuv4mpegpipe -i - -i "$input" -map 0:v -map '1:a?' -c:a copy "${@:3}" "$output"

# SPDX-License-Identifier: Apache-2.0
"""Command lines that people type, for the help of each verb: what it does, and the line."""

from __future__ import annotations

from collections.abc import Sequence

EXAMPLES: dict[str, Sequence[tuple[str, str]]] = {
    "run": (
        ("Sharpen a film; its sound, subtitles and chapters are kept", "crispstream run in.mp4 out.mp4"),
        ("See what would happen first", "crispstream run in.mp4 out.mkv --dry-run"),
        ("Try a few seconds of a long film", "crispstream run in.mp4 try.mp4 --start 1:02.5 --end 1:10"),
        ("Gently, and smaller", "crispstream run in.mp4 out.mp4 --strength 0.7 --encoder hevc --crf 24"),
        ("A photograph", "crispstream run photo.jpg sharp.jpg"),
        ("A folder; the same line again does only what is new", "crispstream run shots/ sharp/"),
    ),
    "live": (
        ("A camera, watched in a browser", "crispstream live 0 --preview 8080"),
        (
            "A network camera into films of ten minutes",
            "crispstream live rtsp://cam/1 --to cam-%H%M.mkv --segment 10min",
        ),
        (
            "From one server to another, and a picture every minute",
            "crispstream live rtsp://cam/1 --to rtsp://hub/sharp --to now.jpg --snapshot-every 1min",
        ),
        ("A GStreamer pipeline in a window", "crispstream live 'videotestsrc is-live=true ! videoconvert' --to window"),
    ),
    "compare": (
        ("Side by side", "crispstream compare in.mp4 out.mp4 both.mp4"),
        ("Left half before, right half after", "crispstream compare in.jpg out.jpg both.png --mode split"),
        ("How close to the truth", "crispstream compare blurred.mp4 out.mp4 --reference sharp.mp4 --json"),
    ),
    "demo": (
        ("See it work on a portrait (from scikit-image: pip install '.[demo]')", "crispstream demo"),
        ("With your own clip", "crispstream demo --input clip.mp4 --output demo-clip"),
    ),
    "build": (
        ("For the GPU of this machine", "crispstream build nano --size 1280x720"),
        ("For every size in a range", "crispstream build nano --dynamic 640x360:1280x720:1920x1080"),
        (
            "For a GPU that is not here",
            "crispstream build nano --size 1280x720 --backend tensorrt-rtx --target sm89",
        ),
        ("INT8 for this CPU", "crispstream build nano --backend onnxruntime-int8 --calibrate clip.mp4"),
    ),
    "engines": (("All presets, for a script", "crispstream engines --json"),),
    "verify": (
        ("On the CPU", "crispstream verify nano"),
        ("On the first GPU", "crispstream verify nano --device cuda --size 1920x1080"),
    ),
    "bench": (("At the size of your camera", "crispstream bench nano --size 1280x720 --frames 300"),),
    "doctor": (("What to type next on this machine", "crispstream doctor"),),
    "completion": (
        ("bash, from now on", "crispstream completion bash >> ~/.bashrc"),
        ("zsh, from now on (after compinit)", "crispstream completion zsh >> ~/.zshrc"),
        ("fish, from now on", "crispstream completion fish > ~/.config/fish/completions/crispstream.fish"),
    ),
}


def epilog(verb: str) -> str:
    """The end of a verb's help: its examples and where there is more. Typer leaves paragraphs after \\b as they are."""
    lines = [line for what, command in EXAMPLES[verb] for line in (f"  # {what}", f"  {command}")]
    more = "Exit codes and all that is common to the commands: crispstream --help"
    return "\n".join(["\b", "Examples:", *lines, "", more])

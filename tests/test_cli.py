# SPDX-License-Identifier: Apache-2.0
"""The command line: reports, one-line errors, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from crispstream import __version__, cli, doctor, files
from crispstream.report import RunReport

COMMANDS = ("run", "demo", "engines", "verify", "bench", "doctor")


class Outcome:
    """What one call of the command line printed and returned."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def data(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        value: dict[str, Any] = json.loads(self.out)
        return value

    def fails_with(self, code: int, text: str) -> None:
        """Holds that the failure is one line naming ``text``, and nothing else."""
        assert (self.code, self.out) == (code, ""), self.err
        assert self.err.startswith("crispstream: error: ") and self.err.count("\n") == 1, self.err
        assert text in self.err


class Call:
    """Calls ``main`` in this process: much faster than a new interpreter."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str | Path) -> Outcome:
        self._monkeypatch.setattr(sys, "argv", ["crispstream", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        out, err = self._capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return Outcome(exit_.value.code, out, err)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return Call(monkeypatch, capsys)


def write_clip(path: Path, frames: int, width: int = 64, height: int = 48) -> Path:
    """A clip of moving noise."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(noise, index, 1), format="bgr24")))
        container.mux(stream.encode())
    return path


def count_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_version(call: Call) -> None:
    outcome = call("--version")
    assert (outcome.code, outcome.out) == (0, f"crispstream {__version__}\n")


def test_help_names_commands_and_exit_codes(call: Call) -> None:
    """No arguments at all are a newcomer's: they get the help, too."""
    outcome = call()
    assert outcome.code == 0 and outcome.out == call("--help").out
    for word in (*COMMANDS, "Exit codes:", "130 interrupted"):
        assert word in outcome.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_json_and_debug(call: Call, command: str) -> None:
    outcome = call(command, "--help")
    assert outcome.code == 0 and "--json" in outcome.out and "--debug" in outcome.out


def test_a_wrong_option_points_at_the_help_of_its_command(call: Call) -> None:
    call("run", "--nonsense").fails_with(2, "see crispstream run --help")
    call("nonsense").fails_with(2, "see crispstream --help")


def test_a_demo_of_a_preset_that_is_not_there_promises_no_minute(call: Call) -> None:
    call("demo", "--preset", "nonsense").fails_with(2, "nonsense")


def test_exit_codes_are_documented() -> None:
    table = (Path(__file__).parents[1] / "docs" / "cli.md").read_text(encoding="utf-8")
    for code in (0, 1, 2, 3, 4, 5, 130, 141):
        assert f"| {code} |" in table and f"{code} " in cli.EPILOG


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["sharpen"], "sharpen"),
        (["run", "in.mp4"], "OUTPUT"),
        (["run", "in.mp4", "out.mp4", "--strengh", "1"], "--strengh"),
        (["run", "in.mp4", "out.mp4", "--engine-backend", "magic"], "onnxruntime"),
        (["run", "in.mp4", "out.mp4", "--strength", "9"], "--strength"),
        (["bench", "nano", "--size", "640"], "640x360"),
        (["bench", "nano", "--size", "32769x2"], "32768"),
        (["bench", ""], "unknown preset"),
        (["bench", "gigantic"], "gigantic"),
        (["verify", "gigantic"], "gigantic"),
    ],
)
def test_wrong_usage(call: Call, arguments: list[str], text: str) -> None:
    call(*arguments).fails_with(2, text)
    outcome = call(*arguments, "--json")
    assert outcome.code == 2
    assert text in outcome.data["error"]["message"] + outcome.data["error"]["hint"]
    assert outcome.data["error"]["exit_code"] == 2


def test_unknown_preset_of_run(call: Call, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", 2)
    call("run", clip, tmp_path / "out.mp4", "--preset", "gigantic").fails_with(2, "gigantic")
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_missing_input(call: Call, tmp_path: Path) -> None:
    call("run", tmp_path / "no.mp4", tmp_path / "out.mp4").fails_with(3, "no.mp4")
    outcome = call("run", tmp_path / "no.mp4", tmp_path / "out.mp4", "--json")
    assert outcome.data["error"]["exit_code"] == outcome.code == 3
    assert not list(tmp_path.iterdir())


def test_input_that_is_no_video(call: Call, tmp_path: Path) -> None:
    text = tmp_path / "in.mp4"
    text.write_text("this is not a film")
    call("run", text, tmp_path / "out.mp4", "--quiet").fails_with(3, "in.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_output_that_cannot_be_written(call: Call, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", 2)
    call("run", clip, tmp_path / "nowhere" / "out.mp4", "--quiet").fails_with(4, "nowhere")


def test_run_reports(call: Call, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", 7)
    outcome = call("run", clip, tmp_path / "out.mp4", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.data["frames"] == 7 == count_frames(tmp_path / "out.mp4")
    assert (outcome.data["width"], outcome.data["height"]) == (64, 48)
    call("run", clip, tmp_path / "out.mp4", "--quiet").fails_with(4, "--overwrite")
    again = call("run", clip, tmp_path / "out.mp4", "--quiet", "--overwrite")
    assert (again.code, again.out, again.err) == (0, "", "")


# The command, whose sink waits with its 20th frame until the signal has come: nothing hurries it before.
UNTIL_A_SIGNAL = """
import sys, time
from crispstream import cli
from crispstream.sinks.video import VideoSink

write, frames, hurried = VideoSink.write, [], []

def wait(self, frame):
    write(self, frame)
    frames.append(frame.pts)
    if len(frames) == 20:
        print("now", file=sys.stderr, flush=True)
        late = time.monotonic() + 120
        while not hurried and time.monotonic() < late:
            time.sleep(0.01)

VideoSink.write, VideoSink.hurry = wait, lambda self: hurried.append(True)
cli.main()
"""


def test_interrupt_leaves_a_file_that_plays(tmp_path: Path) -> None:
    """Ctrl-C in the middle: exit code 130, the frames finished so far, nothing half written."""
    clip = write_clip(tmp_path / "in.mp4", 100, 320, 240)
    command = [sys.executable, "-c", UNTIL_A_SIGNAL, "run", clip, tmp_path / "out.mp4", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and process.stderr.readline() == "now\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    report = json.loads(out)
    assert process.returncode == 130 and report["interrupted"] is True
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]
    assert 20 <= count_frames(tmp_path / "out.mp4") == report["frames"] < 100


def test_interrupted_while_it_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "crispstream", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "crispstream: error: interrupted\n")


def test_interrupted_elsewhere(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> list[doctor.Check]:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "diagnose", interrupt)
    call("doctor").fails_with(130, "interrupted")
    assert call("doctor", "--json").data["error"]["exit_code"] == 130


def test_unexpected_failure(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[doctor.Check]:
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr(doctor, "diagnose", fail)
    call("doctor").fails_with(1, "ZeroDivisionError: a b (run again with --debug for the traceback)")
    outcome = call("doctor", "--debug")
    assert outcome.code == 1 and "Traceback" in outcome.err
    assert call("doctor", "--json").data["error"]["message"] == "ZeroDivisionError: a\nb"


def test_no_password_in_an_unexpected_failure(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[doctor.Check]:
        raise ZeroDivisionError("rtsp://me:s3cr3t@camera/1")

    monkeypatch.setattr(doctor, "diagnose", fail)
    for options in ((), ("--debug",), ("--json",)):
        outcome = call("doctor", *options)
        said = outcome.out + outcome.err
        assert outcome.code == 1 and "s3cr3t" not in said and "rtsp://" in said


def test_a_file_name_that_no_encoding_can_say(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", 2).rename(tmp_path / "caf\udce9.mp4")
    done = subprocess.run(
        [sys.executable, "-m", "crispstream.cli", "run", clip, tmp_path / "out\udce9.mp4"],
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert rb"out\udce9.mp4: 2 frames" in done.stdout and b"Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["engines"], ["--version"], ["--help"], ["doctor", "--json"]])
def test_output_that_nobody_can_store(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "crispstream.cli", *arguments]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 4, done.stderr
    assert done.stderr == "crispstream: error: cannot write to standard output: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_the_exit_code_survives_where_no_error_can_be_told() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "crispstream.cli", "sharpen", "--json"], stdout=full, stderr=full)
    assert done.returncode == 2


def test_doctor_finds_the_default_path(call: Call) -> None:
    outcome = call("doctor", "--json")
    checks = {check["name"]: check for check in outcome.data["checks"]}
    assert outcome.code == 0 and outcome.data["healthy"] is True
    assert checks["pixel kernels"]["detail"].startswith("ABI ")
    for check in checks.values():
        assert check["status"] == "ok" or check["hint"] or check["name"] == "NVIDIA GPU"
    assert "The default path works." in call("doctor").out


def test_doctor_says_what_is_broken(tmp_path: Path) -> None:
    """In a process of its own: the library is loaded once."""
    done = subprocess.run(
        [sys.executable, "-m", "crispstream.cli", "doctor", "--json"],
        env={**os.environ, "CRISPSTREAM_LIBRARY_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    broken = [c["name"] for c in json.loads(done.stdout)["checks"] if c["status"] == "broken"]
    assert done.returncode == 5 and broken == ["pixel kernels"]


def test_engines(call: Call) -> None:
    outcome = call("engines", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.data["presets"]["nano"]["shipped"] is True
    lines = call("engines").out.splitlines()
    assert lines[0].startswith("nano: shipped") and max(map(len, lines)) <= 120
    for name in (
        "real_pairs",
        "davis",
        "temporal_240fps",
        "float32_error",
        "runtime_codes, bgr24",
        "failures, 30 px of motion",
    ):
        assert [line for line in lines if line.startswith(f"    {name}: ")], name


def test_verify_names_the_extra_that_is_missing(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("crispstream.export.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    call("verify", "nano").fails_with(5, "pip install 'crispstream[export]'")


def test_bench(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # without INT8 graphs
    outcome = call("bench", "nano", "--size", "64x48", "--frames", "6", "--threads", "1", "--json")
    assert outcome.code == 0, outcome.err
    data = outcome.data
    assert data["engine"] == "onnxruntime"
    assert data["fps_engine"] > 0 and data["fps_end_to_end"] > 0 and data["fps_end_to_end_i420"] > 0
    assert set(data["stages_ms"]) == {"unpack", "encoder", "foreground", "background", "blend"}
    assert 0 < data["latency_ms"]["p50"] <= data["latency_ms"]["p95"] <= data["latency_ms"]["p99"]
    assert data["machine"]["threads"] == 1


@pytest.mark.parametrize(("frames", "line"), [(7, "interrupted: the output ends here"), (0, "nothing was written")])
def test_an_interrupted_run_says_so(call: Call, monkeypatch: pytest.MonkeyPatch, frames: int, line: str) -> None:
    report = RunReport("in.mp4", "out.mp4", frames, 1.0, float(frames), 64, 48, {}, "h264", interrupted=True)
    monkeypatch.setattr(files, "run", lambda *_, **__: report)
    outcome = call("run", "in.mp4", "out.mp4")
    assert outcome.code == 130 and line in outcome.out.splitlines()[-1]

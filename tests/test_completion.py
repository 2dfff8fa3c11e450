# SPDX-License-Identifier: Apache-2.0
"""What a shell gets at the Tab key, and the examples in the help."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from crispstream import cli
from crispstream.commands.examples import EXAMPLES

SHELLS = ("bash", "zsh", "fish")


def ask(**variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "crispstream.cli"]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)


def script(shell: str) -> str:
    command = [sys.executable, "-m", "crispstream.cli", "completion", shell]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("crispstream ", {"run", "compare", "completion", "doctor"}),
        ("crispstream co", {"compare", "completion"}),
        ("crispstream run --dry", {"--dry-run"}),
        ("crispstream compare a b c --mode s", {"side-by-side", "split"}),
        ("crispstream bench na", {"nano"}),
        ("crispstream run --preset ", {"nano", "small", "base"}),
    ],
)
def test_every_shell_gets_the_words(line: str, expected: set[str]) -> None:
    words = line.split(" ")
    for_bash = ask(_CRISPSTREAM_COMPLETE="complete_bash", COMP_WORDS="\n".join(words), COMP_CWORD=str(len(words) - 1))
    assert expected <= set(for_bash.stdout.split()), for_bash.stderr
    for_zsh = ask(_CRISPSTREAM_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line)
    fish = {"_CRISPSTREAM_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": line}
    for_fish = ask(**fish, _TYPER_COMPLETE_FISH_ACTION="get-args")
    for word in expected:
        assert f'"{word}"' in for_zsh.stdout and word in for_fish.stdout
    assert ask(**fish, _TYPER_COMPLETE_FISH_ACTION="is-args").returncode == 0


def test_file_names_are_left_to_the_shell() -> None:
    assert ask(_CRISPSTREAM_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="crispstream run in").stdout == "_files\n"
    fish = ask(
        _CRISPSTREAM_COMPLETE="complete_fish",
        _TYPER_COMPLETE_ARGS="crispstream run in",
        _TYPER_COMPLETE_FISH_ACTION="is-args",
    )
    assert fish.returncode == 1


@pytest.mark.parametrize("shell", SHELLS)
def test_the_scripts_are_what_that_shell_reads(shell: str, tmp_path: Path) -> None:
    text = script(shell)
    assert text.count("_CRISPSTREAM_COMPLETE=complete_" + shell) >= 1
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(text)
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


@pytest.fixture
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Our script for the shell of that name in a file, and an environment in which ``crispstream`` is on the PATH."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    program = tmp_path / "bin" / "crispstream"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m crispstream.cli "$@"\n')
    program.chmod(0o755)
    (tmp_path / "script").write_text(script(request.param))
    (tmp_path / "film one.mp4").touch()
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    yield tmp_path / "script", {**os.environ, "PATH": path, "HOME": str(tmp_path), "TERM": "xterm"}


@pytest.mark.parametrize("shell", ["bash"], indirect=True)
def test_bash_completes(shell: tuple[Path, dict[str, str]]) -> None:
    path, environment = shell
    code = f"""source {path}
        COMP_WORDS=(crispstream run --sta) COMP_CWORD=2
        _crispstream_completion crispstream && printf '%s|' "${{COMPREPLY[@]}}"
        complete -p crispstream"""
    done = subprocess.run(["bash", "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("--start|") and "-o default -F _crispstream_completion" in done.stdout, done.stderr


TYPED = [
    ("crispstream ru", "crispstream run "),
    ("crispstream run --sta", "crispstream run --start "),
    ("crispstream bench na", "crispstream bench nano "),
    ("crispstream run fi", "crispstream run film\\ one.mp4 "),
]


@pytest.mark.parametrize("shell", ["zsh"], indirect=True)
def test_zsh_completes(shell: tuple[Path, dict[str, str]]) -> None:
    """In a terminal, as a user sees it."""
    path, environment = shell
    # A prompt of its own for each line: what zsh has still to draw of the line before is not mistaken for it.
    prompt = "setopt promptsubst\nprecmd() { ((++line)) }\nPROMPT='ready $line> '\n"
    start = f"{prompt}autoload -Uz compinit && compinit -u -D\nsource {path}\n"
    (path.parent / ".zshrc").write_text(start)
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(path.parent)
        os.execvpe("zsh", ["zsh", "-i"], {**environment, "ZDOTDIR": str(path.parent)})
    try:
        for line, (typed, expected) in enumerate(TYPED, 1):
            shown(terminal, f"ready {line}> ")
            os.write(terminal, typed.encode() + b"\t")
            shown(terminal, expected)
            os.write(terminal, b"\x15\r")  # Ctrl-U: an empty line again, and Enter
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)


def shown(terminal: int, expected: str) -> None:
    """Read what the terminal shows until ``expected`` is there."""
    text, patience = "", time.monotonic() + 60
    while expected not in text:
        assert time.monotonic() < patience, repr(text)
        if select.select([terminal], [], [], 0.5)[0]:
            text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]", "", text + os.read(terminal, 4096).decode())


@pytest.mark.parametrize("shell", ["fish"], indirect=True)
def test_fish_completes(shell: tuple[Path, dict[str, str]]) -> None:
    path, environment = shell
    for typed, expected in [*TYPED, ("crispstream compare a b c --mode s", "crispstream compare a b c --mode split")]:
        code = f"source {path}; complete -C {shlex.quote(typed)}"
        done = subprocess.run(["fish", "-c", code], env=environment, cwd=path.parent, capture_output=True, text=True)
        words = [line.partition("\t")[0] for line in done.stdout.splitlines()]
        assert shlex.split(expected)[-1] in words and not done.stderr


def test_every_verb_has_help_with_examples_that_parse() -> None:
    group = typer.main.get_command(cli.app)
    assert set(EXAMPLES) == set(group.commands)
    for verb, examples in EXAMPLES.items():
        command = group.commands[verb]
        assert command.help and command.epilog and examples
        for _, line in examples:
            assert line in command.epilog
            program, name, *arguments = shlex.split(line.partition(" >")[0])
            assert (program, name) == ("crispstream", verb)
            command.make_context(name, arguments)


def test_every_option_and_argument_is_explained() -> None:
    group = typer.main.get_command(cli.app)
    for verb, command in group.commands.items():
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{verb} {parameter.name}"

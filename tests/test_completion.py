# SPDX-License-Identifier: Apache-2.0
"""What a shell gets at the Tab key, and the examples in the help."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
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


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes(tmp_path: Path) -> None:
    """The script itself, in a shell in which ``crispstream`` is on the PATH."""
    program = tmp_path / "crispstream"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m crispstream.cli "$@"\n')
    program.chmod(0o755)
    code = f"""{script("bash")}
        COMP_WORDS=(crispstream run --sta) COMP_CWORD=2
        _crispstream_completion crispstream && printf '%s|' "${{COMPREPLY[@]}}"
        complete -p crispstream"""
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", code], env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.stdout.startswith("--start|") and "-o default -F _crispstream_completion" in done.stdout, done.stderr


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

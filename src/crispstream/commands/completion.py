# SPDX-License-Identifier: Apache-2.0
"""`crispstream completion`: commands, options and presets on the Tab key."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from crispstream.commands.common import Debug, Json, Report

VARIABLE = "_CRISPSTREAM_COMPLETE"
"""Set by the scripts: Typer then answers with completions instead of running a command."""

# Each hands Typer the line so far in the way that it reads for that shell, and falls back to file names.
_BASH = """_crispstream_completion() {
    local IFS=$'\\n'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _CRISPSTREAM_COMPLETE=complete_bash "$1" ) )
}
complete -o default -F _crispstream_completion crispstream"""
_ZSH = """#compdef crispstream
_crispstream_completion() {
    eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _CRISPSTREAM_COMPLETE=complete_zsh crispstream)
}
compdef _crispstream_completion crispstream"""
_ASK_FISH = (
    "env _CRISPSTREAM_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION={} _TYPER_COMPLETE_ARGS=(commandline -cp)"
    " crispstream"
)
_FISH = (
    f'complete --command crispstream --no-files --arguments "({_ASK_FISH.format("get-args")})"'
    f' --condition "{_ASK_FISH.format("is-args")}"'
)
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
    as_json: Json = False,
    debug: Debug = False,
) -> Report:
    """Print the script that lets a shell complete commands, options and presets.

    It asks crispstream itself at every Tab, so it need not be renewed with a new version.
    """
    return Report({"shell": shell, "script": _SCRIPTS[shell]}, _SCRIPTS[shell])

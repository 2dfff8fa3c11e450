# SPDX-License-Identifier: Apache-2.0
"""The command line. A command returns a ``Report``; ``main`` prints it and turns failures into one line each."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import traceback
import warnings
from typing import Annotated, TextIO

import typer
from typer.completion import completion_init  # type: ignore[attr-defined]  # imported there, not in its __all__

from crispstream import __version__
from crispstream.commands.build import build
from crispstream.commands.common import INTERRUPTED, Report
from crispstream.commands.compare import compare
from crispstream.commands.completion import VARIABLE, completion
from crispstream.commands.demo import demo
from crispstream.commands.doctor import doctor
from crispstream.commands.examples import epilog
from crispstream.commands.live import live
from crispstream.commands.presets import bench, engines, verify
from crispstream.commands.run import run
from crispstream.errors import ClosedPipeError, CrispStreamError, OutputError

EPILOG = """Exit codes: 0 done; 1 unexpected failure; 2 wrong usage; 3 the input is missing or unreadable; 4 the output
cannot be written; 5 an engine is missing, damaged or does not fit; 130 interrupted; 141 nobody reads
standard output."""


app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Remove motion blur from video, people and background each in their own way.",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        raise typer.Exit(_print(f"crispstream {__version__}"))


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Version.")] = False,
) -> None:
    pass


for command in (run, live, compare, demo, engines, verify, bench, build, doctor, completion):
    app.command(epilog=epilog(command.__name__))(command)


def main() -> None:
    """Run the command line; what ``crispstream`` on the PATH calls. Always raises SystemExit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name may hold bytes that no encoding can say
            stream.reconfigure(errors="backslashreplace")
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was begun is cleared up, as after Ctrl-C
    quiet_libraries()
    if VARIABLE in os.environ:  # a shell asks
        completion_init()
    arguments = sys.argv[1:] or ["--help"]
    as_json = "--json" in arguments
    try:
        result = app(args=arguments, prog_name="crispstream", standalone_mode=False)
    except ClosedPipeError as error:
        sys.exit(error.exit_code)  # like a program that SIGPIPE ends: nothing is said
    except CrispStreamError as error:
        sys.exit(_fail(str(error), error.hint, error.exit_code, as_json))
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "crispstream"
        sys.exit(_fail(error.format_message(), f"see {command} --help", error.exit_code, as_json))
    except Exception as error:
        hint = "run again with --debug for the traceback"
        # The help is printed in there: what standard output would not take is still in its buffer.
        sys.exit(_print("") or _fail(f"{type(error).__name__}: {error}", hint, 1, as_json))
    if isinstance(result, Report):
        output = json.dumps(result.data, indent=2, default=str) if as_json else result.text
        sys.exit(_print(output) or result.exit_code)
    if result == INTERRUPTED:
        _fail("interrupted", "", INTERRUPTED, as_json)
    sys.exit(result or 0)


def quiet_libraries() -> None:
    """Keep what Pillow says about its own insides, in several lines, off standard error."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger("PIL").addHandler(logging.NullHandler())


def _print(text: str) -> int:
    """Print ``text`` on standard output; the exit code: OutputError's where it takes no more."""
    error = _write(text, sys.stdout)
    if error is None or isinstance(error, BrokenPipeError):  # whoever read the pipe has seen enough
        return 0
    return _fail(f"cannot write to standard output: {error.strerror}", "", OutputError.exit_code, as_json=False)


def _write(text: str, stream: TextIO) -> OSError | None:
    """Write ``text`` as a line, if there is any, and what the stream holds back; the error that stopped it."""
    try:
        print(text, end="\n" if text else "", file=stream, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # the interpreter's last flush must not complain
        return error
    return None


def _fail(message: str, hint: str, code: int, as_json: bool) -> int:
    """Say what failed, in one line or as JSON; returns the exit code."""
    from crispstream.live.addresses import masked  # an error that nobody foresaw may hold the address of a camera

    message = masked(message)
    if "--debug" in sys.argv and sys.exc_info()[0] is not None:
        _write("\n".join(map(masked, traceback.format_exc().splitlines())), sys.stderr)
    if as_json:
        _print(json.dumps({"error": {"message": message, "hint": hint, "exit_code": code}}))
    line = f"crispstream: error: {message}" + (f" ({hint})" if hint else "")
    _write(" ".join(line.split()), sys.stderr)
    return code


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""A process for each attempt, with limits on time, memory and disk: whatever happens there is an outcome here."""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

MEMORY = 3 << 29
"""Bytes of address space beyond those of the process that is forked."""
LARGEST_FILE = 1 << 28


def attempt(action: Callable[[], Any], folder: Path, seconds: float) -> dict[str, Any]:
    """What ``action()`` returns, called in a process of its own, or what became of it instead.

    "end": "returned" with "value", "raised" with "error" and "trace", "signal" with "number", or "hang". "printed":
    what came out of standard output and error, Python's stack included where it ended by a signal. ``folder`` is its
    working directory and its home.
    """
    log = folder.with_name(folder.name + ".log")
    log.touch()  # the process may not get that far
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _work(action, folder, log, writer, seconds)
    os.close(writer)
    data = b""
    late = monotonic() + seconds
    while (left := late - monotonic()) > 0:
        if select.select([reader], [], [], left)[0]:
            piece = os.read(reader, 1 << 16)
            if not piece:
                break
            data += piece
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    printed = log.read_text("utf-8", "backslashreplace")
    log.unlink()
    if left <= 0:
        return {"end": "hang", "printed": printed}
    if status or not data:
        return {"end": "signal", "number": -status, "printed": printed}
    return {**json.loads(data), "printed": printed}


def _work(action: Callable[[], Any], folder: Path, log: Path, writer: int, seconds: float) -> None:
    """Never returns."""
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.dup2(output, 1)
        os.dup2(output, 2)
        faulthandler.enable(output)
        faulthandler.dump_traceback_later(seconds * 0.9, file=output)
        os.chdir(folder)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            result = {"end": "returned", "value": action()}
        except BaseException as error:
            trace = [f"{Path(f.filename).name}:{f.name}" for f in traceback.extract_tb(error.__traceback__)]
            result = {"end": "raised", "error": f"{type(error).__name__}: {error}"[:2000], "trace": trace}
        faulthandler.cancel_dump_traceback_later()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        data = json.dumps(result).encode()
        while data:
            data = data[os.write(writer, data) :]
    finally:
        os._exit(0)

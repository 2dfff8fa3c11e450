# SPDX-License-Identifier: Apache-2.0
"""A folder of pictures and videos into a folder, one after the other, and again only what has changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from crispstream import files, manifest
from crispstream.cut import Cut
from crispstream.ends import PIPE
from crispstream.errors import CrispStreamError, EarlyEndError, InputError, OutputError, UsageError
from crispstream.lock import OutputLock
from crispstream.record import JobRecord, hash_file, hash_settings
from crispstream.report import RunReport
from crispstream.sinks.encoders import choose
from crispstream.sinks.partial import sweep
from crispstream.sources.pictures import PICTURE_SUFFIXES
from crispstream.sources.video import VIDEO_SUFFIXES

_NOT_IN_THE_RESULT = ("device", "threads")
_FOR_VIDEOS = ("start", "end")


@dataclass(frozen=True, slots=True)
class Task:
    """A file of the folder and its ``state``.

    "new"; "changed": ours, to be made again; "replaced": not ours, but --overwrite says so; "unchanged": nothing to do;
    "refused": an output that is not ours is in the way; "unreadable". ``digest``: of the input.
    """

    source: Path
    target: Path
    state: str
    digest: str = ""

    @property
    def is_video(self) -> bool:
        """Whether it is named like one."""
        return self.source.suffix.lower() in VIDEO_SUFFIXES

    @property
    def is_work(self) -> bool:
        """Whether the network has to see it."""
        return self.state in ("new", "changed", "replaced")


@dataclass(slots=True)
class JobReport:
    """What a job did. ``unchanged``: names of inputs that were finished before; ``failed``: (name, reason) of the
    others that are not; ``files``: the run of each that was done. ``exit_code`` is that of the first failure."""

    input: str
    output: str
    files: list[RunReport] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    exit_code: int = 0
    interrupted: bool = False
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return {**asdict(self), "frames": sum(report.frames for report in self.files)}

    def fail(self, task: Task, error: Exception) -> None:
        """Note what one file failed with; the others go on."""
        if isinstance(error, CrispStreamError):
            reason, code = f"{error}" + (f" ({error.hint})" if error.hint else ""), error.exit_code
        else:
            reason, code = f"{type(error).__name__}: {error}", 1
        self.failed.append((task.source.name, reason))
        self.exit_code = self.exit_code or code


class FolderJob:
    """The pictures and videos of ``src`` (not of folders in it), each to a file of the same name in ``dst``; videos
    whose container nothing writes get ".mkv" added.

    ``settings`` are those of ``files.run`` that change the result ("start" and "end" are for the videos, pictures are
    taken whole), ``options`` those of the Deblurrer. What a file was made from is recorded in ``dst``. Raises
    UsageError, InputError and EngineError for what concerns all files.
    """

    def __init__(
        self, src: Path, dst: Path, settings: dict[str, Any], options: dict[str, Any], overwrite: bool = False
    ) -> None:
        files.check_input(src)
        files.check_name(dst, OutputError)
        if dst == PIPE:
            raise UsageError(f"{src} is a folder, - is a pipe", "give a folder as output")
        if (dst.exists() and not dst.is_dir()) or (dst.suffix and not dst.exists()):
            raise UsageError(f"{src} is a folder, {dst} is a file name", "give a folder as output")
        if dst.exists() and os.path.samefile(src, dst):
            raise UsageError("the output is the input", "choose another folder")
        self._src, self._dst = src, dst
        self._settings, self._options, self._overwrite = settings, options, overwrite
        self._targets = _targets(src, dst)
        cut = Cut.between(settings.get("start"), settings.get("end"))
        if cut != Cut() and not any(source.suffix.lower() in VIDEO_SUFFIXES for source in self._targets):
            raise UsageError(f"{src} holds no video", "--start and --end are for videos")
        weights = manifest.load(options.get("preset", "nano")).weights.sha256
        lasting = {key: value for key, value in options.items() if key not in _NOT_IN_THE_RESULT}
        self._hash = hash_settings({**settings, **lasting, "weights": weights})

    def __len__(self) -> int:
        return len(self._targets)

    def tasks(self) -> Iterator[Task]:
        """What is to be done with each file; reads it whole, changes nothing."""
        record = JobRecord(self._dst)
        for source, target in self._targets.items():
            try:
                digest = hash_file(source)
            except OSError:
                yield Task(source, target, "unreadable")
                continue
            if record.is_finished(target, digest, self._hash):
                state = "unchanged"
            elif not os.path.lexists(target):
                state = "new"
            elif record.is_ours(target):
                state = "changed"
            else:
                state = "replaced" if self._overwrite else "refused"
            yield Task(source, target, state, digest)

    def plan(self) -> list[Task]:
        """All ``tasks``; the engine is opened and closed where one needs it. Raises UsageError and EngineError."""
        tasks = list(self.tasks())
        if any(task.is_work for task in tasks):
            with files.open_deblurrer(None, self._options):
                pass
        return tasks

    def run(self, progress: bool = False) -> JobReport:
        """Do what is to be done. A file that fails is noted and the next one taken; Ctrl-C ends with the file at hand.

        Raises OutputError when the folder or its record cannot be written or another job writes there, EngineError
        when no engine opens.
        """
        report = JobReport(str(self._src), str(self._dst))
        started = perf_counter()
        with ExitStack() as cleanup:
            cleanup.callback(OutputLock(self._dst).release)
            files.make_folder(self._dst, cleanup)
            sweep(self._dst)
            record = JobRecord(self._dst)
            deblurrer: files.FrameDeblurrer | None = None
            for number, task in enumerate(self.tasks(), 1):
                if task.state == "unchanged":
                    report.unchanged.append(task.source.name)
                    continue
                if progress:
                    print(f"{number}/{len(self)} {task.source.name}", file=sys.stderr, flush=True)
                if deblurrer is None and task.is_work:
                    deblurrer = cleanup.enter_context(files.open_deblurrer(None, self._options))
                try:
                    done = self._do(task, deblurrer, progress)
                except EarlyEndError as error:
                    # The film before the change of size lies there and is ours, but not all of the input is in it.
                    record.add(task.target, task.digest, self._hash, complete=False)
                    report.fail(task, error)
                    continue
                except Exception as error:
                    report.fail(task, error)
                    continue
                report.files.append(done)
                if done.frames:
                    record.add(task.target, task.digest, self._hash, complete=not done.interrupted)
                if done.interrupted:
                    report.interrupted = True
                    break
        report.seconds = perf_counter() - started
        return report

    def _do(self, task: Task, deblurrer: files.FrameDeblurrer | None, progress: bool) -> RunReport:
        if task.state == "refused":
            raise OutputError(f"{task.target} exists and is not from this job", "use --overwrite to replace it")
        if task.state == "unreadable":
            raise InputError(f"{task.source} may not be read", "check its permissions")
        settings = {k: v for k, v in self._settings.items() if task.is_video or k not in _FOR_VIDEOS}
        return files.run(
            task.source,
            task.target,
            deblurrer=deblurrer,
            overwrite=task.state != "new",
            progress=progress and task.is_video,
            **settings,
        )


def _targets(src: Path, dst: Path) -> dict[Path, Path]:
    """What is written where, by name. Raises InputError where there is nothing, UsageError where two are one."""
    known = PICTURE_SUFFIXES + VIDEO_SUFFIXES
    sources = files.list_files(src, known)
    if not sources:
        raise InputError(f"{src} holds no picture and no video", f"known suffixes: {', '.join(known)}")
    targets: dict[Path, Path] = {}
    for source in sources:
        name = source.name
        if source.suffix.lower() in VIDEO_SUFFIXES:
            try:
                choose(source, None)
            except UsageError:
                name += ".mkv"
        targets[source] = dst / name
    if len(set(targets.values())) < len(targets):
        raise UsageError(f"two files of {src} would become one in {dst}", "rename one of them")
    return targets

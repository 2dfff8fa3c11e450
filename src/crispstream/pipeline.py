# SPDX-License-Identifier: Apache-2.0
"""Three stages that overlap: read, deblur, write. Stage times, drops and stop signals are handled here."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from types import FrameType
from typing import Protocol

from crispstream.errors import EarlyEndError, InputError
from crispstream.frame import Frame
from crispstream.policy import Aborted, BoundedQueue, Closed, Policy
from crispstream.signals import handled

# Enough to smooth out a key frame at either end; every slot is one more frame of memory and of latency.
QUEUED_FRAMES = 3


class Source(Protocol):
    """Where frames come from. ``total`` is how many are expected, None where nobody knows.

    A source that may wait long gives None now and then, so that a signal is seen meanwhile.
    """

    total: int | None

    def __iter__(self) -> Iterator[Frame | None]: ...

    def close(self) -> None:
        """Free what is open. Idempotent."""


class Pending(Protocol):
    """A frame that a processor works on."""

    def result(self) -> Frame:
        """The finished frame; waits for it."""


class Processor(Protocol):
    """What happens to a frame; a ``DeblurStream`` is one. Results come in the order of submission."""

    def submit(self, frame: Frame, /) -> Pending: ...


class Sink(Protocol):
    """Where frames go. After ``close`` the output is whole, after ``abort`` nothing of it is left."""

    def write(self, frame: Frame) -> None: ...

    def hurry(self) -> None:
        """Wait no more than a moment for others from now on, and raise KeyboardInterrupt where that is not enough.

        Called from a signal handler, at any time.
        """

    def close(self, complete: bool = True) -> None:
        """Finish the output. ``complete`` is False where the source was cut short."""

    def abort(self) -> None:
        """Throw the unfinished output away. Idempotent, and without effect after ``close``."""


@dataclass(slots=True)
class PipelineStats:
    """Size of the first frame, counts, wall-clock seconds each stage was busy (waiting for a neighbour is not)."""

    width: int = 0
    height: int = 0
    frames_in: int = 0
    frames_out: int = 0
    dropped: int = 0
    seconds: float = 0.0
    decode_seconds: float = 0.0
    deblur_seconds: float = 0.0
    encode_seconds: float = 0.0
    interrupted: bool = False
    ended_early: EarlyEndError | None = None


def run_pipeline(
    source: Source,
    processor: Processor,
    sinks: Sequence[Sink],
    policy: Policy = Policy.WAIT,
    on_progress: Callable[[PipelineStats], None] | None = None,
) -> PipelineStats:
    """Take every frame of ``source`` through ``processor`` into every sink, in order; returns when all is written.

    Reading and writing run in threads of their own, ``processor`` and ``on_progress`` in the calling thread. An error
    anywhere stops all stages, aborts the sinks and is raised here, once. The first SIGINT or SIGTERM (main thread only)
    stops reading, and what is in flight is finished: ``interrupted`` is then True. A second one, or a sink that is held
    up by others, raises KeyboardInterrupt and the sinks are aborted; later ones are ignored until that is done.
    EarlyEndError from the source is raised after the frames before it are written and the sinks are closed, unless the
    user wanted to stop.
    Raises InputError when the source has no frame at all.
    """
    stats = PipelineStats()
    inbox: BoundedQueue[Frame] = BoundedQueue(QUEUED_FRAMES, policy)
    outbox: BoundedQueue[Pending] = BoundedQueue(QUEUED_FRAMES)
    reader = threading.Thread(target=_read, args=(source, inbox, stats), name="crispstream-reader", daemon=True)
    writer = threading.Thread(target=_write, args=(sinks, outbox, stats), name="crispstream-writer", daemon=True)
    started = perf_counter()
    with _stop_signals(stats, sinks) as signals:
        try:
            reader.start()
            writer.start()
            for frame in inbox:
                since = perf_counter()
                pending = processor.submit(frame)
                stats.deblur_seconds += perf_counter() - since
                stats.dropped = inbox.dropped
                outbox.put(pending)
                if on_progress is not None:
                    on_progress(stats)
            outbox.close()
            writer.join()
            if on_progress is not None and outbox.error is None:
                on_progress(stats)  # the writer is up to QUEUED_FRAMES behind until now
        except BaseException as error:
            signals.give_up = False
            cause = error.cause if isinstance(error, Aborted) else error
            inbox.abort(cause)
            outbox.abort(cause)
        finally:
            # The sinks may not be touched before both threads have ended, whatever is pressed meanwhile.
            signals.give_up = False
            reader.join()
            writer.join()
            source.close()
            failure = inbox.error or outbox.error
            if failure is not None or stats.frames_out == 0:
                for sink in sinks:
                    sink.abort()
    stats.seconds = perf_counter() - started
    if failure is not None:
        raise failure
    if stats.ended_early is not None and not stats.interrupted:
        raise stats.ended_early
    if stats.frames_out == 0 and not stats.interrupted:
        raise InputError("the input holds no frame that can be decoded")
    return stats


def _read(source: Source, inbox: BoundedQueue[Frame], stats: PipelineStats) -> None:
    try:
        frames = iter(source)
        while not stats.interrupted:
            since = perf_counter()
            try:
                frame = next(frames)
            except StopIteration:
                break
            except EarlyEndError as error:
                stats.ended_early = error
                break
            if frame is None:
                if inbox.error is not None:
                    return
                continue
            stats.decode_seconds += perf_counter() - since
            if stats.frames_in == 0:
                stats.width, stats.height = frame.width, frame.height
            stats.frames_in += 1
            inbox.put(frame)
        inbox.close()
    except (Aborted, Closed):
        pass  # a later stage stopped first and has said why
    except MemoryError:
        inbox.abort(InputError("a frame of the input does not fit into the memory", "scale it down first"))
    except BaseException as error:
        inbox.abort(error)


def _write(sinks: Sequence[Sink], outbox: BoundedQueue[Pending], stats: PipelineStats) -> None:
    try:
        for pending in outbox:
            frame = pending.result()
            del pending
            since = perf_counter()
            for sink in sinks:
                sink.write(frame)
            stats.encode_seconds += perf_counter() - since
            stats.frames_out += 1
        if stats.frames_out:
            since = perf_counter()
            for sink in sinks:
                sink.close(complete=not stats.interrupted and stats.ended_early is None)
            stats.encode_seconds += perf_counter() - since
    except Aborted:
        pass
    except BaseException as error:
        outbox.abort(error)


@dataclass(slots=True)
class _Signals:
    """How many came, and whether the second one may still raise."""

    count: int = 0
    give_up: bool = True


@contextmanager
def _stop_signals(stats: PipelineStats, sinks: Sequence[Sink]) -> Iterator[_Signals]:
    """Turn the first SIGINT or SIGTERM into ``stats.interrupted``, which the reader looks at between frames, and hurry
    the sinks."""
    signals = _Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def stop(number: int, _: FrameType | None) -> None:
        signals.count += 1
        stats.interrupted = True
        for sink in sinks:
            sink.hurry()
        if signals.count == 2 and signals.give_up:
            raise KeyboardInterrupt

    with handled((signal.SIGINT, signal.SIGTERM), stop):
        yield signals

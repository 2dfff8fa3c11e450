# SPDX-License-Identifier: Apache-2.0
"""DLPack in and out, with NumPy and PyTorch on the other side; in the processor's memory, the code is the same."""

from __future__ import annotations

import ctypes
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from crispstream.cuda import dlpack
from crispstream.errors import UsageError

CONSUMERS = {"numpy": np.from_dlpack, "torch": torch.from_dlpack}


class Lent:
    """A producer of bytes in the processor's memory; counts what it hands out."""

    def __init__(self, array: np.ndarray, readonly: bool = False) -> None:
        self.array, self.readonly = array, readonly

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CPU, 0

    def __dlpack__(self, *, max_version: tuple[int, int] | None = None, **_: Any) -> object:
        return self.capsule(versioned=max_version is not None)

    def capsule(self, versioned: bool) -> object:
        a = self.array
        owner = self
        return dlpack.export(
            dlpack.Bytes(a.ctypes.data, a.shape, a.strides, (dlpack.CPU, 0), self.readonly, owner), versioned
        )


def view(found: dlpack.Bytes) -> np.ndarray:
    """The bytes that a consumed tensor stands for."""
    last = sum((n - 1) * s for n, s in zip(found.shape, found.strides, strict=True))
    memory = (ctypes.c_uint8 * (last + 1)).from_address(found.address)
    return np.lib.stride_tricks.as_strided(np.frombuffer(memory, np.uint8), found.shape, found.strides)


@pytest.fixture
def picture() -> np.ndarray:
    """5 x 7 x 3, rows 32 bytes apart."""
    rows = np.random.default_rng(0).integers(0, 256, (5, 32), np.uint8)
    return np.lib.stride_tricks.as_strided(rows, (5, 7, 3), (32, 3, 1))


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_out(consumer: str, picture: np.ndarray) -> None:
    lent = Lent(picture)
    gone = weakref.ref(lent)
    taken = CONSUMERS[consumer](lent)
    del lent
    gc.collect()
    assert gone() is not None, "the memory was freed while it was in use"
    assert np.array_equal(np.asarray(taken), picture)
    taken[2, 3, 1] ^= 255
    assert picture[2, 3, 1] == np.asarray(taken)[2, 3, 1], "this is a copy"
    del taken
    gc.collect()
    assert gone() is None, "the memory is never freed"
    assert not dlpack._exported


@pytest.mark.parametrize("versioned", [False, True])
def test_a_capsule_that_nobody_uses_frees_its_tensor(versioned: bool, picture: np.ndarray) -> None:
    lent = Lent(picture)
    capsule = lent.capsule(versioned)
    assert len(dlpack._exported) == 1
    del capsule
    assert not dlpack._exported


def test_read_only_needs_a_consumer_that_knows_of_it(picture: np.ndarray) -> None:
    lent = Lent(picture, readonly=True)
    assert not np.from_dlpack(lent).flags.writeable
    with pytest.raises(BufferError, match="DLPack 1"):
        lent.capsule(versioned=False)
    assert not dlpack._exported


@pytest.mark.parametrize("make", [lambda a: a, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("version", [None, (1, 0)])
def test_in(make: Any, version: tuple[int, int] | None, picture: np.ndarray) -> None:
    source = make(picture.copy())
    found = dlpack.consume(source.__dlpack__(max_version=version), [dlpack.CPU])
    assert found.shape == (5, 7, 3) and found.strides == (21, 3, 1) and found.device == (dlpack.CPU, 0)
    assert np.array_equal(view(found), picture) and not found.readonly


def test_in_with_strides_and_offset() -> None:
    base = torch.arange(200, dtype=torch.uint8).reshape(10, 20)
    part = base[2:8, 5:11]
    found = dlpack.consume(part.__dlpack__(), [dlpack.CPU])
    assert found.strides == (20, 1) and np.array_equal(view(found), part.numpy())


def test_the_producer_is_told_once_and_only_when_nobody_uses_it(picture: np.ndarray) -> None:
    lent = Lent(picture)
    gone = weakref.ref(lent)
    capsule = lent.capsule(versioned=False)
    found = dlpack.consume(capsule, [dlpack.CPU])
    del lent, capsule
    assert gone() is not None and len(dlpack._exported) == 1
    del found
    assert gone() is None and not dlpack._exported


def test_numpy_gets_its_array_back() -> None:
    array = np.zeros(100, np.uint8)
    gone = weakref.ref(array)
    found = dlpack.consume(array.__dlpack__(), [dlpack.CPU])
    del array
    gc.collect()
    assert gone() is not None
    del found
    gc.collect()
    assert gone() is None


def test_a_deleter_may_be_null(picture: np.ndarray) -> None:
    capsule = Lent(picture).capsule(versioned=False)
    pointer = dlpack._capsule_pointer(capsule, b"dltensor")
    managed = dlpack._Plain.from_address(pointer)
    managed.deleter = dlpack._Deleter()
    found = dlpack.consume(capsule, [dlpack.CPU])
    del found
    assert len(dlpack._exported) == 1
    dlpack._release(pointer)


def test_null_strides_mean_compact(picture: np.ndarray) -> None:
    capsule = Lent(picture.copy()).capsule(versioned=False)
    managed = dlpack._Plain.from_address(dlpack._capsule_pointer(capsule, b"dltensor"))
    managed.tensor.strides = None
    assert dlpack.consume(capsule, [dlpack.CPU]).strides == (21, 3, 1)


def test_refused_tensors_stay_their_producers(picture: np.ndarray) -> None:
    floats = np.zeros(4, np.float32).__dlpack__()
    with pytest.raises(UsageError, match="uint8"):
        dlpack.consume(floats, [dlpack.CPU])
    capsule = Lent(picture).capsule(versioned=False)
    with pytest.raises(UsageError, match="not in a GPU's memory"):
        dlpack.consume(capsule)
    assert len(dlpack._exported) == 1
    dlpack.consume(capsule, [dlpack.CPU])
    with pytest.raises(UsageError, match="consumed before"):
        dlpack.consume(capsule, [dlpack.CPU])
    with pytest.raises(UsageError, match="not a DLPack tensor"):
        dlpack.consume(object())
    assert not dlpack._exported


def test_a_later_major_version_is_refused(picture: np.ndarray) -> None:
    capsule = Lent(picture).capsule(versioned=True)
    dlpack._Versioned.from_address(dlpack._capsule_pointer(capsule, b"dltensor_versioned")).major = 2
    with pytest.raises(UsageError, match=r"DLPack 2\.0"):
        dlpack.consume(capsule, [dlpack.CPU])

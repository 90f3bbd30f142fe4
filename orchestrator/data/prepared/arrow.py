"""One split on disk: an Arrow IPC file, memory-mapped when it is read.

Columns: `image`; `label` int32; `size` int32 × 2, the image's height and width before it was
stretched. `image` is fixed_size_binary(side·side·3), row-major RGB, in one record batch, so that
all pixels are one array; or, where images are kept encoded, large_binary in batches of 256. Not
compressed: a reader's arrays are views of the file. Schema metadata: `version`, `side`, `classes`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

VERSION = "2"
BATCH = 256
"""Encoded images in a record batch."""

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Sizes = npt.NDArray[np.int32]
Put = Callable[[int, Images, tuple[int, int]], None]
"""Writes image number `index` (side, side, 3) with its (height, width); from any thread."""


@contextmanager
def filling(path: Path, labels: Labels, side: int, classes: int) -> Iterator[Put]:
    """A new file of `len(labels)` black images, and a function that writes single images into it.

    All its disk space is allocated first; `OSError` if there is not enough.
    """
    # Fresh zeros are untouched pages: they cost no memory.
    black = pa.py_buffer(np.zeros((len(labels), side, side, 3), np.uint8))
    pixels = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(side * side * 3), len(labels), [None, black]
    )
    _write(path, [_batch(pixels, labels, side, classes)], synced=False)  # below, once it is filled
    with pa.memory_map(str(path)) as source:
        start = source.read_buffer(source.size()).address
        batch = pa.ipc.open_file(source).get_batch(0)
        pixels_at = _buffer(batch["image"]).address - start
        sizes_at = _buffer(batch["size"].values).address - start
        del batch
    with open(path, "r+b", buffering=0) as file:

        def put(index: int, pixels: Images, size: tuple[int, int]) -> None:
            # Not through the mapping: there a full disk raises a signal (SIGBUS), here an error.
            _write_at(file.fileno(), pixels_at + index * side * side * 3, pixels.tobytes())
            _write_at(file.fileno(), sizes_at + index * 8, np.array(size, "<i4").tobytes())

        yield put
        os.fsync(file.fileno())


def write_encoded(
    path: Path, files: Iterable[bytes], labels: Labels, side: int, classes: int
) -> None:
    """Write encoded images unchanged, a batch at a time; sizes stay 0, known when decoded."""
    rows = zip(files, labels, strict=True)

    def batches() -> Iterator[Any]:
        while batch := list(islice(rows, BATCH)):
            images, numbers = zip(*batch, strict=True)
            yield _batch(pa.array(images, pa.large_binary()), numbers, side, classes)

    _write(path, batches())


def read_pixels(path: Path, classes: int) -> tuple[Images, Labels, Sizes]:
    """Images as a read-only view of the mapped file, labels, sizes; `ValueError` if damaged."""
    with _one_error():
        (batch,), side = _open(path, classes)
        pixels = np.frombuffer(_buffer(batch["image"]), np.uint8)
        images = pixels[: len(batch) * side * side * 3].reshape(len(batch), side, side, 3)
        sizes = np.asarray(batch["size"].values.to_numpy(), np.int32).reshape(-1, 2)
        return images, _labels([batch], classes), sizes


def read_encoded(path: Path, classes: int) -> tuple[list[Any], Labels]:
    """The image columns of the batches, whose values are views of the file, and the labels."""
    with _one_error():
        batches, _ = _open(path, classes)
        columns = [batch["image"] for batch in batches]
        if any(column.type != pa.large_binary() for column in columns):
            raise ValueError("its images are not encoded ones")
        return columns, _labels(batches, classes)


def fingerprint(images: Images, labels: Labels, sizes: Sizes) -> str:
    """SHA-256 (hex) of a split's pixels, labels and sizes, independent of the file format."""
    state = hashlib.sha256(repr(tuple(images.shape)).encode())
    state.update(np.ascontiguousarray(labels, "<i8").data)
    state.update(np.ascontiguousarray(sizes, "<i4").data)
    state.update(np.ascontiguousarray(images).reshape(-1).data)
    return state.hexdigest()


def encoded_fingerprint(columns: Iterable[Any], labels: Labels) -> str:
    """SHA-256 (hex) of labels and encoded images, in order."""
    state = hashlib.sha256(np.ascontiguousarray(labels, "<i8").data)
    for column in columns:
        for value in column:
            data = value.as_buffer()
            state.update(data.size.to_bytes(8, "little"))
            state.update(data)
    return state.hexdigest()


def _batch(images: Any, labels: Any, side: int, classes: int) -> Any:
    """A record batch whose sizes are 0."""
    numbers = {"version": VERSION, "side": side, "classes": classes}
    flat = pa.array(np.zeros(2 * len(labels), np.int32))
    return pa.record_batch(
        [images, pa.array(labels, pa.int32()), pa.FixedSizeListArray.from_arrays(flat, 2)],
        names=["image", "label", "size"],
        metadata={name: str(value) for name, value in numbers.items()},
    )


def _write(path: Path, batches: Iterable[Any], *, synced: bool = True) -> None:
    """Write a new file, through to the disk if `synced`; `FileExistsError` if it exists."""
    with open(path, "xb") as file:
        writer = None
        for batch in batches:
            writer = writer or pa.ipc.new_file(file, batch.schema)
            writer.write_batch(batch)
        if writer:
            writer.close()
        file.flush()
        if synced:
            os.fsync(file.fileno())


def _write_at(handle: int, offset: int, data: bytes) -> None:
    while data:
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written


@contextmanager
def _one_error() -> Iterator[None]:
    """What a damaged file makes the libraries raise, as `ValueError` with the first line of it."""
    try:
        yield
    except (
        pa.ArrowException, OSError, KeyError, ValueError, AttributeError, TypeError
    ) as error:  # fmt: skip
        raise ValueError(str(error).splitlines()[0]) from error


def _open(path: Path, classes: int) -> tuple[list[Any], int]:
    """The record batches and the side."""
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
    numbers = {name.decode(): int(text) for name, text in reader.schema.metadata.items()}
    if numbers["classes"] != classes or numbers["version"] != int(VERSION):
        raise ValueError("its header contradicts the manifest")
    return batches, numbers["side"]


def _labels(batches: list[Any], classes: int) -> Labels:
    labels = np.concatenate([batch["label"].to_numpy() for batch in batches]).astype(np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"it has labels outside 0…{classes - 1}")
    labels.flags.writeable = False
    return labels


def _buffer(column: Any) -> Any:
    return column.buffers()[1]

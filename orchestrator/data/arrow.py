"""One split on disk: an Arrow IPC file with one record batch, so that its images can be mapped.

Columns: `image` fixed_size_binary(H·W·3), row-major RGB; `label` int32. Schema metadata: `version`,
`height`, `width`, `classes`. Not compressed: a reader views the pixels where the file lies.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

VERSION = "1"
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def write(path: Path, images: Images, labels: Labels, classes: int) -> None:
    """Write images (N, H, W, 3) and labels (N,) through to the disk; equal input, equal bytes."""
    count, height, width, _ = images.shape
    pixels = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(height * width * 3), count, [None, pa.py_buffer(np.ascontiguousarray(images))]
    )
    numbers = {"version": VERSION, "height": height, "width": width, "classes": classes}
    batch = pa.record_batch(
        [pixels, pa.array(labels, pa.int32())],
        names=["image", "label"],
        metadata={name: str(value) for name, value in numbers.items()},
    )
    with open(path, "xb") as file:
        with pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, classes: int) -> tuple[Images, Labels]:
    """Images as a read-only view of the mapped file, and labels; `ValueError` if it is damaged."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batch = reader.get_batch(0)
        numbers = {name.decode(): int(text) for name, text in batch.schema.metadata.items()}
        height, width = numbers["height"], numbers["width"]
        pixels = np.frombuffer(batch["image"].buffers()[1], np.uint8)
        images = pixels[: len(batch) * height * width * 3].reshape(-1, height, width, 3)
        labels = batch["label"].to_numpy().astype(np.int64)
    except (pa.ArrowException, OSError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(str(error).splitlines()[0]) from error
    if numbers["classes"] != classes or len(images) != len(labels):
        raise ValueError("its header contradicts the manifest")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"it has labels outside 0…{classes - 1}")
    return images, labels


def fingerprint(images: Images, labels: Labels) -> str:
    """SHA-256 (hex) of shape, labels and pixels: what is in a split, however it is stored."""
    state = hashlib.sha256(repr(tuple(images.shape)).encode())
    state.update(np.ascontiguousarray(labels, "<i8").data)
    state.update(np.ascontiguousarray(images).reshape(-1).data)
    return state.hexdigest()

"""Contact sheets: a picture of a task's training images, class by class."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from orchestrator.data.prepared.store import manifest_of
from orchestrator.data.splits import Split, open_search
from orchestrator.errors import InvalidInput
from orchestrator.spec import Suite
from orchestrator.storage.files import make_folder, write_whole

COLUMNS, ROWS, SIDE, MARGIN, TEXT = 10, 3, 96, 6, 16
"""Images in a row, rows, and lengths in pixels: of an image, between images, under one."""


def contact_sheet(split: Split, names: Sequence[str] = ()) -> bytes:
    """PNG of up to 30 images of a split, spread over its classes, each with its class below.

    `names` are the classes' names by label; without them the label is shown.
    """
    chosen = _spread(split.labels, COLUMNS * ROWS)
    rows = -(-len(chosen) // COLUMNS)
    cell = SIDE + MARGIN
    size = (COLUMNS * cell + MARGIN, rows * (cell + TEXT) + MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for place, index in enumerate(chosen):
        left = MARGIN + place % COLUMNS * cell
        top = MARGIN + place // COLUMNS * (cell + TEXT)
        picture = Image.fromarray(np.asarray(split.images[index]))
        # Small images are shown as the pixels that they are.
        small = picture.width < SIDE
        method = Image.Resampling.NEAREST if small else Image.Resampling.BICUBIC
        sheet.paste(picture.resize((SIDE, SIDE), method), (left, top))
        label = int(split.labels[index])
        text = names[label] if label < len(names) else f"class {label}"
        while len(text) > 1 and draw.textlength(text, font) > SIDE:
            text = text[:-2] + "…" if text.endswith("…") else text[:-1] + "…"
        draw.text((left, top + SIDE + 1), text, "#444", font)
    stream = io.BytesIO()
    # 256 colours: a report holds one sheet per task, and this is a third of the size.
    sheet.quantize(256, Image.Quantize.FASTOCTREE).save(stream, "PNG")
    return stream.getvalue()


def write_sheets(folder: Path, suite: Suite, tasks: Sequence[str], root: Path) -> list[Path]:
    """A contact sheet of each prepared task's train split, `<folder>/<task>.png`."""
    paths = []
    try:
        make_folder(folder)
        if not os.access(folder, os.W_OK):
            raise PermissionError("it cannot be written")
    except OSError as error:
        raise InvalidInput(
            f"contact sheets cannot be put into '{folder}': {error.strerror or error}. Name a "
            "folder that you may write to."
        ) from error
    for name in tasks:
        task = suite.task(name)
        names = manifest_of(suite.store, task, root).names
        train = open_search(suite.store, task, root).train
        paths.append(folder / f"{name}.png")
        write_whole(paths[-1], contact_sheet(train, names))
    return paths


def _spread(labels: np.ndarray[tuple[int], np.dtype[np.int64]], most: int) -> list[int]:
    """Indices of up to `most` images, evenly over the classes, ordered by class then place."""
    by_class = [np.flatnonzero(labels == label).tolist() for label in np.unique(labels)]
    if len(by_class) > most:
        by_class = [by_class[round(i)] for i in np.linspace(0, len(by_class) - 1, most)]
    rounds = (index for row in zip_longest(*by_class) for index in row if index is not None)
    return sorted(islice(rounds, most), key=lambda index: (labels[index], index))

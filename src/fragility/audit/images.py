"""The images of an audit: a folder of files of any size and format, flat or with a sub-folder for each class."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fragility._checks import check_count
from fragility.data import datasets
from fragility.data.download import IMAGE_SUFFIXES, image_files
from fragility.data.png import read_pixels


class Images(NamedTuple):
    """What is to be explained.

    Attributes:
        pixels: (N, C, H, W) float32 in [0, 1], levels of 8 bits.
        names: N different names.
        labels: int64 (N,), or None where they are not known.
        classes: the names of the classes; empty where they are not known.
        source: where they come from, and what was done to them.
        left_out: a sentence for each file that was not used.
    """

    pixels: Tensor
    names: tuple[str, ...]
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    source: str = "tensors"
    left_out: tuple[str, ...] = ()


def read_folder(
    folder: Path | None, *, size: int, channels: int = 3, limit: int | None = None, seconds: float | None = None
) -> Images:
    """Read a folder of images, squashed to one size; files that cannot be read are left out, and named.

    Args:
        folder: images, or a sub-folder of images for each class, in alphabetical order as torchvision's ImageFolder
            takes them; None for four photographs that come with installed packages.
        size: height and width in pixels.
        channels: 3 for colour, 1 for grey.
        limit: how many images, taken in turn from each class; None for all.
        seconds: when to stop with what was read, a multiple of 64 images where there are as many; None for all.

    Returns:
        The images.

    Raises:
        ValueError: if the folder is not there, or holds no image that can be read.
    """
    check_count("size", size)
    if folder is None:
        data = datasets.photographs(size=size)
        return Images(data.images, data.files, data.labels, data.class_names, data.source)
    if channels not in (1, 3):
        raise ValueError(f"channels: expected 1 or 3, got {channels}")
    if limit is not None:
        check_count("limit", limit)
    if not folder.is_dir():
        raise ValueError(f"images: expected a folder, got {str(folder)!r}")
    inner = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    classes = [child for child in inner if image_files(child)]
    files = [(path, label) for label, child in enumerate(classes) for path in image_files(child)]
    loose = image_files(folder)
    left_out = [f"{path.name}: lies beside the folders of the classes" for path in loose] if files else []
    files = files or [(path, 0) for path in loose]
    pixels, names, labels = list[Tensor](), list[str](), list[int]()
    start = time.monotonic()
    for path, label in _in_turn(files, len(classes)):
        if len(names) == limit:
            left_out.append(f"after {limit} images the rest was left out, as asked")
            break
        if seconds is not None and names and time.monotonic() > start + seconds:
            count = len(names) // 64 * 64 or len(names)
            left_out.append(f"after {count} images the rest of {len(files)} was left out: a tenth of the time was up")
            pixels, names, labels = pixels[:count], names[:count], labels[:count]
            break
        name = path.relative_to(folder).as_posix()
        try:
            pixels.append(read_pixels(path, channels, size))
        except ValueError as error:
            left_out.append(f"{name}: {str(error).removeprefix(f'{path}: ')}")
            continue
        names.append(name)
        labels.append(label)
    if not pixels:
        seen = f"{len(files)} that cannot be read ({left_out[0]})" if files else "none"
        raise ValueError(f"images: expected images ({', '.join(IMAGE_SUFFIXES)}) in {str(folder)!r}, got {seen}")
    source = f"the folder {folder.name}, squashed to {size} x {size} (bilinear, antialiased)"
    known = torch.tensor(labels) if classes else None, tuple(child.name for child in classes)
    return Images(torch.stack(pixels), tuple(names), *known, source, tuple(left_out))


def _in_turn(files: Sequence[tuple[Path, int]], classes: int) -> list[tuple[Path, int]]:
    """One of each class, then another one of each: a short audit has seen all classes."""
    if not classes:
        return list(files)
    places = {path: place for label in range(classes) for place, path in enumerate(p for p, c in files if c == label)}
    return sorted(files, key=lambda file: (places[file[0]], file[1]))

"""The images of an audit: a folder of files of any size and format, flat or with a sub-folder for each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fragility._checks import check_count
from fragility.data import datasets
from fragility.data.download import IMAGE_SUFFIXES, image_files, read_image


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


def shipped(size: int) -> Images:
    """Load the four photographs that come with installed packages."""
    data = datasets.photographs(size=size)
    return Images(data.images, data.files, data.labels, data.class_names, data.source)


def read_folder(folder: Path, *, size: int, channels: int = 3, limit: int | None = None) -> Images:
    """Read a folder of images, squashed to one size; files that cannot be read are left out, and named.

    Args:
        folder: images, or a sub-folder of images for each class, in alphabetical order as torchvision's ImageFolder
            takes them.
        size: height and width in pixels.
        channels: 3 for colour, 1 for grey.
        limit: how many images, taken in turn from each class; None for all.

    Returns:
        The images.

    Raises:
        ValueError: if the folder is not there, or holds no image that can be read.
    """
    check_count("size", size)
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
    pixels: list[Tensor] = []
    names: list[str] = []
    labels: list[int] = []
    for path, label in _in_turn(files, len(classes)):
        if len(names) == limit:
            left_out.append(f"after {limit} images the rest was left out, as asked")
            break
        name = path.relative_to(folder).as_posix()
        try:
            image = read_image(path).convert("RGB" if channels == 3 else "L")
        except ValueError as error:
            left_out.append(f"{name}: {str(error).removeprefix(f'{path}: ')}")
            continue
        levels = np.array(image.resize((size, size), Image.Resampling.BILINEAR)).reshape(size, size, channels)
        pixels.append(torch.from_numpy(levels).permute(2, 0, 1).float() / 255)
        names.append(name)
        labels.append(label)
    if not pixels:
        seen = f"{len(files)} that cannot be read ({left_out[0]})" if files else "none"
        raise ValueError(f"images: expected images ({', '.join(IMAGE_SUFFIXES)}) in {str(folder)!r}, got {seen}")
    return Images(
        torch.stack(pixels),
        tuple(names),
        torch.tensor(labels) if classes else None,
        tuple(child.name for child in classes),
        f"the folder {folder.name}, squashed to {size} x {size} (bilinear, antialiased)",
        tuple(left_out),
    )


def _in_turn(files: Sequence[tuple[Path, int]], classes: int) -> list[tuple[Path, int]]:
    """One of each class, then another one of each: a short audit has seen all classes."""
    if not classes:
        return list(files)
    places = {path: place for label in range(classes) for place, path in enumerate(p for p, c in files if c == label)}
    return sorted(files, key=lambda file: (places[file[0]], file[1]))


def levels(images: Tensor) -> Tensor:
    """The 8-bit levels of images, (B, C, H, W) uint8."""
    return (255 * images.detach()).round().byte().cpu()


def write_png(path: Path, image: Tensor) -> None:
    """Write an image (C, H, W) in [0, 1] as an 8-bit file, grey or colour."""
    pixels = levels(image).movedim(0, -1).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(path)


def read_png(path: Path, like: Tensor) -> Tensor:
    """Read such a file again, on the device and in the precision of another image (C, H, W)."""
    with Image.open(path) as image:
        pixels = torch.from_numpy(np.array(image)).view(*like.shape[1:], -1).movedim(-1, 0)
    return (pixels.float() / 255).to(like)

"""Images as files of 8 bits, without a loss."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fragility.data.download import read_image


def levels(images: Tensor) -> Tensor:
    """The 8-bit levels of images in [0, 1], uint8."""
    return (255 * images.detach().clamp(0, 1)).round().byte().cpu()


def write_png(path: Path, image: Tensor) -> None:
    """Write an image (C, H, W) in [0, 1] as an 8-bit file, grey or colour."""
    pixels = levels(image).movedim(0, -1).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(path)


def read_pixels(path: Path, channels: int, size: int | None = None) -> Tensor:
    """Read any image file, (C, H, W) in [0, 1]; squashed to a square of `size` pixels where that is given."""
    image = read_image(path).convert("RGB" if channels == 3 else "L")
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.array(image)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).movedim(-1, 0).float() / 255

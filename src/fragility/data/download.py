"""The data folder: where it is, and how a file gets into it whole, verified and only once."""

import hashlib
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class Unreachable(ConnectionError):
    """A public source cannot be reached; the message names it, where to put a copy, and the offline alternative."""

    def __init__(self, name: str, url: str, path: Path, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or type(error).__name__
        super().__init__(
            f"{name} is {'damaged' if path.is_file() else 'missing'} and cannot be downloaded from {url} "
            f"({reason}). Without a network, put it at {path} yourself, "
            "or use the embedded digits (profile 'fast')."
        )


def data_folder() -> Path:
    """Return the folder of all downloads: `$FRAGILITY_DATA`, or `~/.cache/fragility` if that is not set.

    Returns:
        The folder; it need not exist yet.
    """
    return Path(os.environ.get("FRAGILITY_DATA") or Path.home() / ".cache" / "fragility").expanduser()


def download(url: str, name: str, sha256: str | None) -> Path:
    """Return a file of the data folder's `downloads`, downloading it first if it is missing or damaged.

    The download shows a progress bar, goes to a temporary file beside its target and is renamed only once its checksum
    is verified, so an interrupted download leaves nothing behind.

    Args:
        url: public address of the file.
        name: its name in the folder.
        sha256: expected checksum in hexadecimal; None if the bytes of the public source vary.

    Returns:
        Path of the verified file.

    Raises:
        Unreachable: if the file cannot be downloaded (a ConnectionError); it says where to put a copy.
        OSError: if the checksum of the downloaded bytes is not `sha256`.
    """
    import pooch  # here, because it imports notebook widgets and warns where there are none

    path = data_folder() / "downloads" / name
    downloader = pooch.HTTPDownloader(progressbar=True, chunk_size=1 << 16)
    try:
        pooch.retrieve(url, sha256, fname=name, path=path.parent, downloader=downloader)
    except OSError as error:  # every exception of requests is one
        raise Unreachable(name, url, path, error) from error
    except ValueError as error:  # pooch's way of reporting a checksum mismatch
        raise OSError(f"{url}: the download is damaged or has changed: {error}") from error
    return path


def file_sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def image_files(folder: Path) -> list[Path]:
    """List the images directly inside a folder, without hidden files.

    Args:
        folder: it need not exist.

    Returns:
        Files with a suffix of `IMAGE_SUFFIXES`, sorted by name.
    """
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") and p.is_file())


def read_image(path: Path) -> Image.Image:
    """Read an image file completely, turned upright by its EXIF data, with white behind transparent pixels.

    Args:
        path: a file of any format that Pillow reads; only the first of several frames is read.

    Returns:
        The image in RGB, 16 bits a channel rounded to 8; colour profiles are ignored.

    Raises:
        ValueError: if the file is missing, damaged or not an image, or its pixels have no known white level.
    """
    try:
        with Image.open(path) as image:
            return _rgb(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: expected a readable image ({error})") from error


def _rgb(image: Image.Image) -> Image.Image:
    """Convert to eight bits a channel, on white."""
    if image.mode.startswith("I;16"):  # Pillow would clip these to a white image
        levels = np.asarray(image)
        grey = np.where(levels == image.info.get("transparency"), 255, (levels / 257).round())
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode[0] in "IF":
        raise ValueError(f"32-bit pixels, mode {image.mode}, have no known white level; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def unpack(archive: Path, target: Path) -> None:
    """Extract a tar archive, refusing members that would land outside the target.

    Args:
        archive: a tar file, compressed or not.
        target: the folder to fill.

    Raises:
        OSError: if the archive is damaged or unsafe.
    """
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise OSError(f"{archive}: damaged or unsafe archive ({error}); delete it and try again") from error


@contextmanager
def staging() -> Iterator[Path]:
    """Make a temporary folder inside the data folder: moving out of it is one rename.

    Yields:
        Its path; the folder is removed at the end.
    """
    data_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data_folder(), prefix=".partial-") as folder:
        yield Path(folder)


def install(folder: Path, target: Path) -> None:
    """Move a complete folder to its place, in one rename, or file by file over an earlier, incomplete copy.

    Args:
        folder: a folder inside `staging()`.
        target: its place in the data folder.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        folder.rename(target)
    else:
        for path in folder.iterdir():
            path.replace(target / path.name)

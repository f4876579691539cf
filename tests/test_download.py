"""Downloads over real HTTP from a local server; archives and folders on a real disk."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from fragility.data.download import (
    Unreachable,
    data_folder,
    download,
    image_files,
    install,
    read_image,
    staging,
    unpack,
)

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """/file is whole, /cut promises more than it sends, anything else is not found; `seen` counts."""

    seen: list[str] = []  # noqa: RUF012 - emptied by the fixture

    def do_GET(self) -> None:
        self.seen.append(self.path)
        if self.path not in ("/file", "/cut"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT) + (10 if self.path == "/cut" else 0)))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRAGILITY_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "*")
    return tmp_path / "data"


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    Handler.seen.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def everything_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_the_data_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for value, expected in (
        (str(tmp_path / "elsewhere"), tmp_path / "elsewhere"),
        ("~/mine", tmp_path / "mine"),
        ("", tmp_path / ".cache" / "fragility"),
    ):
        monkeypatch.setenv("FRAGILITY_DATA", value)
        assert data_folder() == expected
    monkeypatch.delenv("FRAGILITY_DATA")
    assert data_folder() == tmp_path / ".cache" / "fragility"


@pytest.mark.parametrize("sha256", [SHA256, None])
def test_a_file_is_downloaded_once_with_a_progress_bar(
    server: str, folder: Path, capsys: pytest.CaptureFixture[str], sha256: str | None
) -> None:
    path = download(f"{server}/file", "weights/some.bin", sha256)
    assert path == folder / "weights" / "some.bin"
    assert path.read_bytes() == CONTENT
    assert "100%" in capsys.readouterr().err
    assert download(f"{server}/file", "weights/some.bin", sha256) == path
    assert Handler.seen == ["/file"]
    assert everything_in(folder) == ["some.bin"]


def test_a_file_put_there_by_hand_needs_no_server(folder: Path) -> None:
    folder.mkdir()
    (folder / "some.bin").write_bytes(CONTENT)
    assert download("http://127.0.0.1:9/file", "some.bin", SHA256).read_bytes() == CONTENT


def test_a_damaged_file_is_replaced(server: str, folder: Path) -> None:
    folder.mkdir()
    (folder / "some.bin").write_bytes(CONTENT[:-1])
    assert download(f"{server}/file", "some.bin", SHA256).read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing_behind(server: str, folder: Path) -> None:
    with pytest.raises(OSError, match=rf"{server}/file: .*damaged or has changed.*{SHA256}"):
        download(f"{server}/file", "some.bin", "0" * 64)
    assert everything_in(folder) == []


@pytest.mark.parametrize("page", ["cut", "absent"])
def test_an_interrupted_or_absent_download_leaves_nothing_behind(server: str, folder: Path, page: str) -> None:
    with pytest.raises(Unreachable, match=r"some\.bin is missing and cannot be downloaded"):
        download(f"{server}/{page}", "some.bin", None)
    assert everything_in(folder) == []


def test_without_a_network_the_error_names_the_source_the_path_and_the_alternative(folder: Path) -> None:
    with pytest.raises(ConnectionError) as caught:
        download("http://127.0.0.1:9/some.bin", "weights/some.bin", SHA256)
    for part in ("http://127.0.0.1:9/some.bin", str(folder / "weights" / "some.bin"), "is missing", "digits"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    (folder / "weights" / "some.bin").write_bytes(b"damaged")
    with pytest.raises(ConnectionError, match="is damaged"):
        download("http://127.0.0.1:9/some.bin", "weights/some.bin", SHA256)
    assert everything_in(folder) == ["some.bin"]


@pytest.mark.parametrize("name", ["../some.bin", "weights/../../some.bin"])
def test_a_download_cannot_leave_the_data_folder(folder: Path, name: str) -> None:
    for path in (name, str(Path(name).absolute())):
        with pytest.raises(ValueError, match="name: expected a relative path inside the data folder"):
            download("http://127.0.0.1:9/", path, None)


def archive(path: Path, *members: tuple[str, bytes], link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        if link:
            member = tarfile.TarInfo("link")
            member.type, member.linkname = tarfile.SYMTYPE, link
            tar.addfile(member)
    return path


def test_an_archive_is_unpacked(tmp_path: Path) -> None:
    packed = archive(tmp_path / "a.tgz", ("top/one", b"1"), ("top/deep/two", b"22"))
    unpack(packed, tmp_path / "out")
    assert (tmp_path / "out" / "top" / "one").read_bytes() == b"1"
    assert (tmp_path / "out" / "top" / "deep" / "two").read_bytes() == b"22"


@pytest.mark.parametrize(("member", "link"), [("../evil", ""), ("/../../evil", ""), ("good", "../../evil")])
def test_a_malicious_archive_is_refused(tmp_path: Path, member: str, link: str) -> None:
    packed = archive(tmp_path / "a.tgz", (member, b"boo"), link=link)
    with pytest.raises(OSError, match=r"a\.tgz: damaged or unsafe archive .*outside the destination"):
        unpack(packed, tmp_path / "deep" / "out")
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "deep" / "evil").exists()


@pytest.mark.parametrize("size", [0, 10, 200])
def test_a_truncated_archive_is_an_error_that_names_it(tmp_path: Path, size: int) -> None:
    whole = archive(tmp_path / "whole.tgz", ("one", bytes(hashlib.sha512(b"noise").digest() * 99)))
    (tmp_path / "cut.tgz").write_bytes(whole.read_bytes()[:size])
    with pytest.raises(OSError, match=r"cut\.tgz: damaged or unsafe archive"):
        unpack(tmp_path / "cut.tgz", tmp_path / "out")


def test_a_folder_is_installed_whole_and_over_an_incomplete_copy(folder: Path) -> None:
    for content in (b"first", b"second"):
        with staging() as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            (new / "a").write_bytes(content)
            install(new, folder / "kind" / "raw")
        assert (folder / "kind" / "raw" / "a").read_bytes() == content
        (folder / "kind" / "raw" / "b").write_bytes(b"kept")
    assert (folder / "kind" / "raw" / "b").read_bytes() == b"kept"
    assert everything_in(folder) == ["a", "b"]


def test_staging_is_removed_when_something_fails(folder: Path) -> None:
    def fail_half_way() -> None:
        with staging() as temporary:
            (Path(temporary) / "half").write_bytes(b"")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert list(folder.iterdir()) == []


def test_image_files_are_sorted_and_nothing_else(tmp_path: Path) -> None:
    names = [f"{number:03}.JPEG" for number in range(50)]
    for name in (*reversed(names), "notes.txt", ".DS_Store", "._000.JPEG", ".thumb.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in image_files(tmp_path)] == names
    assert image_files(tmp_path / "absent") == []


# Pixels against NumPy, which shares no code with Pillow's conversions.

COLOURS = np.array([[[250, 0, 0], [0, 250, 0], [0, 0, 250]], [[90, 90, 0], [0, 90, 90], [90, 0, 90]]], np.uint8)
UPRIGHT = {  # what a viewer has to do, by the EXIF standard, to an image stored with that orientation
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_photograph_stands_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOURS).save(tmp_path / f"a.{suffix}", exif=exif, lossless=True)
    assert np.array_equal(np.asarray(read_image(tmp_path / f"a.{suffix}")), UPRIGHT[orientation](COLOURS))


def translucent(alpha: int) -> Image.Image:
    return Image.fromarray(np.dstack([COLOURS, np.full((2, 3), alpha, np.uint8)]))


def palette(transparency: int | bytes | None = None) -> Image.Image:
    """One pixel of each of six palette colours."""
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).convert("P")
    image.putpalette(COLOURS.tobytes())
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def deep(kind: str) -> Image.Image:
    return Image.fromarray(np.array([[0, 257, 65535], [32896, 25700, 300]], kind))


def on_white(alpha: float) -> np.ndarray:
    return alpha * COLOURS + (1 - alpha) * 255


GREY = np.array([[0, 1, 255], [128, 100, 1]])
HALF = np.array([0, 255, 255, 255, 255, 51], np.uint8)
PIXELS = {
    "opaque.png": (translucent(255), COLOURS),
    "clear.png": (translucent(0), on_white(0)),
    "half.png": (translucent(51), on_white(0.2)),
    "half.webp": (translucent(51), on_white(0.2)),
    "half.tiff": (translucent(51), on_white(0.2)),
    "palette.png": (palette(), COLOURS),
    "palette.gif": (palette(), COLOURS),
    "keyed.gif": (palette(1), np.where(np.arange(6).reshape(2, 3, 1) == 1, 255, COLOURS)),
    "table.png": (palette(HALF.tobytes()), 255 + (COLOURS - 255.0) * HALF.reshape(2, 3, 1) / 255),
    "grey.png": (Image.fromarray(GREY.astype(np.uint8)), GREY[:, :, None].repeat(3, 2)),
    "deep.png": (deep("<u2"), GREY[:, :, None].repeat(3, 2)),
    "deep.tiff": (deep("<u2"), GREY[:, :, None].repeat(3, 2)),
    "big-endian.tiff": (deep(">u2"), GREY[:, :, None].repeat(3, 2)),
    "bits.png": (Image.fromarray(GREY > 99), 255 * (GREY > 99)[:, :, None].repeat(3, 2)),
    "ink.tiff": (Image.frombytes("CMYK", (3, 2), np.dstack([255 - COLOURS, 0 * COLOURS[:, :, :1]]).tobytes()), COLOURS),
}


@pytest.mark.parametrize("name", PIXELS)
def test_every_kind_of_image_shows_its_colours(tmp_path: Path, name: str) -> None:
    image, expected = PIXELS[name]
    image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    found = read_image(tmp_path / name)
    assert found.mode == "RGB"
    assert np.abs(np.asarray(found).astype(float) - expected).max() <= 1  # a level for rounding


def test_an_unreadable_image_is_an_error_that_names_it(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    for name, content in {"cut": whole[:-400], "text": b"hello", "empty": b""}.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
    for number, kind in enumerate((np.int32, np.float32)):
        Image.fromarray(np.ones((2, 2), kind)).save(tmp_path / f"scan{number}.tiff")
    for name in ("cut.jpg", "text.jpg", "empty.jpg", "absent.jpg", "scan0.tiff", "scan1.tiff"):
        with pytest.raises(ValueError, match=rf"{name}: expected a readable image"):
            read_image(tmp_path / name)

"""A study: the columns of its table, its pieces, and how the rows of one piece are computed."""

import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fragility import train
from fragility.attack import random_sign
from fragility.data.datasets import ImageDataset

_TYPES = {kind.__name__: kind for kind in (str, int, float, bool)}
Value = str | int | float | bool | None
Row = dict[str, Value]
Columns = Mapping[str, tuple[type, str]]  # name -> (str, int, float or bool; what it means)
Piece = dict[str, Any]
"""Plain data that determine the rows; `images` names their subjects, `first` is the position of the first one."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How closely rows computed on another machine agree, for `fragility verify`.

    By default numbers must agree to 1e-4 (relative beyond 1) and everything else exactly.

    Attributes:
        within: column -> the largest absolute difference; a text of numbers is compared number by number.
        means: column -> how far the mean of the new rows may lie outside the stored rows' interval of the mean. It is
            for the ends of iterative attacks: rounding flips signs of gradients, and the paths diverge.
    """

    within: Mapping[str, float] = field(default_factory=dict)
    means: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A table of the book: what a row is, and how one piece of rows is computed.

    Attributes:
        columns: of the table.
        profiles: name -> what is computed: plain data and dataclasses of these, by name or as a dataclass.
        prepare: (profile, device) -> what the pieces need, and where data and weights come from, with checksums.
        pieces: (profile, what is prepared) -> the pieces, in the table's order.
        rows: (piece, what is prepared) -> its rows, which must not depend on the order in which pieces are computed;
            they may leave out columns that have the name of an entry of the piece.
        cost: piece -> its work in any unit, to estimate the time left.
        tolerance: for rows that are computed again.
        version: raised whenever the meaning of a row changes, so old rows never mix with new ones.
        profile: makes a profile of the entries of a declaration, see `declared`.
    """

    columns: Columns
    profiles: Mapping[str, Any]
    prepare: Callable[[Any, str], tuple[Any, dict[str, Any]]]
    pieces: Callable[[Any, Any], Iterable[Piece]]
    rows: Callable[[Piece, Any], list[Row]]
    _: KW_ONLY
    cost: Callable[[Piece], float] = lambda piece: float(len(piece["images"]))
    tolerance: Tolerance = Tolerance()
    version: int = 1
    profile: Callable[..., Any] = dict

    def plan(self, profile: Any, device: str = "cpu") -> "Plan":
        """Load what a profile needs and list its pieces; ValueError or OSError if something is missing."""
        ready, inputs = self.prepare(profile, device)
        pieces = [{"version": self.version, "first": 0, **piece} for piece in self.pieces(profile, ready)]
        parameters = {name: _plain(value) for name, value in _plain(profile).items()}
        return Plan(self, parameters, inputs, pieces, ready)


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def declared(
    module: str,
    prepare: Callable[[Any, str], tuple[Any, dict[str, Any]]],
    pieces: Callable[[Any, Any], Iterable[Piece]],
    rows: Callable[[Piece, Any], list[Row]],
    *,
    profile: Callable[..., Any] = dict,
    **options: Any,
) -> Study:
    """Make a study whose columns, tolerances and profiles are declared in a TOML file.

    The file has `[columns]`, `name = [type, meaning]`; `[within]` and `[means]` of a `Tolerance`; `[profiles.NAME]`, or
    `NAME = "another"` under `[profiles]`; `[profile]`, what all profiles have in common; and `like = "study"`, another
    declaration of the folder to which it adds, and whose profiles of the same name it changes.

    Args:
        module: the file of the study's module; the declaration has its name and the suffix `.toml`.
        prepare: as for `Study`, as are the next two.
        pieces: as said.
        rows: as said.
        profile: as for `Study`.
        **options: `cost` and `version`, as for `Study`.

    Returns:
        The study.
    """
    data = _declaration(Path(module).with_suffix(".toml"))
    tables = data["profiles"]
    entries = {key: tables[table] if isinstance(table, str) else table for key, table in tables.items()}
    found: dict[str, Any] = {
        "columns": {column: (_TYPES[kind], text) for column, (kind, text) in data["columns"].items()},
        "profiles": {key: profile(**{**data["profile"], **entry}) for key, entry in entries.items()},
        "tolerance": Tolerance(within=data["within"], means=data["means"]),
    }
    return Study(prepare=prepare, pieces=pieces, rows=rows, profile=profile, **found, **options)


def alike(study: Study, module: str) -> Study:
    """Make a study that runs as another one does and is declared by itself; it needs no module of its own."""
    same = {name: getattr(study, name) for name in ("prepare", "pieces", "rows", "profile", "cost", "version")}
    return declared(module, **same)


def _declaration(path: Path) -> dict[str, Any]:
    """Read a declaration on top of the one that it is like."""
    own = tomllib.loads(path.read_text(encoding="utf-8"))
    like = _declaration(path.with_name(f"{own['like']}.toml")) if "like" in own else {}
    data = {part: {**like.get(part, {}), **own.get(part, {})} for part in ("columns", "within", "means", "profile")}
    profiles = own.get("profiles", {})
    inherited = {name: like.get("profiles", {}).get(name, {}) for name in profiles}
    data["profiles"] = {
        name: entry if isinstance(entry, str) else {**inherited[name], **entry} for name, entry in profiles.items()
    }
    return data


class Computed(NamedTuple):
    """A piece with its rows, and how long they took."""

    piece: Piece
    rows: list[Row]
    seconds: float


@dataclass(frozen=True, eq=False)
class Plan:
    """A profile of a study, made ready on a device."""

    study: Study
    parameters: dict[str, Any]
    inputs: dict[str, Any]
    pieces: Sequence[Piece]
    ready: Any

    def timed(self, piece: Piece) -> Computed:
        """Compute a piece and measure how long it takes."""
        start = time.perf_counter()
        return Computed(piece, self.compute(piece), time.perf_counter() - start)

    def compute(self, piece: Piece) -> list[Row]:
        """Return the rows of a piece, computed by halves where the GPU's memory does not hold it."""
        shared = {name: piece[name] for name in self.study.columns if name in piece}
        try:
            return [shared | row for row in self.study.rows(piece, self.ready)]
        except torch.OutOfMemoryError:
            if len(piece["images"]) == 1:
                raise
        # Outside the except clause, where the failed attempt's tensors are free again.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        middle = len(piece["images"]) // 2
        halves = (piece["images"][:middle], piece["images"][middle:])
        return [row for half in halves for row in self.compute(piece | {"images": half})]


def batches(data: ImageDataset, size: int, *, start: int = 0, stop: int | None = None) -> Iterator[Piece]:
    """Cut images into pieces of `size` with their checksums."""
    for first in range(start, len(data) if stop is None else stop, size):
        rows = slice(first, first + size)
        yield {"first": first, "images": list(data.files[rows]), "pixels": train.fingerprint(data.images[rows])}


def positions(data: ImageDataset, piece: Piece) -> list[int]:
    """Find the images of a piece."""
    return [data.files.index(name) for name in piece["images"]]


def row_per_image(piece: Piece, **columns: Any) -> list[Row]:
    """Turn columns into rows: a tensor or a list holds a value per image, anything else is the same for all."""
    count = len(piece["images"])
    values = {name: column.tolist() if isinstance(column, Tensor) else column for name, column in columns.items()}
    listed = {name: value if isinstance(value, list) else [value] * count for name, value in values.items()}
    rows = zip(piece["images"], *listed.values(), strict=True)
    return [dict(zip(("image", *listed), row, strict=True)) for row in rows]


def noise(images: Tensor, piece: Piece) -> Tensor:
    """Move pixels by random signs that depend on the seed and the image's name alone."""
    draws = [generator(piece["seed"], name) for name in piece["images"]]
    pairs = zip(torch.split(images, 1), draws, strict=True)
    return torch.cat([random_sign(image, piece["epsilon"] / 255, generator=draw) for image, draw in pairs])


def generator(*names: object) -> torch.Generator:
    """Make a generator seeded by names, on the processor: every machine draws the same."""
    return torch.Generator().manual_seed(int(train.fingerprint(*names)[:15], 16))

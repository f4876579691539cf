"""Results on disk: a table of rows per study and profile (CSV), and beside it how the rows came about (JSON).

A study is a list of independent pieces; the rows of a piece are written together. The whole table, which is small, is
replaced in one rename after every piece, so that a run killed at any moment leaves the table of before or of after it.
Rows are kept by piece, hence never twice, and stand in the order of the plan, however the run went. A row ends with the
name of its piece, a checksum of all that determines its rows, and with a checksum of the piece's rows: what is damaged
is found, and rows made with other parameters have other names and never mix.
"""

import csv
import hashlib
import io
import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fragility

Value = str | int | float | bool | None
Row = dict[str, Value]
Piece = dict[str, Any]
Columns = Mapping[str, tuple[type, str]]  # name -> (str, int, float or bool; what it means)

_TYPES: dict[str, type] = {kind.__name__: kind for kind in (str, int, float, bool)}


@dataclass(frozen=True)
class Plan:
    """What a study computes.

    Attributes:
        parameters: all that the profile says, as JSON can say it.
        inputs: where data and weights come from, with checksums.
        columns: of the table.
        pieces: in the order in which they are computed and stored. Each is plain data, holds everything that determines
            its rows, and has a list `images` with one row each.
        compute: piece -> rows, the same on one machine in whatever order.
        cost: piece -> work, in units of its own choice, for the time left.
    """

    parameters: dict[str, Any]
    inputs: dict[str, Any]
    columns: Columns
    pieces: Sequence[Piece]
    compute: Callable[[Piece], list[Row]]
    cost: Callable[[Piece], float]


@dataclass(frozen=True)
class Recomputable:
    """How closely the columns of a study come out again on another machine, for `fragility verify`.

    Where neither says anything, numbers have to agree to 1e-4 (relative beyond 1), everything else exactly.

    Attributes:
        within: column -> the largest difference allowed, absolute; a text of numbers is compared number by number.
        means: column -> by how much the mean of some rows may leave the stored interval of that mean, for what an
            iterative attack ends in: rounding flips signs of gradients, and the paths part.
    """

    within: Mapping[str, float] = field(default_factory=dict)
    means: Mapping[str, float] = field(default_factory=dict)


def checkout() -> Path | None:
    """Return the root of the checkout that the package is imported from, or None for an installed package."""
    root = Path(fragility.__file__).parents[2]
    return root if (root / "pyproject.toml").is_file() and (root / "results").is_dir() else None


def results_folder() -> Path:
    """Return the folder of the stored results: `results` of a checkout, else the copy that the package carries.

    Returns:
        An existing folder, unless the package was built without results.
    """
    root = checkout()
    return Path(fragility.__file__).parent / "results" if root is None else root / "results"


def read(study: str, profile: str, folder: Path | None = None) -> list[Row]:
    """Read the stored rows of a study.

    Args:
        study: its name, for example `"attack_sweep"`.
        profile: `"fast"`, `"laptop"` or `"paper"`.
        folder: where the results lie; None for `results_folder`.

    Returns:
        One dict per row, with the values of the right types; an empty number is NaN (float) or None (int).
    """
    return [row for rows in read_pieces(study, profile, folder).values() for row in rows]


def read_pieces(study: str, profile: str, folder: Path | None = None) -> dict[str, list[Row]]:
    """Read the stored rows of a study, piece by piece.

    Args:
        study: as for `read`.
        profile: as for `read`.
        folder: as for `read`.

    Returns:
        The rows of every piece, by the piece's name.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if they are damaged; the error names the file and the lines.
    """
    table, story = _paths(study, profile, folder)
    stored = _load_story(story)
    columns = {name: _TYPES[column["type"]] for name, column in stored["columns"].items()}
    sound, complaint = _load_table(table, columns, stored)
    if complaint:
        raise ValueError(f"{complaint}; `fragility run {study} --profile {profile}` repairs it")
    return {
        piece: [
            {name: _read_value(text, kind) for (name, kind), text in zip(columns.items(), row[:-2], strict=True)}
            for row in csv.reader(lines)
        ]
        for piece, lines in sound.items()
    }


def provenance(study: str, profile: str, folder: Path | None = None) -> dict[str, Any]:
    """Read how the stored rows of a study came about.

    Args:
        study: its name.
        profile: its profile.
        folder: where the results lie; None for `results_folder`.

    Returns:
        `complete`, `rows`, `pieces`, `parameters`, `inputs`, `columns`, and `sessions`: for each run its time, commit,
        device, versions of packages, and the seconds that each piece took.
    """
    return _load_story(_paths(study, profile, folder)[1])


class Store:
    """The table of a plan on disk: which pieces are done, and how another one is added. One process at a time."""

    def __init__(self, study: str, profile: str, plan: Plan, folder: Path, session: dict[str, Any]) -> None:
        self.table, self._story_path = _paths(study, profile, folder)
        self._names = {piece_name(piece): piece for piece in plan.pieces}
        if len(self._names) < len(plan.pieces):
            raise ValueError(f"plan: expected {len(plan.pieces)} different pieces, got {len(self._names)}")
        self._columns = plan.columns
        self._done: dict[str, list[str]] = {}
        self._sessions = [session | {"seconds": {}}]
        self._story = {
            "study": study,
            "profile": profile,
            "parameters": plan.parameters,
            "inputs": plan.inputs,
            "columns": {name: {"type": kind.__name__, "meaning": text} for name, (kind, text) in plan.columns.items()},
        }
        if self.table.exists() or self._story_path.exists():
            stored = _load_story(self._story_path)
            self._sessions = [*stored["sessions"], *self._sessions]
            self._done, complaint = _load_table(self.table, plan.columns, stored)
            if foreign := self._done.keys() - self._names.keys():
                raise ValueError(
                    f"{self.table}: holds {sum(len(self._done[name]) for name in foreign)} rows made with other "
                    f"parameters ({_changes(plan, stored)}), which never mix; to start anew delete it and "
                    f"{self._story_path.name}, or name another folder for the results"
                )
            if complaint:
                message = f"{complaint}; {self.rows()} sound rows are kept, the rest is computed again"
                warnings.warn(message, stacklevel=3)
                self._write_table()

    def missing(self) -> list[Piece]:
        """Return the pieces of the plan that have no rows yet, in the plan's order."""
        return [piece for name, piece in self._names.items() if name not in self._done]

    def rows(self) -> int:
        """Return how many rows there are."""
        return sum(map(len, self._done.values()))

    def add(self, piece: Piece, rows: Sequence[Row], seconds: float) -> None:
        """Store the rows of a piece, all of them or, if the process dies, none.

        Args:
            piece: one of the plan.
            rows: its rows, with the plan's columns.
            seconds: how long it took.
        """
        name = piece_name(piece)
        bodies = [_line([*(_write_value(row[column]) for column in self._columns), name]) for row in rows]
        self._done[name] = [f"{body},{_checksum(bodies)}" for body in bodies]
        for session in self._sessions:  # an earlier one may have computed it, before it was damaged
            session["seconds"].pop(name, None)
        self._sessions[-1]["seconds"][name] = round(seconds, 2)
        progress = {
            "complete": len(self._done) == len(self._names),
            "rows": self.rows(),
            "pieces": {"done": len(self._done), "planned": len(self._names)},
        }
        story = {**self._story, **progress, "sessions": self._sessions}
        # The story first: a table without one would be refused.
        _replace(self._story_path, json.dumps(story, indent=1, allow_nan=False))
        self._write_table()

    def _write_table(self) -> None:
        lines = [line for name in self._names for line in self._done.get(name, [])]
        _replace(self.table, "\n".join([_header(self._columns), *lines]))


def piece_name(piece: Piece) -> str:
    """Return the checksum by which the table knows a piece."""
    return hashlib.sha256(json.dumps(piece, sort_keys=True, allow_nan=False).encode()).hexdigest()[:12]


def _paths(study: str, profile: str, folder: Path | None) -> tuple[Path, Path]:
    stem = (results_folder() if folder is None else folder) / f"{study}-{profile}"
    return stem.with_suffix(".csv"), stem.with_suffix(".json")


def _load_story(path: Path) -> dict[str, Any]:
    try:
        story: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: missing, and with it how the results came about; run the study") from error
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); bring it back, or delete it and the table beside it") from error
    return story


def _load_table(path: Path, columns: Iterable[str], story: dict[str, Any]) -> tuple[dict[str, list[str]], str]:
    """The lines of the sound pieces by name, and what is wrong with the rest."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else _header(columns)
    lines = text.rstrip("\n").split("\n")
    damaged = [] if lines[0] == _header(columns) else [1]
    pieces: dict[str, list[tuple[int, str]]] = {}
    for number, line in enumerate(lines[1:], 2):
        pieces.setdefault("".join(line.split(",")[-2:-1]), []).append((number, line))
    sound = {}
    for name, members in pieces.items():
        checksum = _checksum([line.rpartition(",")[0] for _, line in members])
        if all(line.rpartition(",")[2] == checksum for _, line in members):
            sound[name] = [line for _, line in members]
        else:
            damaged += [number for number, _ in members]
    if damaged:
        shown = ", ".join(map(str, sorted(damaged)[:8])) + (", ..." if len(damaged) > 8 else "")
        return sound, f"{path}: {'line' if len(damaged) == 1 else 'lines'} {shown} damaged"
    # The story is written first, so that a killed process may have left it one piece ahead.
    if len(sound) + 1 < story["pieces"]["done"]:
        return sound, f"{path}: {story['rows'] - sum(map(len, sound.values()))} rows at its end are missing"
    return sound, ""


def _changes(plan: Plan, stored: dict[str, Any]) -> str:
    now: dict[str, Any] = json.loads(json.dumps({**plan.parameters, **plan.inputs}))
    old = {**stored["parameters"], **stored["inputs"]}
    changed = [key for key in now.keys() | old.keys() if now.get(key) != old.get(key)]
    return f"changed: {', '.join(sorted(changed)) or 'the meaning of a row'}"


def _checksum(bodies: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(bodies).encode()).hexdigest()[:12]


def _header(columns: Iterable[str]) -> str:
    return _line([*columns, "piece", "checksum"])


def _line(fields: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(fields)
    return buffer.getvalue()


def _write_value(value: Value) -> str:
    if isinstance(value, float):  # seven digits are what single precision holds
        return "" if value != value else f"{value:.7g}"
    return "" if value is None else str(value)


def _read_value(text: str, kind: type) -> Value:
    if kind is float:
        return float(text or "nan")
    if kind is int:
        return int(text) if text else None
    return text == "True" if kind is bool else text


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)

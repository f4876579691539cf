"""Results on disk: a table of rows per study and profile (CSV), and beside it how the rows came about (JSON).

The rows of a piece are written together: the whole table, which is small, is replaced in one rename after every piece,
so a run killed at any moment leaves the table from before or after it. Pieces appear once, in the order of the plan,
however the run went. A row ends with the name of its piece, which is a checksum of all that determines its rows, and a
checksum of the piece's rows: damage is found, and rows made with other parameters never mix.
"""

import csv
import hashlib
import io
import json
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import fragility
from fragility.study.piece import Piece, Plan, Row, Value

_READ: dict[str, Callable[[str], Value]] = {
    "str": str,
    "int": lambda text: int(text) if text else None,
    "float": lambda text: float(text or "nan"),
    "bool": lambda text: text == "True",
}


def checkout() -> Path | None:
    """Return the root of the checkout that the package is imported from, or None for an installed package."""
    root = Path(fragility.__file__).parents[2]
    return root if (root / "pyproject.toml").is_file() and (root / "results").is_dir() else None


def results_folder() -> Path:
    """Return the folder of the stored results: `results` of a checkout, else the copy that the package carries.

    The environment variable `FRAGILITY_RESULTS` names another one.
    """
    if named := os.environ.get("FRAGILITY_RESULTS"):
        return Path(named)
    root = checkout()
    return Path(fragility.__file__).parent / "results" if root is None else root / "results"


def stored(name: str, folder: Path | None = None) -> pd.DataFrame:
    """Read a table of results: every figure, table and verdict of the book starts here.

    Args:
        name: study and profile, for example `"attack_sweep-laptop"`; or `"published"`, the means read off the paper's
            figure.
        folder: where the results are; None for `results_folder`.

    Returns:
        One row per stored row, in the order of the plan, checked against its checksum; missing numbers are NaN. Its
        `attrs` tell how the table came about: `source`, `commit`, `complete`, `parameters` and `inputs`.

    Raises:
        FileNotFoundError: if the table does not exist.
        ValueError: if it is damaged; the error names the file and the lines.
    """
    folder = results_folder() if folder is None else folder
    if name == "published":
        return pd.read_csv(folder / "published.csv")
    study, _, profile = name.rpartition("-")
    frame = pd.DataFrame(read(study, profile, folder))
    record = provenance(study, profile, folder)
    session = record["sessions"][-1]
    frame.attrs = {
        "source": f"`{name}.csv`, {len(frame)} rows, {session.get('device')}",
        "commit": session.get("commit"),
        "complete": record["complete"],
        "parameters": record["parameters"],
        "inputs": record["inputs"],
    }
    return frame


def read(study: str, profile: str, folder: Path | None = None) -> list[Row]:
    """Read the stored rows of a study.

    Args:
        study: its name, for example `"attack_sweep"`.
        profile: `"fast"`, `"laptop"` or `"paper"`.
        folder: where the results are; None for `results_folder`.

    Returns:
        A dict per row with values of the columns' types; a missing number is NaN (float) or None (int).
    """
    return [row for rows in read_pieces(study, profile, folder).values() for row in rows]


def read_pieces(study: str, profile: str, folder: Path | None = None) -> dict[str, list[Row]]:
    """Read the stored rows of a study, by the names of their pieces.

    Args:
        study: as for `read`.
        profile: as for `read`.
        folder: as for `read`.

    Returns:
        The rows of every piece.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if they are damaged; the error names the file and the lines.
    """
    table, record = _paths(study, profile, folder)
    stored = _load_record(record)
    columns = {name: _READ[column["type"]] for name, column in stored["columns"].items()}
    sound, complaint = _load_table(table, columns, stored)
    if complaint:
        raise ValueError(f"{complaint}; `fragility run {study} --profile {profile}` repairs it")

    def value(row: list[str]) -> Row:
        return {name: read(text) for (name, read), text in zip(columns.items(), row[:-2], strict=True)}

    return {piece: [value(row) for row in csv.reader(lines)] for piece, lines in sound.items()}


def provenance(study: str, profile: str, folder: Path | None = None) -> dict[str, Any]:
    """Read how the stored rows of a study came about.

    Args:
        study: as for `read`.
        profile: as for `read`.
        folder: as for `read`.

    Returns:
        `complete`, `rows`, `pieces`, `parameters`, `inputs`, `columns`, and `sessions`: for each run its time, commit,
        device, versions of packages, and the seconds that each piece took.
    """
    return _load_record(_paths(study, profile, folder)[1])


class Store:
    """The table of a plan on disk: which pieces are done, and how another one is added. One process at a time."""

    def __init__(self, study: str, profile: str, plan: Plan, folder: Path, session: dict[str, Any]) -> None:
        self.table, self._record_path = _paths(study, profile, folder)
        self._names = {piece_name(piece): piece for piece in plan.pieces}
        if len(self._names) < len(plan.pieces):
            raise ValueError(f"plan: expected {len(plan.pieces)} different pieces, got {len(self._names)}")
        self._columns = plan.study.columns
        self._done: dict[str, list[str]] = {}
        self._sessions = [session | {"seconds": {}}]
        columns = {name: {"type": kind.__name__, "meaning": text} for name, (kind, text) in self._columns.items()}
        self._record = {"study": study, "profile": profile, "parameters": plan.parameters, "inputs": plan.inputs}
        self._record["columns"] = columns
        if self.table.exists() or self._record_path.exists():
            stored = _load_record(self._record_path)
            self._sessions = [*stored["sessions"], *self._sessions]
            self._done, complaint = _load_table(self.table, self._columns, stored)
            if count := sum(len(lines) for name, lines in self._done.items() if name not in self._names):
                raise ValueError(
                    f"{self.table}: holds {count} rows made with other parameters ({_changes(plan, stored)}), which "
                    f"must not mix; to start anew delete it and {self._record_path.name}, or name another folder"
                )
            if complaint:
                message = f"{complaint}; {self.rows()} sound rows are kept, the rest is computed again"
                warnings.warn(message, stacklevel=3)
                self._write_table()

    def missing(self) -> list[Piece]:
        """Return the pieces of the plan that have no rows yet, in the plan's order."""
        return [piece for name, piece in self._names.items() if name not in self._done]

    def rows(self) -> int:
        """Return the number of rows."""
        return sum(map(len, self._done.values()))

    def add(self, piece: Piece, rows: Sequence[Row], seconds: float) -> None:
        """Store the rows of a piece, which took so many seconds: all of them or, if the process dies, none."""
        name = piece_name(piece)
        bodies = [_line([*(_write_value(row[column]) for column in self._columns), name]) for row in rows]
        self._done[name] = [f"{body},{_checksum(bodies)}" for body in bodies]
        for session in self._sessions:  # an earlier one may have computed it, before it was damaged
            session["seconds"].pop(name, None)
        self._sessions[-1]["seconds"][name] = round(seconds, 2)
        pieces = {"done": len(self._done), "planned": len(self._names)}
        progress = {"complete": pieces["done"] == pieces["planned"], "rows": self.rows(), "pieces": pieces}
        record = {**self._record, **progress, "sessions": self._sessions}
        # The record first: a table without one would be refused.
        _replace(self._record_path, json.dumps(record, indent=1, allow_nan=False))
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


def _load_record(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: missing; it says how the results came about; run the study") from error
    except ValueError as error:
        raise ValueError(
            f"{path}: damaged ({error}); restore it, or delete it together with the table beside it"
        ) from error
    return record


def _load_table(path: Path, columns: Iterable[str], record: dict[str, Any]) -> tuple[dict[str, list[str]], str]:
    """Return the lines of the sound pieces by name, and what is wrong with the others."""
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
    # The record is written first, so a killed process may have left it one piece ahead.
    if len(sound) + 1 < record["pieces"]["done"]:
        return sound, f"{path}: {record['rows'] - sum(map(len, sound.values()))} rows at its end are missing"
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


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.part")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)

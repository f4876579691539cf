"""Change the numbers of a stored table as only its owner could: checksums and all."""

import csv
from collections.abc import Callable
from pathlib import Path


def forge(study: str, profile: str, folder: Path, column: str, change: Callable[[str], str], **where: str) -> None:
    """Change a column in the rows whose columns hold what `where` says."""
    from fragility.study.store import _checksum, _header, _line

    table = folder / f"{study}-{profile}.csv"
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    pieces: dict[str, list[str]] = {}
    for row in rows:
        if all(row[name] == value for name, value in where.items()):
            row[column] = change(row[column])
        name = row["piece"]
        pieces.setdefault(name, []).append(_line([value for key, value in row.items() if key != "checksum"]))
    names = [name for name in rows[0] if name not in ("piece", "checksum")]
    lines = [f"{body},{_checksum(bodies)}" for bodies in pieces.values() for body in bodies]
    table.write_text("\n".join([_header(names), *lines, ""]), encoding="utf-8")

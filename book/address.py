"""The address of the published repository, which stands once in pyproject.toml.

`python book/address.py` prints it; `python book/address.py https://github.com/NAME/REPOSITORY` writes a new
one into every tracked file that carries the old one (Colab buttons, install cells, edit links, citation).
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATTERN = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+)")


def slug(address: str) -> str:
    """Return the NAME/REPOSITORY part of a GitHub address.

    Args:
        address: a repository's address, `https://github.com/NAME/REPOSITORY`.

    Returns:
        What follows the host.

    Raises:
        ValueError: the address is not one of a GitHub repository.
    """
    found = PATTERN.fullmatch(address.removesuffix("/").removesuffix(".git"))
    if found is None:
        raise ValueError(f"address: expected https://github.com/NAME/REPOSITORY, got {address}")
    return found[1]


def current(root: Path = ROOT) -> str:
    """Return the NAME/REPOSITORY that pyproject.toml names."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return slug(project["urls"]["Repository"])


def site_address(repository: str) -> str:
    """Return where GitHub Pages publishes a repository.

    Args:
        repository: its address, `https://github.com/NAME/REPOSITORY`.

    Returns:
        The site's address, with a slash at the end.
    """
    owner, name = slug(repository).split("/")
    host = f"{owner.lower()}.github.io"
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def replace(address: str, root: Path = ROOT) -> list[Path]:
    """Write a new address wherever the current one stands, and that of the site that is published from it.

    Args:
        address: the new one, `https://github.com/NAME/REPOSITORY`.
        root: a git checkout of the project.

    Returns:
        The files that changed, relative to the root.
    """
    old, new = current(root), slug(address)
    if old == new:
        return []
    whole = re.compile(rf"(?<![\w.-]){re.escape(old)}(?![\w-])")
    here, there = (site_address(f"https://github.com/{name}") for name in (old, new))
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True)
    changed = []
    for name in filter(None, listed.stdout.split("\0")):
        before = (root / name).read_bytes()
        if old.encode() not in before and here.encode() not in before:
            continue
        after = whole.sub(new, before.decode()).replace(here, there)
        if after.encode() != before:
            (root / name).write_bytes(after.encode())
            changed.append(Path(name))
    return changed


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(f"https://github.com/{current()}")
    for path in replace(sys.argv[1]) if len(sys.argv) > 1 else []:
        print(path)

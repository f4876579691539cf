"""The project's own files agree with one another."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from address import current, replace, site_address, slug
from packaging.markers import Marker
from packaging.requirements import Requirement

import fragility

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = [Requirement(line) for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def declared() -> list[Requirement]:
    project = PROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [need for need in map(Requirement, lines) if need.name != project["name"]]


def key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(environment: dict[str, str]) -> dict[str, str]:
    """What the lock installs on one kind of machine."""
    chosen = [pin for pin in LOCK if pin.marker is None or pin.marker.evaluate(environment)]
    assert len({key(pin.name) for pin in chosen}) == len(chosen)
    return {key(pin.name): next(iter(pin.specifier)).version for pin in chosen}


@pytest.mark.parametrize("python", ["3.11.7", "3.12.4", "3.13.1"])
@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_the_lock_satisfies_every_declared_range(python: str, system: str) -> None:
    short = ".".join(python.split(".")[:2])
    pins = pinned({"python_version": short, "python_full_version": python, "sys_platform": system})
    wrong = [str(n) for n in declared() if not n.specifier.contains(pins.get(key(n.name), "0"), prereleases=True)]
    assert wrong == []


def test_the_lock_is_exact_portable_and_names_no_index() -> None:
    assert [str(pin) for pin in LOCK if pin.url or [s.operator for s in pin.specifier] != ["=="]] == []
    assert not re.search(r"https?:|file:|(^|\s)[-/]", read("requirements.lock"), re.MULTILINE)
    markers = {str(pin.marker) for pin in LOCK if pin.marker}
    assert {'sys_platform == "linux"', 'sys_platform == "win32"', 'sys_platform == "darwin"'} <= markers
    assert all(Marker(marker) for marker in markers)


def test_conda_installs_the_lock_and_the_package() -> None:
    environment = yaml.safe_load(read("environment.yml"))
    assert environment["name"] == PROJECT["project"]["name"]
    python, _, by_pip = environment["dependencies"]
    assert PROJECT["project"]["requires-python"] == python.replace("python=", ">=")
    assert by_pip == {"pip": ["-r requirements.lock", "-e ."]}


def test_the_readme_names_the_two_commands_and_make_knows_every_command_that_is_documented() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    machines = re.findall(r"^MACHINES := (.*)", read("Makefile"), re.MULTILINE)[0].split()
    assert {"make book", "make test"} <= set(re.findall(r"^make \w+", read("README.md"), re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md", "book/how_to_run.md", ".ci/run", ".github/workflows/book.yml"):
        used = re.findall(r"(?:^\s*|`|run: )make ([a-z-]+)", read(name), re.MULTILINE)
        assert set(used) <= targets | {f"check-machine-{machine}" for machine in machines}, name
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert targets - {"help"} <= set(re.findall(r"^ +make ([a-z-]+)", shown, re.MULTILINE)) | {"force"}


def test_the_repositorys_address_and_version_are_the_same_everywhere() -> None:
    name = current()
    assert yaml.safe_load(read("_config.yml"))["repository"]["url"] == f"https://github.com/{name}"
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["repository-code"] == f"https://github.com/{name}"
    assert citation["version"] == PROJECT["project"]["version"]
    chapters = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    buttons = re.findall(r"colab\.research\.google\.com/github/([^)\s]+)", read("README.md"))
    assert sorted({*buttons}) == [f"{name}/blob/main/notebooks/{chapter}" for chapter in chapters]
    project = name.split("/")[1]
    for path in ["README.md", "_config.yml", *(f"notebooks/{p.name}" for p in (ROOT / "notebooks").glob("*.*"))]:
        other = set(re.findall(rf"github(?:\.com)?/([\w.-]+/{re.escape(project)})(?![\w-])", read(path))) - {name}
        assert other == set(), path


def test_a_new_address_is_written_everywhere_and_nowhere_else(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    old = 'urls = { Repository = "https://github.com/grace/atlas" }'
    (tmp_path / "pyproject.toml").write_text(f"[project]\n{old}\n", encoding="utf-8")
    (tmp_path / "a.md").write_text("git+https://github.com/grace/atlas.git grace/atlas-x\n", encoding="utf-8")
    (tmp_path / "b.md").write_text("https://github.com/amiratag/InterpretationFragility\n", encoding="utf-8")
    (tmp_path / "c.md").write_text("https://grace.github.io/atlas/book/play.html\n", encoding="utf-8")
    subprocess.run(["git", "add", "-A"], cwd=tmp_path, check=True)
    assert replace("https://github.com/ada/book/", tmp_path) == [Path("a.md"), Path("c.md"), Path("pyproject.toml")]
    assert (tmp_path / "c.md").read_text(encoding="utf-8") == "https://ada.github.io/book/book/play.html\n"
    assert (tmp_path / "a.md").read_text(encoding="utf-8") == "git+https://github.com/ada/book.git grace/atlas-x\n"
    assert current(tmp_path) == "ada/book"
    assert replace("https://github.com/ada/book", tmp_path) == []


def test_where_a_repository_is_published() -> None:
    assert site_address("https://github.com/Grace/atlas") == "https://grace.github.io/atlas/"
    assert site_address("https://github.com/grace/grace.github.io") == "https://grace.github.io/"


@pytest.mark.parametrize("address", ["", "grace/atlas", "https://example.org/a/b", "https://github.com/a"])
def test_what_is_not_an_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"address: expected https://github\.com/NAME/REPOSITORY"):
        slug(address)


def test_citations_in_docstrings_and_pages_are_in_the_bibliography() -> None:
    known = re.findall(r"^@\w+\{(\w+),", read("book/references.bib"), re.MULTILINE)
    assert len(known) == len(set(known))
    for path in sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "notebooks").glob("*.py")]):
        cited = re.findall(r"\[([A-Z][A-Za-z]+(?:19|20)\d\d)\]", path.read_text(encoding="utf-8"))
        assert set(cited) <= set(known), path.name


def test_the_readmes_links_lead_to_files() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", read("README.md")) if "://" not in link]
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_the_readmes_lines_for_ones_own_model_run() -> None:
    lines = re.search(r"```python\n(.*?)```", read("README.md"), re.DOTALL)
    assert lines is not None
    names: dict[str, Any] = {}
    exec(lines[1], names)  # noqa: S102 - the page's own text
    attacked = names["attacked"]
    assert attacked.labels_kept.all()
    assert (attacked.images - names["images"]).abs().max() <= 8 / 255 + 1e-6
    assert (names["top_k_intersection"](names["before"], names["after"], 1000) < 0.1).all()


def test_only_the_ci_script_knows_the_neighbouring_folder() -> None:
    command = ["git", "grep", "-lI", "[.][.]/shared"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert set(listed.stdout.split()) <= {".ci/run"}


def test_the_packages_map_is_loaded_on_demand_and_known_to_type_checkers() -> None:
    code = "import sys, fragility; print({'torch', 'numpy'} & set(sys.modules)); print(fragility.deeplift.__module__)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["set()", "fragility.attribution"]
    tree = ast.parse(Path(fragility.__file__).read_text(encoding="utf-8"))
    imports = {(a.name, node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for a in node.names}
    assert imports >= {(name, f"fragility.{module}") for name, module in fragility._HOME.items()}
    assert all(callable(getattr(fragility, name)) for name in fragility._HOME)
    assert set(dir(fragility)) > set(fragility._HOME)
    with pytest.raises(AttributeError, match="module 'fragility' has no attribute 'deep_lift'"):
        fragility.deep_lift  # noqa: B018


def test_the_readme_and_the_pages_call_the_chapters_by_the_same_names() -> None:
    listed = dict(re.findall(r"\[([^\]]+)\]\(notebooks/(\w+)\.ipynb\)", read("README.md")))
    sources = sorted((ROOT / "notebooks").glob("*.py"))
    titles = {path.stem: re.findall("(?m)^# # (.+)$", path.read_text("utf-8"))[0] for path in sources}
    assert {name: title for title, name in listed.items()} == titles
    assert set(re.findall(r"\[\]\(\.\./notebooks/(\w+)\.ipynb\)", read("book/intro.md"))) == {*titles}

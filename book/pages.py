"""Turn the notebooks' sources (`notebooks/*.py`) into executed pages (`.ipynb`).

    python book/pages.py execute -p profile laptop --output FOLDER    pages for the site, the tree untouched
    python book/pages.py refresh [NAME ...]                           the committed pages beside the sources
    python book/pages.py check                                        are the committed pages in step?
    python book/pages.py lighten FOLDER                               make the figures and pictures of its pages smaller

A page is a function of its source and of the results that the source names, and sees no others. Cell ids come from the
cells' text, run times are dropped: a second execution on the same machine gives the same bytes.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
import zmq
from address import ROOT, current
from lighter import packed, tidy
from nbformat import NotebookNode
from traitlets.config import Config

from fragility.study.claims import LEDGER

NOTEBOOKS = ROOT / "notebooks"
RESULTS = ROOT / "results"
METADATA = {
    "jupytext": {"formats": "ipynb,py:percent"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "name": "python", "pygments_lexer": "ipython3"},
}
# One thread per notebook and nothing from the user's own IPython: what makes two executions equal.
KERNEL = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "JUPYTER_PREFER_ENV_PATH": "1"}


def results_named(source: Path, results: Path = RESULTS) -> list[Path]:
    """Return the stored results that a notebook names in quotes, themselves or by a claim whose rule reads them."""
    names = set(re.findall(r'"([\w-]+)"', source.read_text(encoding="utf-8")))
    studies = {study for claim in LEDGER if claim.id in names for study in claim.tables}
    paths = (path for path in sorted(results.iterdir()) if path.is_file())
    return [path for path in paths if path.stem in names | studies or path.stem.rpartition("-")[0] in studies]


def fingerprint(source: Path, results: Path = RESULTS) -> str:
    """Hash everything that decides a page: its source and the result files that the source names.

    Args:
        source: a notebook's `.py` file.
        results: folder of stored results.

    Returns:
        A hexadecimal sha256. The repository's address does not count: it changes when a fork publishes.
    """
    text = source.read_text(encoding="utf-8").replace(current(), "")
    digest = hashlib.sha256(text.encode())
    for path in results_named(source, results):
        digest.update(path.relative_to(results).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def read_source(source: Path) -> NotebookNode:
    """Read a percent-format source as a notebook without outputs, its cell ids derived from the cells."""
    notebook: NotebookNode = jupytext.read(source, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA | {"fragility": {"hash": fingerprint(source)}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: Counter[str] = Counter()
    address = current()
    for cell in notebook.cells:
        text = f"{cell.cell_type}\n{cell.source}".replace(address, "")
        cell.id = hashlib.sha256(f"{text}\n{seen[text]}".encode()).hexdigest()[:12]
        seen[text] += 1
        for key in [key for key in cell.metadata if key.startswith("lines_to_")]:
            del cell.metadata[key]
    return notebook


def changed_parameters(draft: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that differ from a notebook's defaults.

    Args:
        draft: an `.ipynb` file whose parameters cell carries the tag `parameters`.
        values: parameter names and the values wanted.

    Returns:
        The part of `values` that has to be injected.

    Raises:
        ValueError: a name is not among the notebook's parameters.
    """
    known = papermill.inspect_notebook(str(draft))
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{draft.stem}: expected parameters among {sorted(known)}, got {unknown}")
    defaults = {name: ast.literal_eval(known[name]["default"]) for name in values}
    return {name: value for name, value in values.items() if value != defaults[name]}


def output_problems(page: NotebookNode) -> list[str]:
    """List what is wrong with the outputs of an executed page (nothing, in a sound one)."""
    found = []
    code = [cell for cell in page.cells if cell.cell_type == "code" and cell.source.strip()]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("not every code cell was executed once, top to bottom")
    for cell in code:
        where = f"the cell `{cell.source.strip().splitlines()[0]}`"
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"{where} ended in {output.ename}")
            elif output.output_type == "stream" and output.name == "stderr":
                found.append(f"{where} wrote to stderr, a warning or a progress bar: {output.text.strip()}")
    return found


def transport() -> Config:
    """Talk to kernels through files where the system can, which Windows may not: they announce an open TCP port."""
    return Config(KernelManager={"transport": "ipc" if zmq.has("ipc") else "tcp"})


def execute(
    source: Path, output: Path, values: Mapping[str, Any], *, read: Callable[[Path], NotebookNode] = read_source
) -> float:
    """Execute a notebook on a temporary copy and write the page.

    Args:
        source: the `.py` file.
        output: the `.ipynb` file to write; replaced as a whole once everything went well.
        values: parameters; those that differ from the defaults appear in a cell of their own.
        read: makes a notebook of the source.

    Returns:
        The seconds it took.

    Raises:
        RuntimeError: the page has problems (see `output_problems`).
    """
    started = time.monotonic()
    page = read(source)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results")
        results.mkdir()
        for path in results_named(source):
            shutil.copy(path, results)
        draft, done = Path(folder, f"{source.stem}.ipynb"), Path(folder, "done.ipynb")
        nbformat.write(page, draft)
        injected = changed_parameters(draft, values)
        with _environment(KERNEL | os.environ | {"IPYTHONDIR": folder, "FRAGILITY_RESULTS": str(results)}):
            papermill.execute_notebook(
                draft,
                done,
                injected,
                kernel_name="python3",
                cwd=folder,
                progress_bar=False,
                coalesce_streams=True,
                config=transport(),
            )
        executed = nbformat.read(done, as_version=4)
    original = {cell.id: cell for cell in page.cells}
    for cell in executed.cells:
        if cell.id in original:
            cell.metadata = original[cell.id].metadata
        else:
            cell.id, cell.metadata, cell.source = "injected-parameters", NotebookNode(), cell.source.strip()
        if injected and cell.cell_type == "code":  # larger profiles may download and train with a progress bar
            cell.outputs = [part for part in cell.outputs if part.get("name") != "stderr"]
    executed.metadata = page.metadata
    if found := output_problems(executed):
        raise RuntimeError(f"{source.name}: " + "; ".join(found))
    output.parent.mkdir(parents=True, exist_ok=True)
    partial_output = output.with_suffix(".partial")
    nbformat.write(executed, partial_output)
    partial_output.replace(output)
    return time.monotonic() - started


def lighten(page: Path) -> None:
    """Pack a page's pictures and keep one copy of a figure, the vector graphic, which shows wherever notebooks do.

    Args:
        page: an executed notebook, replaced.
    """
    notebook = nbformat.read(page, as_version=4)
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        data = output.get("data", {})
        if "image/svg+xml" in data:
            data["image/svg+xml"] = tidy(packed(data["image/svg+xml"]))
            data.pop("image/png", None)
        if "data:image" in data.get("text/html", ""):
            data["text/html"] = packed(data["text/html"])
    nbformat.write(notebook, page)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def problems(source: Path) -> list[str]:
    """List what is wrong with a committed pair of source and page.

    Args:
        source: the `.py` file; its page lies beside it.

    Returns:
        One sentence per problem; empty when the page is in step, fresh, and executed without an error.
    """
    page_path = source.with_suffix(".ipynb")
    if not page_path.exists():
        return [f"{source.name} has no page"]
    page, fresh = nbformat.read(page_path, as_version=4), read_source(source)
    found = []
    if [_identity(cell) for cell in page.cells] != [_identity(cell) for cell in fresh.cells]:
        found.append("the cells differ from those of the source")
    if page.metadata.get("fragility") != fresh.metadata.fragility:
        found.append("the outputs are stale: the source or the results it reads have changed")
    return [f"{page_path.name}: {problem}" for problem in found + output_problems(page)]


def _identity(cell: NotebookNode) -> tuple[str, str, str, str]:
    return cell.id, cell.cell_type, cell.source, json.dumps(cell.metadata, sort_keys=True)


def sources(names: list[str], folder: Path = NOTEBOOKS) -> list[Path]:
    """Return the sources of the named notebooks, of all of them when none is named.

    Args:
        names: stems such as `01_methods`.
        folder: where the sources lie.

    Returns:
        Their paths, in the order of the chapters.

    Raises:
        ValueError: a name is not that of a notebook.
    """
    known = {path.stem: path for path in sorted(folder.glob("*.py"))}
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"names: expected some of {sorted(known)}, got {unknown}")
    return [known[name] for name in names or known]


def execute_all(
    chosen: list[Path], output: Path, values: Mapping[str, Any], *, read: Callable[[Path], NotebookNode] = read_source
) -> None:
    """Execute several notebooks side by side, one per core, and report each as it ends.

    Args:
        chosen: the sources.
        output: folder of the pages. Unless it is that of the committed ones, the times go there as `seconds.json`.
        values: parameters.
        read: makes a notebook of a source.
    """
    times: dict[str, float] = {}
    with ProcessPoolExecutor(max_workers=max(1, min(len(chosen), os.cpu_count() or 1))) as pool:
        targets = [output / f"{source.stem}.ipynb" for source in chosen]
        run = partial(execute, values=values, read=read)
        for target, seconds in zip(targets, pool.map(run, chosen, targets), strict=True):
            times[target.stem] = round(seconds, 1)
            if output == NOTEBOOKS:
                lighten(target)
            print(f"  {target.stem} executed in {seconds:.0f} s", flush=True)
    if output != NOTEBOOKS:
        story = {"profile": values.get("profile", "fast"), "notebooks": times}
        (output / "seconds.json").write_text(json.dumps(story, indent=1), encoding="utf-8")


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description="Execute, refresh or check the book's notebooks.")
    commands = parser.add_subparsers(dest="command", required=True)
    execution = commands.add_parser("execute", help="execute copies of all notebooks into a folder")
    execution.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    execution.add_argument("--output", type=Path, required=True)
    refreshing = commands.add_parser("refresh", help="execute notebooks and replace their committed pages")
    for command in (execution, refreshing):
        command.add_argument("names", nargs="*", metavar="NOTEBOOK", help="such as 01_methods (default: all)")
    commands.add_parser("check", help="tell whether the committed pages are in step with their sources")
    commands.add_parser("lighten", help="make figures and pictures smaller").add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    try:
        if options.command == "lighten":
            for page in sorted(options.folder.glob("*.ipynb")):
                lighten(page)
            return 0
        if options.command == "check":
            orphans = {path.stem for path in NOTEBOOKS.glob("*.ipynb")} - {path.stem for path in sources([])}
            found = [f"{name}.ipynb has no source" for name in sorted(orphans)]
            found += [problem for source in sources([]) for problem in problems(source)]
            print("\n".join(found) or "every page is in step with its source")
            return int(bool(found))
        values = {name: _value(text) for name, text in getattr(options, "parameter", [])}
        execute_all(sources(options.names), getattr(options, "output", NOTEBOOKS), values)
    except (ValueError, RuntimeError, papermill.PapermillExecutionError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

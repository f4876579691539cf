"""All studies by name, as their declarations lie in the chapters; the other modules of the machinery know none."""

import tomllib
from importlib import import_module
from pathlib import Path

from fragility._checks import check_choice
from fragility.study.piece import Study, alike


def _study(path: Path) -> Study:
    """Import the study of a declaration; one without a module of its own runs as the study that it is like."""
    if path.with_suffix(".py").exists():
        study: Study = import_module(f"fragility.study.{path.parent.name}.{path.stem}").STUDY
        return study
    like = tomllib.loads(path.read_text(encoding="utf-8"))["like"]
    return alike(_study(path.with_name(f"{like}.toml")), str(path))


STUDIES = {path.stem: _study(path) for path in sorted(Path(__file__).parent.glob("*/*.toml"))}


def find(study: str, profile: str | None = None) -> Study:
    """Look a study up; ValueError if there is no such study, or it has no such profile."""
    check_choice("study", study, STUDIES)
    if profile is not None:
        check_choice("profile", profile, STUDIES[study].profiles)
    return STUDIES[study]

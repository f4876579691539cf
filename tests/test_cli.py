"""The `fragility` command, as a process and as a function."""

import hashlib
import re
import subprocess
import sys

import pytest

from fragility.cli import main
from fragility.data import sources
from fragility.data.sources import SOURCES


@pytest.fixture
def idx_files(data_folder, monkeypatch):
    """Four files that pass for MNIST's, by their checksums."""
    raw = data_folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in SOURCES["mnist"].checksums:
        (raw / name).write_text(name)
    sha256 = [hashlib.sha256(name.encode()).hexdigest() for name in SOURCES["mnist"].checksums]
    monkeypatch.setitem(SOURCES, "mnist", sources._idx("MNIST", 11.6, "CC BY-SA 3.0", *sha256))
    return raw


MISSING = {"fashion_mnist", "cifar10", "imagenet", "flowers", "compas"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fragility", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_is_quick_because_it_imports_nothing_heavy():
    code = (
        "import sys\nfrom fragility.cli import main\n"
        "main(['data', 'fetch', '--help'])\n"
        "print([m for m in ('torch', 'numpy', 'matplotlib', 'pooch') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fragility ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command"),
        (["data"], "fragility data: Missing command"),
        (["data", "lst"], "No such command 'lst'"),
        (["data", "fetch"], "Missing argument 'NAME...'"),
        (["run", "attack_sweep"], "Missing option '--profile'"),
        (["data", "fetch", "cifar11"], "name: expected one of digits, .* got 'cifar11'"),
        (["data", "fetch", "digits", "cifar11"], "got 'cifar11'"),
        (["data", "check", "cifar11"], "got 'cifar11'"),
        ("run attack_sweeps --profile fast".split(), "study: expected one of attack_sweep, "),
        ("run attack_sweep --profile slow".split(), "profile: expected one of fast, laptop, paper, got 'slow'"),
        ("run attack_sweep --profile fast --device tpu9".split(), "device: expected one that PyTorch can use"),
        ("run attack_sweep --profile fast --limit-images 0".split(), "limit_images: expected an integer >= 1"),
        ("verify angles attack_sweeps".split(), "study: expected one of attack_sweep, "),
        ("verify attack_sweep --profile slow".split(), "profile: expected one of fast, laptop, paper, got 'slow'"),
        ("verify angles attack_sweep".split(), "got none for angles, attack_sweep"),
        (["verify"], "got none for any study"),
        ("verify attack_sweep --rows 0".split(), "rows: expected an integer >= 1"),
    ],
)
def test_a_wrong_request_is_one_line_on_stderr_and_status_2(data_folder, capsys, arguments, message):
    results = ["--results", str(data_folder)] if {"run", "verify"} & {*arguments} else []
    assert main([*arguments, *results]) == 2
    assert not data_folder.exists()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("fragility")
    assert shown.err.count("\n") == 1
    assert re.search(message, shown.err)


def test_the_process_ends_with_that_status():
    failed = run("data", "check", "cifar11")
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1


def test_list_shows_every_source(idx_files, capsys):
    assert main(["data", "list"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"data folder: {idx_files.parent.parent}"
    assert shown[2].split() == ["name", "download", "present", "licence"]
    rows = {line.split()[0]: line for line in shown[3:]}
    assert set(rows) == set(SOURCES)
    assert rows["digits"].split()[1:3] == ["-", "yes"]
    assert rows["mnist"].split()[1:4] == ["12", "MB", "yes"]
    assert rows["flowers"].split()[1:] == ["229", "MB", "no", "CC", "BY", "2.0"]


def test_fetch_leaves_alone_what_is_there(idx_files, capsys):
    assert main(["data", "fetch", "mnist", "digits"]) == 0
    assert capsys.readouterr().out == "mnist: already there\ndigits: already there\n"


def test_check_of_all_reports_what_is_missing_without_failing(idx_files, capsys):
    assert main(["data", "check"]) == 0
    shown = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert shown["mnist"] == "4 files, sha256 verified"
    assert {name for name, text in shown.items() if text == "missing"} == MISSING


def test_check_fails_for_a_named_source_that_is_missing(idx_files, capsys):
    assert main(["data", "check", "mnist"]) == 0
    assert main(["data", "check", "mnist", "flowers"]) == 1
    assert capsys.readouterr().out.endswith("flowers: missing\n")


@pytest.mark.parametrize("arguments", [["data", "check"], ["data", "check", "mnist", "digits"]])
def test_check_fails_for_a_damaged_file_and_names_it(idx_files, capsys, arguments):
    (idx_files / "t10k-labels-idx1-ubyte").write_text("damaged")
    assert main(arguments) == 1
    damaged = [line for line in capsys.readouterr().out.splitlines() if "damaged" in line]
    assert len(damaged) == 1
    assert damaged[0].startswith(f"mnist: damaged: {idx_files / 't10k-labels-idx1-ubyte'}")

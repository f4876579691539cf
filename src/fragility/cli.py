"""The `fragility` command. A subcommand is one function here and one parser in `_parser`.

Heavy modules are imported inside the commands, so that `fragility --help` answers at once.
"""

import argparse
import importlib.metadata
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports a wrong command line in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def data_list(arguments: argparse.Namespace) -> int:
    """Print a table of the data sources.

    Args:
        arguments: none are used.

    Returns:
        Exit status 0.
    """
    from fragility.data.download import data_folder
    from fragility.data.sources import SOURCES

    print(f"data folder: {data_folder()}\n")
    print(f"{'name':<14}{'download':>10}  {'present':<8} licence")
    for name, source in SOURCES.items():
        size = f"{source.megabytes:.0f} MB" if source.megabytes else "-"
        print(f"{name:<14}{size:>10}  {'yes' if source.present() else 'no':<8} {source.licence}")
    return 0


def data_fetch(arguments: argparse.Namespace) -> int:
    """Download the named sources into the data folder.

    Args:
        arguments: `names`, keys of `fragility.data.sources.SOURCES`.

    Returns:
        Exit status 0.
    """
    from fragility.data.sources import find

    sources = {name: find(name) for name in arguments.names}
    for name, source in sources.items():
        present = source.present()
        if not present:
            source.fetch()
        print(f"{name}: {'already there' if present else 'fetched'}")
    return 0


def data_check(arguments: argparse.Namespace) -> int:
    """Verify the files of the named sources, or of all that are there.

    Args:
        arguments: `names`, keys of `fragility.data.sources.SOURCES`; empty for all.

    Returns:
        Exit status 0, or 1 if a source is damaged or a named one is missing.
    """
    from fragility.data.sources import SOURCES, find

    sources = {name: find(name) for name in arguments.names or SOURCES}
    status = 0
    for name, source in sources.items():
        if not source.present():
            print(f"{name}: missing")
            status = 1 if arguments.names else status
            continue
        try:
            print(f"{name}: {source.check()}")
        except (OSError, ValueError) as error:
            print(f"{name}: damaged: {error}")
            status = 1
    return status


def run(arguments: argparse.Namespace) -> int:
    """Compute what is missing of the results of one study or several.

    Args:
        arguments: `studies`, `profile`, `results`, `device`, `limit_images` and `scheduler`, the rest
            as `fragility.study.run.run` takes it.

    Returns:
        Exit status 0.
    """
    from fragility.study.run import run as run_study

    for study in arguments.studies:
        table, rows, computed, missing = run_study(
            study,
            arguments.profile,
            folder=arguments.results,
            device=arguments.device,
            limit_images=arguments.limit_images,
            scheduler=arguments.scheduler,
            progress=True,
        )
        print(f"{table}: {rows} rows; {computed} pieces computed now, {missing} still missing")
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Compute a random sample of the stored rows again and compare.

    Args:
        arguments: `study`, `profile`, `rows`, `results`, `device` and `seed`, as `fragility.study.verify.verify` takes
            them.

    Returns:
        Exit status 0 if all sampled rows agree, 1 if some do not, 3 if none disagrees but some could not be verified.
    """
    from fragility.study.verify import verify as verify_tables

    wrong = unknown = 0
    for report in verify_tables(
        arguments.study,
        arguments.profile,
        rows=arguments.rows,
        folder=arguments.results,
        device=arguments.device,
        seed=arguments.seed,
    ):
        print(
            f"{report.table}: of {report.stored} rows {report.verified} computed again, "
            f"{report.unverifiable} not verifiable here; {len(report.problems) or 'no'} differences"
        )
        if report.reason:
            print(f"  not verifiable: {report.reason}")
        for problem in report.problems:
            print(f"  {problem}")
        wrong += len(report.problems)
        unknown += report.unverifiable
    return 1 if wrong else 3 if unknown else 0


def claims(arguments: argparse.Namespace) -> int:
    """Evaluate every claim of the ledger from the stored results.

    Args:
        arguments: `write`, whether to write the book's page; `results`, the folder.

    Returns:
        Exit status 0, whatever the verdicts.
    """
    from fragility.study import claims as ledger

    for claim, finding, verdict in ledger.judge(arguments.results):
        n = "exact" if finding.exact else f"n = {finding.n}"
        print(f"{claim.id}  {verdict:<15}{n:<9} {claim.text}")
        for measure in finding.measures:
            print(f"      {measure.name}: {ledger.shown(measure, finding.exact)}, {measure.threshold}")
    if arguments.write:
        print(f"written: {ledger.write(arguments.results)}")
    return 0


def attack(arguments: argparse.Namespace) -> int:
    """Attack the importance map of a photograph; write pictures and a report into a folder.

    Args:
        arguments: those of `fragility.photograph.attack_photograph`.

    Returns:
        Exit status 0, or 1 if no iterate kept the label: the pictures then show the original.
    """
    from fragility.photograph import attack_photograph

    options = {name: value for name, value in vars(arguments).items() if name != "command"}
    report = attack_photograph(**options)
    before, after = report["original"], report["perturbed_png"]
    print(
        f"{before['class']} {before['confidence']:.2f} -> {after['class']} {after['confidence']:.2f}; "
        f"Spearman {after['spearman']:.2f}, centre of mass moved {after['center_shift']:.1f} px; see {arguments.out}"
    )
    if not report["label_kept"]:
        print("fragility: no iterate kept the label, so that nothing was changed", file=sys.stderr)
        return 1
    return 0


def _pixel_amount(text: str) -> float:
    """Read a positive amount of the pixel range: `8/255` or `0.03`."""
    try:
        amount = float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"expected a number such as 8/255 or 0.03, got {text!r}") from error
    if not 0 < amount <= 1:
        raise argparse.ArgumentTypeError(f"expected a part of the pixel range, in (0, 1], got {text!r}")
    return amount


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fragility",
        description="Attack and defend the interpretations of neural networks.",
        epilog="Try `fragility data list`, then `fragility COMMAND --help`.",
    )
    version = importlib.metadata.version("fragility")
    parser.add_argument("--version", action="version", version=f"fragility {version}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    data = commands.add_parser(
        "data",
        help="list, fetch and check the data sets",
        description="The data sets of the book. They live in $FRAGILITY_DATA (default ~/.cache/fragility).",
    ).add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = data.add_parser("list", help="name, size, licence, present or not")
    listing.set_defaults(command=data_list)
    fetch = data.add_parser("fetch", help="download data sets into the data folder")
    fetch.add_argument("names", nargs="+", metavar="NAME", help="a name that `fragility data list` shows")
    fetch.set_defaults(command=data_fetch)
    check = data.add_parser("check", help="verify what is there: checksums, numbers of files, readable images")
    check.add_argument("names", nargs="*", metavar="NAME", help="default: all that are there")
    check.set_defaults(command=data_check)

    study = commands.add_parser(
        "run",
        help="compute a study's results; killed at any moment, it resumes",
        description="Compute what is missing of a study, for example attack_sweep: a table (CSV) and how it came about "
        "(JSON). Killed at any moment, the same command resumes.",
    )
    study.add_argument("studies", nargs="+", metavar="STUDY", help="one of them or several, for example attack_sweep")
    study.add_argument("--profile", required=True, metavar="P", help="fast, laptop or paper")
    study.add_argument(
        "--results", type=Path, metavar="DIR", help="default: results/ of the checkout or of this folder"
    )
    study.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    study.add_argument("--limit-images", type=int, metavar="N", help="only pieces that begin among the first N images")
    study.add_argument(
        "--scheduler", metavar="ADDRESS", help="hand the pieces to the workers of this dask.distributed cluster"
    )
    study.set_defaults(command=run)

    again = commands.add_parser(
        "verify",
        help="compute a random sample of the stored results again",
        description="Compute a random sample of the stored rows again and compare. Exit status: 0 all agree, 1 some "
        "differ, 3 some could not be verified here, for want of data or weights.",
    )
    again.add_argument("study", nargs="?", metavar="STUDY", help="default: all that have results")
    again.add_argument("--profile", metavar="P", help="default: all that have results")
    again.add_argument("--rows", type=int, default=8, metavar="N", help="of each table, at least (default: 8)")
    again.add_argument("--results", type=Path, metavar="DIR", help="default: the results that came with the package")
    again.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    again.add_argument("--seed", type=int, metavar="N", help="of the sample (default: another one every time)")
    again.set_defaults(command=verify)

    scores = commands.add_parser(
        "claims",
        help="what the stored results say about every claim of the paper",
        description="Evaluate every claim of the ledger from the stored results, by rules fixed beforehand.",
    )
    scores.add_argument("--write", action="store_true", help="write the book's page, book/claims.md")
    scores.add_argument("--results", type=Path, metavar="DIR", help="default: the results that came with the package")
    scores.set_defaults(command=claims)

    photograph = commands.add_parser(
        "attack",
        help="change the importance map of a photograph of yours, not its label",
        description="Attack the importance map of a photograph. Writes original.png, perturbed.png, map_original.png, "
        "map_perturbed.png and report.json.",
    )
    # dest as the arguments of fragility.photograph.attack_photograph are called
    photograph.add_argument("--image", type=Path, required=True, metavar="FILE", help="any format that Pillow reads")
    photograph.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder for the results")
    photograph.add_argument("--model", choices=("squeezenet", "inception_v3"), default="squeezenet")
    methods = ("simple_gradient", "integrated_gradients", "deeplift")
    photograph.add_argument("--method", choices=methods, default="simple_gradient")
    photograph.add_argument(
        "--objective",
        dest="objective_name",
        choices=("top_k", "mass_center", "targeted"),
        default="top_k",
        help="targeted: into the quadrant away from the centre of mass",
    )
    amount: dict[str, Any] = {"type": _pixel_amount, "metavar": "E"}
    photograph.add_argument("--epsilon", **amount, default=8 / 255, help="radius of the L-inf ball (default: 8/255)")
    photograph.add_argument("--step-size", **amount, default=1 / 255, help="size of a step (default: 1/255)")
    photograph.add_argument("--iterations", type=int, default=60, metavar="P", help="number of steps (default: 60)")
    photograph.add_argument("--adaptive", action="store_true", help="adapt the step size; begin with --step-size 8/255")
    photograph.add_argument("--label", type=int, metavar="N", help="the class explained (default: the prediction)")
    photograph.add_argument("--k", type=int, default=1000, help="pixels that count as most important (default: 1000)")
    photograph.add_argument(
        "--path-steps", type=int, default=25, metavar="M", help="points on integrated gradients' path (default: 25)"
    )
    photograph.add_argument(
        "--surrogate-beta", type=float, metavar="B", help="sharpness of the softplus surrogate (default: a suggestion)"
    )
    photograph.set_defaults(command=attack)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the `fragility` command.

    Args:
        argv: the arguments after the command's name; None for those of the process.

    Returns:
        Exit status: 0 for success, 1 if a check failed, 2 for a wrong request or a source out of reach,
        130 if interrupted.
    """
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.command(arguments)
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"fragility: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return status

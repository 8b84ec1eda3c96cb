"""Every table and figure of the papers of CEPA, CM2 and PRIMO by one command, and one page: paper against ours.

Command:  python recipes/papers/run.py --list
          python recipes/papers/run.py cepa-table1 cm2-table2 --data DATA --encoders paper --out runs/papers
          amodal data make mimic3 --out DATA/mimic3 --patients 2000      (and mimic4) for data of the same form
          amodal data prepare avmnist --mnist … --fsdd … --esc50 … --out DATA/avmnist       for PRIMO's AV-MNIST
Time:     on the real data not measured: they are under credentialed access. On made data see docs/mimic.md.
Expected: the published numbers, beside which the page puts what was found.

DATA has the folders mimic3 and mimic4 (or --mimic3, --mimic4), each in its upstream layout; MIMIC-IV's with
mimic-cxr-jpg, mimic-cxr and mimic-iv-note in it; and avmnist, a prepared cohort. XOR and the ring need no data. Cohorts
are prepared once into OUT/cohorts, and what tables have in common is trained once. What is there already is kept: the
same command goes on where it stopped. --where ray computes on the Ray cluster that RAY_ADDRESS names. --encoders small
takes the library's own networks, without pretrained weights; paper those of the papers, from the Hugging Face hub or
from folders in --networks. --small runs at the smallest size that is real: an epoch, a seed, narrow networks.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cepa
import cm2
import primo
from entry import DATABASES, run_entry

from amodal.benchmark.recipe import recipe_parser
from amodal.errors import UnknownNameError
from amodal.report.papers import Exhibit, write_paper_page

ENTRIES = {entry.name: entry for entry in (*cepa.ENTRIES, *cm2.ENTRIES, *primo.ENTRIES)}


def parse(words: list[str] | None) -> argparse.Namespace:
    parser = recipe_parser(__doc__, "runs/papers", seeds=None)
    parser.add_argument("entries", nargs="*", help="names of tables and figures; none: all")
    parser.add_argument("--list", action="store_true", help="list the tables and figures, and stop")
    parser.add_argument("--data", type=Path, help="folder with mimic3 and mimic4")
    parser.add_argument("--mimic3", type=Path, help="folder of MIMIC-III's tables")
    parser.add_argument("--mimic4", type=Path, help="folder of MIMIC-IV")
    parser.add_argument("--avmnist", type=Path, help="folder of the cohort of AV-MNIST")
    parser.add_argument("--small", action="store_true", help="an epoch, a seed, narrow networks, few draws")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: as many runs as the paper has")
    parser.add_argument("--epochs", type=int, help="default: the paper's")
    parser.add_argument("--methods", nargs="+", default=[], help="published names of methods; default: all")
    parser.add_argument("--select", action="store_true", help="search the paper's grid on validation rows first")
    parser.add_argument("--encoders", choices=("paper", "small"), default="paper")
    parser.add_argument("--networks", type=Path, help="folder with siglip2, cxr-bert and tinybert")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--where", choices=("here", "ray"), default="here")
    given = parser.parse_args(words)
    if given.small:
        given.epochs, given.seeds, given.encoders = given.epochs or 1, given.seeds or [0], "small"
        given.width = min(given.width, 16)
    return given


def list_entries() -> None:
    """Prints each entry with what it takes."""
    for entry in ENTRIES.values():
        of = sorted(
            {s.cohort.database for s in entry.settings} | {s.cohort.database for s in entry.scripts if s.cohort}
        )
        methods = {name for setting in entry.settings for name in setting.rivals}
        what = f"{len(entry.settings)} settings, {len(methods)} methods" if entry.settings else ", ".join(
            dict.fromkeys(f"recipes/{script.recipe}.py" for script in entry.scripts))  # fmt: skip
        print(f"{entry.name:<14} {entry.title}: {what}, {len(entry.seeds)} seeds; {', '.join(of) or 'no data needed'}")


def main(words: list[str] | None = None) -> list[Exhibit]:
    given = parse(words)
    if given.list:
        list_entries()
        return []
    for name in given.entries:
        if name not in ENTRIES:
            raise UnknownNameError("table or figure", name, ENTRIES)
    known = {name for entry in ENTRIES.values() for setting in entry.settings for name in setting.rivals}
    for name in given.methods:
        if name not in known:
            raise UnknownNameError("method of the papers", name, known)
    sources = {}
    for database in DATABASES:
        folder = getattr(given, database) or (given.data / database if given.data else None)
        sources[database] = folder if folder is not None and folder.is_dir() else None
        if folder is not None and not folder.is_dir():
            command = "prepare" if database == "avmnist" else "make"
            print(f"there is no folder {folder}: see `amodal data {command} {database} --help`")
    exhibits = []
    for name in given.entries or ENTRIES:
        exhibits.append(run_entry(ENTRIES[name], sources, given))
        page = write_paper_page(exhibits, given.out / "papers.html")
    if exhibits:
        print(f"The page is {page}")
    return exhibits


if __name__ == "__main__":
    main()

"""Keep what is small of a study: `.venv/bin/python tools/keep.py runs results/quick` writes

- results/quick.json, its seed table;
- results/quick/, its study report and the report of each regime's first seed, for the site.

Places on this machine are shortened to those below the folder the study lies in.
"""
import argparse, sys
from pathlib import Path

import nbformat

from curriculum_gen.core.records import read_json, write_atomic


def kept(study):
    "The reports worth keeping: of the whole, and of the first seed of each regime"
    firsts = {path.parent.parent.name: path for path in sorted(
        study.glob("*/seed-*/report.ipynb"), key=lambda path: -int(path.parent.name.removeprefix("seed-")))}
    return [study/read_json(study/"run.json")["notebook"], *firsts.values()]


def without_places(text, study):
    "JSON text in which paths begin at the study's folder"
    return text.replace(f"{study.parent}/", "")


def report(path, study):
    """Text of a report's notebook; of papermill's record only the parameters stay, since the rest names files and times
    of one machine"""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.papermill = {"parameters": notebook.metadata.papermill.parameters}
    for cell in notebook.cells: cell.metadata.pop("papermill", None)
    return without_places(nbformat.writes(notebook) + "\n", study)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", type=Path, help="folder of a finished study")
    parser.add_argument("target", type=Path, help="such as results/quick")
    given = parser.parse_args(arguments)
    study = given.study.resolve()
    if not (study/"seed_table.json").exists():
        parser.error(f"{given.study}: no seed_table.json there; give the --out of a finished cgen-batch")
    write_atomic(given.target.with_suffix(".json"), (study/"seed_table.json").read_text())
    for path in kept(study):
        folder = given.target/path.parent.relative_to(study)
        write_atomic(folder/path.name, report(path, study))
        write_atomic(folder/"run.json", without_places(path.with_name("run.json").read_text(), study))
    print(f"kept {given.target}.json and {len(kept(study))} reports")


if __name__ == "__main__": sys.exit(main())

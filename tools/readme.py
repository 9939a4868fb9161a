"""Write the two files that are copies: README.md from nbs/index.ipynb, and nbs/_quarto.yml from _quarto.yml
(`make readme`).

The README is what nbconvert's markdown exporter gives, with four changes for a reader at the top of the repository:
`#|` directives
are obeyed or dropped, with the cells that hold nothing else; pictures have the words of `fig-alt`;
links are made relative to the top;
and the styling of tables is left out.
"""
import posixpath, re, sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
IMAGES = "nbs/index_files"
LINK = re.compile(r"(\]\()(?![a-z]+:|#|/)([^)\s]+)")


def at_top(match): return match[1] + posixpath.normpath(posixpath.join("nbs", match[2]))


def prepare(cell):
    "The cell as the README shows it, or None when it shows nothing"
    if cell.cell_type == "markdown": return {**cell, "source": LINK.sub(at_top, cell.source)}
    lines = cell.source.split("\n")
    directives = {line[2:].split(":")[0].split()[0] for line in lines if re.match(r"#\|\s*\w", line)}
    source = "\n".join(line for line in lines if not line.startswith("#|")).strip()
    silent = "#| echo: false" in lines
    if directives & {"hide", "default_exp"} or not (cell.get("outputs") or source and not silent): return None
    return {**cell, "source": source, "metadata": {"transient": {"remove_source": True}} if silent else {}}


def described(notebook):
    "What the pictures of a notebook show in words, in their order; empty where it is not said"
    for cell in notebook.cells:
        words = re.search(r"^#\|\s*fig-alt:\s*(.*)$", cell.source, re.M)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}): yield words[1] if words else ""


def readme(notebook):
    "Text of the README, and its images by path"
    words = described(notebook)
    cells = [prepare(cell) for cell in notebook.cells]
    notebook = nbformat.from_dict({**notebook, "cells": [cell for cell in cells if cell],
                                   "metadata": {"language_info": {"name": "python"}}})
    text, resources = MarkdownExporter().from_notebook_node(notebook,
                                                            {"output_files_dir": IMAGES, "unique_key": "index"})
    text = re.sub(r"!\[png\](?=\()", lambda _: f"![{next(words)}]", text)
    text = re.sub(r"<style.*?</style>\n?", "", text, flags=re.DOTALL)
    text = re.sub(r"[ \t]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", resources["outputs"]


def copies(root):
    "Path -> bytes of every file that is a copy"
    files = {"nbs/_quarto.yml": (root/"_quarto.yml").read_bytes()}
    if (root/"nbs"/"index.ipynb").exists():
        text, images = readme(nbformat.read(root/"nbs"/"index.ipynb", as_version=4))
        files |= {"README.md": text.encode(), **images}
    return files


def main(root=ROOT):
    wanted = copies(root)
    for old in (root/IMAGES).glob("*"):
        if f"{IMAGES}/{old.name}" not in wanted: old.unlink()
    for name, content in wanted.items():
        path = root/name
        if path.exists() and path.read_bytes() == content: continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        print(f"readme: wrote {name}")


if __name__ == "__main__": sys.exit(main())

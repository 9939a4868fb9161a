"""Gives setuptools what settings.ini says, and puts the report notebooks into the wheel, where the installed commands
find them"""
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

root = Path(__file__).resolve().parent
settings = ConfigParser(interpolation=None)
settings.read_string((root/"settings.ini").read_text(encoding="utf-8"))

def lines(name): return settings["DEFAULT"][name].split("\n")[1:]

class BuildWithReports(build_py):
    """The package and, as `curriculum_gen/notebooks`, the notebooks of nbs/reports;
    an editable install uses those where they lie"""
    def run(self):
        super().run()
        if self.editable_mode: return
        target = Path(self.build_lib)/"curriculum_gen"/"notebooks"
        self.mkpath(str(target))
        for notebook in sorted((root/"nbs"/"reports").glob("*.ipynb")):
            self.copy_file(str(notebook), str(target/notebook.name))

setup(
    install_requires=lines("requirements"),
    extras_require={name.removesuffix("_requirements"): lines(name) for name in settings["DEFAULT"]
                    if name.endswith("_requirements")},
    entry_points={"console_scripts": lines("console_scripts"), "nbdev": ["curriculum_gen = curriculum_gen._modidx:d"]},
    cmdclass={"build_py": BuildWithReports},
)

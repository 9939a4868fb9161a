"""The commands by their names, as settings.ini installs them: `commands.batch([...])` is `cgen-batch ...` in this
process"""
from configparser import ConfigParser
from importlib.metadata import EntryPoint
from pathlib import Path

_settings = ConfigParser(interpolation=None)
_settings.read(Path(__file__).resolve().parent.parent/"settings.ini")
POINTS = dict(line.split(" = ") for line in _settings["DEFAULT"]["console_scripts"].split("\n")[1:])


def __getattr__(name):
    if f"cgen-{name}" not in POINTS: raise AttributeError(name)
    return EntryPoint(name, POINTS[f"cgen-{name}"], "console_scripts").load()

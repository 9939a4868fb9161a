"""Is this checkpoint worse, is it real, and what caused it? Curricula, frozen judges and calibrated verdicts for class-conditional image generators

What there is, in the order in which one meets it:

watch               round any PyTorch training loop: names what is wrong with it, with the line
examine             every check on a loop, a program or a run folder, and what was not possible and why
evaluate_generator  judges any class-conditional generator: a card with its verdict
train               trains one regime into a run folder, or continues it
load_dataset        MNIST, Fashion-MNIST, 8x8 digits, or one's own, checked
Task, Dataset       what is to be drawn, and labelled images to compare with
REGIMES             training recipes by name
chance_test         is a confusion table better than chance? An exact test

Nothing is imported before it is asked for: torch takes seconds, this module milliseconds.
"""

__version__ = "0.1.0"

_FRONT = {
    "watch": "diagnosis.watching.watch", "examine": "diagnosis.examination", "evaluate_generator": "evaluation.evaluate",
    "train": "training.train", "load_dataset": "data.sources", "Task": "core.task", "Dataset": "data.dataset",
    "REGIMES": "curriculum.regimes", "chance_test": "statistics.chance",
}
__all__ = [*_FRONT]


def __getattr__(name):
    if name not in _FRONT: raise AttributeError(f"module {__name__!r} has no attribute {name!r}: it has {', '.join(_FRONT)}")
    from importlib import import_module
    return getattr(import_module(f"{__name__}.{_FRONT[name]}"), name)


def __dir__(): return [*_FRONT, "__version__"]

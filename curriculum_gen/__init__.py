"""Is this checkpoint worse, is it real, and what caused it? For class-conditional image generators

What there is, in the order in which one meets it:

watch                 round any PyTorch training loop: names what is wrong with it, with the line
examine               every check on a loop, a program or a run folder; what was not possible, and why
evaluate_generator    judges any class-conditional generator: a card with its verdict
compare               is a candidate worse than a baseline? Of runs, cards, count files or arrays
continued_comparison  of one run: does going on from a checkpoint make it worse?
compare_continued     the same of anybody's loop, given as a function of a seed
train                 trains a regime into a run folder, or continues it
load_dataset          MNIST, Fashion-MNIST, 8x8 digits, or one's own, checked
chance_test           is a confusion table better than chance? An exact test
REGIMES               training recipes by name
Task, Dataset         what is to be drawn, and labelled images to compare with

Behind them, each importing only what stands above it:

core         errors told in a line, records, run folders, tasks
statistics   intervals, tests and verdicts, of counts
curriculum   phases and regimes as data
figures      what the numbers show, in matplotlib
data         labelled images, checked
models       generators and witnesses
judges       classifiers that are certified before they judge
training     from a configuration to a run folder
evaluation   from a run folder or a generator to a card
diagnosis    from a fall, or a loop, to a cause
integrations  watching inside Lightning, the Hugging Face Trainer and Accelerate
studies      questions to several regimes and seeds
reporting    executed notebooks and their pages
sweeps       many runs at once
commands     cgen-train, cgen-evaluate and the others

Nothing is imported before it is asked for: torch takes seconds, this module a millisecond.
"""

__version__ = "0.1.0"

_FRONT = {   # name -> the module that has it
    "watch": "diagnosis.watching.watch",
    "examine": "diagnosis.examination",
    "evaluate_generator": "evaluation.evaluate",
    "compare": "studies.comparing",
    "continued_comparison": "diagnosis.one_run",
    "compare_continued": "evaluation.continuations",
    "train": "training.train",
    "load_dataset": "data.sources",
    "chance_test": "statistics.chance",
    "REGIMES": "curriculum.regimes",
    "Task": "core.task",
    "Dataset": "data.dataset",
}
__all__ = [*_FRONT]


def __getattr__(name):
    import importlib
    if name in _FRONT: return getattr(importlib.import_module(f"{__name__}.{_FRONT[name]}"), name)
    if name.startswith("__"): raise AttributeError(name)   # asked for by Python itself
    import difflib
    near = difflib.get_close_matches(name, _FRONT, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise AttributeError(f"{__name__} has no {name!r}: {hint}It has {', '.join(_FRONT)}; "
                         f"the rest is imported from its modules, as help({__name__}) says", name=name)


def __dir__(): return [*_FRONT, "__version__"]

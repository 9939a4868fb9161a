"""`watch` round loops that know nothing of the package"""
import ast, copy, inspect
from pathlib import Path

import pytest, torch

from curriculum_gen.diagnosis.watching.watch import watch
from curriculum_gen.diagnosis.examination import examine
from curriculum_gen.diagnosis.findings import CHECKS, findings_table
import other_loops, plain_loop


def loop(repaired, seed=0, total=6, watched=True, **declarations):
    torch.manual_seed(seed)
    networks = {"generator": plain_loop.Weaver(), "witness": plain_loop.Witness(), "judge": plain_loop.make_judge()}
    images, labels = torch.rand(200, 1, 28, 28)*2 - 1, torch.randint(10, (200,))
    def train(): plain_loop.train(*networks.values(), images, labels, total=total, repaired=repaired)
    if not watched: return train(), networks
    with watch(frozen=("judge",), **networks, **declarations) as seen: train()
    return seen, networks


def line_of(text):
    return next(number for number, line in enumerate(Path(plain_loop.__file__).read_text().splitlines(), 1)
                if text in line)


def test_the_plain_loop_knows_nothing_of_the_package():
    imported = {alias.name for node in ast.walk(ast.parse(inspect.getsource(plain_loop)))
                if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}
    assert (not any("curriculum" in name for name in imported)
            and "curriculum" not in inspect.getsource(plain_loop).replace("curriculum of", ""))


@pytest.mark.parametrize("seed", range(3))
def test_the_reports_loop_is_named_with_its_lines(seed):
    seen, _ = loop(repaired=False, seed=seed)
    found = {finding.cause: finding for finding in seen.findings()}
    assert set(found) == {"loss term without gradient", "requested labels reach no loss"}
    detached = found["loss term without gradient"]
    assert detached.subject == "grounding"
    assert detached.where == f"plain_loop.py:{line_of('# where it is told')}"
    assert f"plain_loop.py:{line_of('# the first fault')}" in detached.evidence
    assert "plain_loop.py:" in found["requested labels reach no loss"].where
    assert list(findings_table(seen.findings()).cause) == ["loss term without gradient",
                                                           "requested labels reach no loss"]


@pytest.mark.parametrize("seed", range(3))
def test_its_repaired_twin_is_met_with_silence(seed):
    seen, _ = loop(repaired=True, seed=seed)
    assert seen.findings() == []
    seen, _ = loop(repaired=True, seed=seed, terms={"alignment": ("generator",), "grounding": ("generator",)},
                   weights={"grounding": lambda step: plain_loop.weight_of(step, 6)})
    assert seen.findings() == []
    assert {"TERM", "GREC", "LEDGER"}.isdisjoint(seen.not_possible())


@pytest.mark.parametrize("declarations", [{}, {"terms": {"grounding": ("generator",)},
                                               "weights": {"grounding": lambda step: plain_loop.weight_of(step, 6)}}],
                         ids=["observed", "declared"])
def test_watched_steps_are_bit_identical_and_nothing_stays_behind(declarations):
    before = torch.autograd.backward, torch.overrides._len_torch_function_stack(), torch.get_rng_state().shape
    _, watched = loop(repaired=True, **declarations)
    _, alone = loop(repaired=True, watched=False)
    for role in watched:
        for (name, one), other in zip(watched[role].state_dict().items(), alone[role].state_dict().values()):
            assert torch.equal(one, other), f"{role}.{name}"
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in watched[role].modules())
    assert before == (torch.autograd.backward, torch.overrides._len_torch_function_stack(), torch.get_rng_state().shape)
    from torch.optim import optimizer
    assert not optimizer._global_optimizer_pre_hooks and not optimizer._global_optimizer_post_hooks


def test_everything_is_put_back_after_an_exception():
    before = torch.autograd.backward
    with pytest.raises(ZeroDivisionError), watch(generator=torch.nn.Linear(1, 1)): 1/0
    assert torch.autograd.backward is before and torch.overrides._len_torch_function_stack() == 0


def test_findings_can_be_asked_for_inside_the_block():
    torch.manual_seed(0)
    networks = {"generator": plain_loop.Weaver(), "witness": plain_loop.Witness(), "judge": plain_loop.make_judge()}
    images, labels = torch.rand(200, 1, 28, 28)*2 - 1, torch.randint(10, (200,))
    with watch(**networks) as seen:
        plain_loop.train(*networks.values(), images, labels, total=2)
        inside = seen.findings()
    assert [f.cause for f in inside] == [f.cause for f in seen.findings()] == ["loss term without gradient",
                                                                               "requested labels reach no loss"]


def test_an_examination_accounts_for_every_check_and_names_what_it_would_need():
    seen, networks = loop(repaired=True)
    bare = examine(seen)
    made = {outcome.check for outcome in bare.outcomes if not outcome.not_possible}
    assert made | bare.not_possible.keys() == CHECKS.keys() and made == {"TERM", "OWN", "UPD", "FINITE"}
    assert "give sample=" in bare.not_possible["AA"] and list(bare.table().index) == list(CHECKS.values())
    def sample(latents, labels): return networks["generator"].eval()(latents, labels)[0]
    more = examine(seen, sample=sample, latents=torch.randn(20, 64), classes=10)
    assert bare.not_possible.keys() - more.not_possible.keys() == {"AA", "SENS"}
    assert [finding for finding in more.findings if finding.kind != "note"] == []


# ---- other people's loops

def other_loop(name, seed, **changes):
    loop, sizes, terms, weights = other_loops.LOOPS[name]
    torch.manual_seed(seed)
    networks, data = ({role: other_loops.conditional(*size) for role, size in sizes.items()},
                      (torch.rand(200, other_loops.PIXELS)*2 - 1, torch.randint(10, (200,))))
    with watch(**networks, **{"terms": terms, "weights": weights, **changes}) as seen: loop(networks, data, 9)
    return seen


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", other_loops.LOOPS)
def test_a_healthy_loop_in_another_hand_is_met_with_silence(name, seed):
    seen = other_loop(name, seed)
    assert seen.findings() == []
    assert "TERM" not in seen.not_possible(), "the declared terms were not found"
    assert other_loop(name, seed, terms={}, weights={}).findings() == []


def test_a_weight_that_is_not_the_declared_one_is_found_in_a_dictionary():
    assert [f.cause for f in other_loop("terms in a dictionary", 0, weights={"divergence": lambda step: 0.1})
            .findings()] == ["loss term weighted differently"]

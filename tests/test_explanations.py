"""What an evaluation says before its verdict speaks the closed list of causes, and what was tried leaves no trace"""
import random, re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from curriculum_gen.core.errors import InputError
from curriculum_gen.core.task import Task
from curriculum_gen.diagnosis.findings import CAUSES
from curriculum_gen.evaluation import explanations, trial

TASK = Task("squares", (1, 4, 4), ("a", "b", "c"))
POOL = torch.rand(3, 40, 1, 4, 4, generator=torch.Generator().manual_seed(0))*2 - 1


def stored(latents, labels): return POOL[labels, (1e4*latents[:, 0].abs()).long() % 40]
def own_noise(latents, labels): return POOL[labels, torch.randint(40, (len(labels),))]
def by_row(latents, labels): return POOL[labels, torch.arange(len(labels)) % 40]
def one_for_all(latents, labels): return stored(latents[:1].expand_as(latents), labels)
def blind(latents, labels): return stored(latents, torch.zeros_like(labels))


def causes(module):
    "Causes that begin a sentence of a module"
    return {cause for cause in CAUSES if re.search(rf'"{re.escape(cause)}[:"]', Path(module.__file__).read_text())}


def test_sentences_begin_with_causes_of_the_closed_list():
    assert causes(explanations) == {"images counted more than once", "judge input differs", "classes are renamed",
                                    "stored batch statistics do not fit"}
    assert causes(trial) >= {"scoring differs between repeats", "latents ignored by the generator",
                             "labels ignored by the generator", "sampling depends on the batch"}


@pytest.mark.parametrize("generator,seen", [(stored, (True, True, True)), (own_noise, (False, False, False)),
                                            (by_row, (True, False, False)), (one_for_all, (True, True, False))])
def test_a_trial_tells_a_store_from_a_seed(generator, seen):
    found = trial.trial_call(generator, task=TASK)
    assert (found.repeats, found.uses_latents, found.follows) == seen


def test_labels_that_make_no_difference_are_told():
    why, = trial.trial_call(blind, task=TASK).reasons
    assert why.startswith("labels ignored by the generator: ")


def test_a_trial_leaves_every_random_state_as_it_was():
    def seeds_everything(latents, labels):
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        return own_noise(latents, labels)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    trial.trial_call(seeds_everything, task=TASK)
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()
    assert before[2] == random.getstate()


def test_a_network_that_is_put_into_eval_mode_inside_is_in_eval_mode():
    net = nn.Dropout()
    def sample(latents, labels): return net.eval()(stored(latents, labels))
    assert not trial.trial_call(sample, task=TASK).reasons
    with pytest.raises(InputError, match="train mode"):
        trial.trial_call(lambda latents, labels: net.train()(stored(latents, labels)), task=TASK)
    assert not nn.modules.module._global_forward_hooks and not nn.modules.module._global_forward_pre_hooks


def test_stored_statistics_that_take_images_out_of_range_are_the_cause_and_not_the_range():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out, self.norm = nn.Embedding(10, 8), nn.Linear(72, 784), nn.BatchNorm1d(784)
        def forward(self, z, y):
            return self.norm(self.out(torch.cat([z, self.embed(y)], 1))).mul(0.1).view(-1, 1, 28, 28)
    network = Normed().eval()
    network.norm.running_mean += 9
    with pytest.raises(InputError, match="stored batch statistics of its 1 BatchNorm layers do not fit"):
        trial.trial_call(network)

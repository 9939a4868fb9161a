"""What happens to parts of a network, to its copies and to its average while a loop is watched: each fault beside the
healthy loop that is closest to it"""
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from curriculum_gen import watch

CLASSES, LATENTS, PIXELS = 4, 12, 16


class Painter(nn.Module):
    def __init__(self, norm=False):
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 6)
        self.body = nn.Sequential(nn.Linear(LATENTS + 6, 24), nn.BatchNorm1d(24) if norm else nn.Identity(), nn.ReLU())
        self.last = nn.Linear(24, PIXELS)
    def forward(self, z, y): return self.last(self.body(torch.cat([z, self.embed(y)], 1))).tanh()


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(CLASSES, 6), nn.Sequential(nn.Linear(PIXELS + 6, 24), nn.ReLU(),
                                                                       nn.Linear(24, 1))
    def forward(self, x, y): return self.out(torch.cat([x, self.embed(y)], 1))


def draws(n=24): return torch.randn(n, LATENTS), torch.randint(CLASSES, (n,))
def reals(y): return (torch.eye(CLASSES).repeat(1, PIXELS//CLASSES)[y] - 0.5 + 0.1*torch.randn(len(y), PIXELS)).tanh()
def adam(network, rate=2e-3): return torch.optim.Adam(network.parameters(), rate)


def adversarial(painter, critic, g, d, *, after=lambda step: None, before=lambda step: None, steps=60, call=None):
    call = call or painter
    for step in range(steps):
        before(step)
        z, y = draws()
        loss = F.softplus(-critic(reals(y), y)).mean() + F.softplus(critic(call(z, y).detach(), y)).mean()
        d.zero_grad(); loss.backward(); d.step()
        g.zero_grad(); F.softplus(-critic(call(z, y), y)).mean().backward(); g.step()
        after(step)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def pair(norm=False):
    painter, critic = Painter(norm), Critic()
    return painter, critic, adam(painter), adam(critic)


def causes(seen): return [finding.cause for finding in seen.findings()]


# ---- parameters that come, hide, or move by hand

@pytest.mark.parametrize("with_optimiser", [True, False])
def test_a_layer_that_comes_later_needs_an_optimiser(with_optimiser):
    painter, critic, g, d = pair()
    def grow(step):
        if step != 30: return
        painter.last = nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, PIXELS))
        if with_optimiser: g.add_param_group({"params": painter.last.parameters()})
    with watch(generator=painter, discriminator=critic) as seen: adversarial(painter, critic, g, d, before=grow)
    assert causes(seen) == ([] if with_optimiser else ["parameters in no optimiser"])


@pytest.mark.parametrize("kind", ["layers", "teacher"])
def test_layers_in_a_plain_list_are_found_and_a_teacher_is_left_alone(kind):
    painter, critic, g, d = pair()
    painter.others = [nn.Linear(PIXELS, PIXELS)]
    if kind == "teacher":
        painter.others[0](torch.ones(1, PIXELS)).sum().backward()   # its own training left a gradient
    use = (lambda z, y: painter.others[0](painter(z, y))) if kind == "layers" else None
    with watch(generator=painter, discriminator=critic) as seen: adversarial(painter, critic, g, d, call=use)
    assert causes(seen) == (["parameters in no optimiser"] if kind == "layers" else [])


def test_a_network_that_is_moved_by_hand_needs_no_optimiser():
    painter, critic, _, d = pair()
    with watch(generator=painter, discriminator=critic) as seen:
        for _ in range(40):
            z, y = draws()
            d.zero_grad()
            (F.softplus(-critic(reals(y), y)) + F.softplus(critic(painter(z, y).detach(), y))).mean().backward()
            d.step()
            painter.zero_grad()
            F.softplus(-critic(painter(z, y), y)).mean().backward()
            with torch.no_grad(): [p.sub_(0.05*p.grad) for p in painter.parameters()]
    assert causes(seen) == []


def test_an_optimiser_of_copies_trains_nothing():
    painter, critic, _, d = pair()
    copies = [p.detach().clone().requires_grad_() for p in painter.parameters()]
    names = [name for name, _ in painter.named_parameters()]
    with watch(generator=painter, discriminator=critic) as seen:
        adversarial(painter, critic, torch.optim.Adam(copies), d,
                    call=lambda z, y: torch.func.functional_call(painter, dict(zip(names, copies)), (z, y)))
    assert causes(seen)[:1] == ["parameters in no optimiser"]


# ---- gradients that no step gets

def test_a_part_whose_own_optimiser_makes_no_step_is_named():
    painter, critic, _, d = pair()
    own, rest = torch.optim.SGD(painter.embed.parameters(), 0.1), adam(nn.ModuleList([painter.body, painter.last]))
    with watch(generator=painter, discriminator=critic) as seen:
        adversarial(painter, critic, rest, d, before=lambda step: own.zero_grad())
    assert [(f.cause, f.subject) for f in seen.findings()] == [("gradients never used", "generator.embed.weight")]


def test_a_part_whose_gradients_are_cleared_before_the_step_is_named():
    painter, critic = Painter(), Critic()
    both = torch.optim.Adam([*painter.parameters(), *critic.parameters()], 2e-3)
    with watch(generator=painter, encoder=critic) as seen:
        for _ in range(40):
            z, y = draws()
            both.zero_grad()
            (critic(painter(z, y), y) - 1).square().mean().backward()
            critic.zero_grad()
            both.step()
    assert causes(seen) == ["gradients cleared before the step"]


def test_an_optimiser_that_never_has_a_gradient_is_named():
    painter = Painter()
    g = adam(painter)
    with watch(generator=painter) as seen:
        for _ in range(30):
            z, y = draws()
            torch.autograd.grad((painter(z, y) - reals(y)).square().mean(), list(painter.parameters()))
            g.step()
    assert causes(seen) == ["parameters do not change"]


@pytest.mark.parametrize("fault", [None, "twice", "unscaled", "infinite"])
def test_what_goes_round_a_scaler_is_named(fault):
    painter, g, scaler = Painter(), None, torch.amp.GradScaler("cpu", init_scale=256.0)
    g = adam(painter)
    with watch(generator=painter) as seen:
        for _ in range(40):
            z, y = draws()
            g.zero_grad()
            images = painter(z, y)
            loss = (images - reals(y)).square().mean()
            if fault == "infinite": loss = loss + 0.01*(images[:, None] - images[None]).square().sum(2).sqrt().mean()
            scaler.scale(loss).backward()
            extra = 0.1*painter(z, y).square().mean()
            (extra if fault == "unscaled" else scaler.scale(extra)).backward()
            scaler.step(g)
            if fault == "twice": g.step()
            scaler.update()
    wanted = {None: [], "infinite": ["non-finite values"]}.get(fault, ["scaler bypassed"])
    assert causes(seen)[:1] == wanted


@pytest.mark.parametrize("draw,wanted", [("rsample", []), ("sample", ["gradient cut inside the network"])])
def test_a_posterior_that_is_drawn_without_a_gradient_is_named(draw, wanted):
    encoder, painter = nn.Linear(PIXELS, 2*LATENTS), Painter()
    both = torch.optim.Adam([*encoder.parameters(), *painter.parameters()], 2e-3)
    prior = torch.distributions.Normal(torch.zeros(LATENTS), torch.ones(LATENTS))
    with watch(generator=painter, encoder=encoder) as seen:
        for _ in range(20):
            _, y = draws()
            x = reals(y)
            mean, spread = encoder(x).chunk(2, 1)
            posterior = torch.distributions.Normal(mean, spread.exp())
            error = (painter(getattr(posterior, draw)(), y) - x).square().sum(1).mean()
            loss = error + 0.1*torch.distributions.kl_divergence(posterior, prior).sum(1).mean()
            both.zero_grad(); loss.backward(); both.step()
    assert causes(seen) == wanted


def test_a_policy_gradient_through_a_sample_is_no_cut():
    encoder, critic = nn.Linear(PIXELS, 2*LATENTS), nn.Linear(LATENTS, 1)
    both = torch.optim.Adam([*encoder.parameters(), *critic.parameters()], 2e-3)
    with watch(generator=encoder, critic=critic) as seen:
        for _ in range(20):
            mean, spread = encoder(reals(draws()[1])).chunk(2, 1)
            policy = torch.distributions.Normal(mean, spread.exp())
            action = policy.sample()
            reward = critic(action)
            loss = -(policy.log_prob(action).sum(1)*reward.detach()[:, 0]).mean() + (reward - 1).square().mean()
            both.zero_grad(); loss.backward(); both.step()
    assert causes(seen) == []


# ---- what is frozen, and what stands still for a while

@pytest.mark.parametrize("thawed", [True, False])
def test_a_part_that_is_never_thawed_is_named(thawed):
    painter, critic, g, d = pair()
    def thaw(step):
        if step == 0: painter.embed.requires_grad_(False)
        if step == 20: painter.embed.requires_grad_(True) if thawed else setattr(painter.embed, "requires_grad", True)
    with watch(generator=painter, discriminator=critic) as seen: adversarial(painter, critic, g, d, before=thaw)
    assert causes(seen) == ([] if thawed else ["parameters frozen without declaration"])


def test_a_frozen_part_that_momentum_moves_is_named():
    painter, critic, g, d = pair()
    def freeze(step):
        if step == 10: painter.embed.requires_grad_(False)
    with watch(generator=painter, discriminator=critic) as seen:
        for step in range(80):
            freeze(step)
            z, y = draws()
            g.zero_grad(set_to_none=False); d.zero_grad()
            F.softplus(-critic(painter(z, y), y)).mean().backward()
            g.step()
    assert "frozen parameters in an optimiser" in causes(seen)


def test_a_rate_that_is_raised_late_is_no_stand():
    painter, critic, g, d = pair()
    g.param_groups[0]["lr"] = 0.0
    def rise(step):
        if step == 50: g.param_groups[0]["lr"] = 2e-3
    with watch(generator=painter, discriminator=critic) as seen: adversarial(painter, critic, g, d, before=rise)
    assert causes(seen) == []


def test_a_judge_that_is_loaded_in_the_block_has_not_changed():
    painter, critic, g, d = pair()
    judge = nn.Linear(PIXELS, CLASSES).requires_grad_(False)
    with watch(generator=painter, discriminator=critic, judge=judge) as seen:
        judge.load_state_dict(nn.Linear(PIXELS, CLASSES).state_dict())
        adversarial(painter, critic, g, d, after=lambda step: judge(painter(*draws())))
    assert causes(seen) == []


# ---- labels and ranges

def test_labels_that_get_lost_later_are_missed_at_the_generator():
    painter, critic, g, d = pair()
    def lose(step):
        with torch.no_grad(): painter.embed.weight.zero_()
    with watch(generator=painter, discriminator=critic) as seen:
        adversarial(painter, critic, g, d, after=lose, steps=100)
    assert causes(seen) == ["labels ignored by the generator"]


def test_constant_requests_are_seen_under_autocast():
    painter, critic, g, d = pair()
    with watch(generator=painter, discriminator=critic) as seen:
        for _ in range(40):
            z, y = draws()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                fake = painter(z, torch.zeros_like(y))
                loss = F.softplus(-critic(reals(y), y)).mean() + F.softplus(critic(fake.detach(), y)).mean()
            d.zero_grad(); loss.backward(); d.step()
            with torch.autocast("cpu", dtype=torch.bfloat16): loss = F.softplus(-critic(fake, 0*y)).mean()
            g.zero_grad(); loss.backward(); g.step()
    assert "requested labels are constant" in causes(seen)


@pytest.mark.parametrize("scale,wanted", [(1.0, []), (1/16, ["data range does not match"])])
def test_images_that_fill_a_corner_of_the_range_are_named(scale, wanted):
    painter, critic, g, d = pair()
    labels = torch.randint(CLASSES, (256,))
    images = (reals(labels).clamp(-1, 1) + 1)*scale - 1
    with watch(generator=painter, discriminator=critic) as seen:
        for _ in range(30):
            rows = torch.randint(256, (24,))
            z, y = draws()
            loss = (F.softplus(-critic(images[rows], labels[rows])).mean()
                    + F.softplus(critic(painter(z, y).detach(), y)).mean())
            d.zero_grad(); loss.backward(); d.step()
            g.zero_grad(); F.softplus(-critic(painter(z, y), y)).mean().backward(); g.step()
    assert causes(seen) == wanted


# ---- averages

def averaged(follow, *, steps=160, norm=False, call=None, judge=None, declared=()):
    painter, critic, g, d = pair(norm)
    average = copy.deepcopy(painter).requires_grad_(False)
    def after(step):
        with torch.no_grad():
            follow(average, painter, step)
            for a, b in zip(average.buffers(), painter.buffers()): a.copy_(b)
            if call and step % 10 == 9: call(average, painter)
    roles = {"judge": judge} if judge else {}
    with watch(generator=painter, discriminator=critic, ema=average, declared=declared, **roles) as seen:
        adversarial(painter, critic, g, d, after=after, steps=steps)
    return causes(seen)


def followed(average, painter, step, rate=0.05):
    for a, b in zip(average.parameters(), painter.parameters()): a.lerp_(b, rate)
def slowly(average, painter, step): followed(average, painter, step, rate=1e-3)
def in_fifties(average, painter, step):
    if step % 50 == 0: followed(average, painter, step, rate=1.0)
def shrunk(average, painter, step): [a.mul_(0.95) for a in average.parameters()]
def of_itself(average, painter, step): [a.mul_(0.9).add_(0.1*a/0.9) for a in average.parameters()]
def given_up(average, painter, step):
    if step < 20: followed(average, painter, step)


@pytest.mark.parametrize("follow", [followed, slowly, in_fifties])
def test_an_average_that_follows_is_left_alone(follow): assert averaged(follow) == []


@pytest.mark.parametrize("follow", [shrunk, of_itself, given_up])
def test_an_average_that_goes_elsewhere_or_stops_is_named(follow):
    assert averaged(follow) == ["averaged weights not updated"]


def test_an_average_in_train_mode_is_named_where_that_matters():
    def sampled(average, painter): average.train()(*draws())
    def sampled_right(average, painter): average.eval()(*draws())
    assert averaged(followed, norm=True, call=sampled) == ["sampling depends on the batch"]
    assert averaged(followed, norm=True, call=sampled_right) == []
    assert averaged(followed, call=sampled) == []


def test_scores_of_the_network_beside_an_average_that_nobody_asks_are_named():
    judge = nn.Linear(PIXELS, CLASSES).requires_grad_(False)
    def scored(average, painter): judge(painter(*draws()))
    def scored_right(average, painter): judge(average(*draws()))
    assert averaged(followed, call=scored, judge=judge) == ["averaged weights not used"]
    assert averaged(followed, call=scored_right, judge=judge) == []
    assert averaged(followed, call=scored, judge=judge, declared=["plain_weights_scored"]) == []


# ---- a long block

def test_a_long_block_counts_every_step_and_keeps_its_bits():
    def trained(enter):
        torch.manual_seed(1)
        painter, critic, g, d = pair()
        with enter(painter, critic) as seen: adversarial(painter, critic, g, d, steps=420)
        return seen, [p.detach().clone() for p in painter.parameters()], torch.rand(2)
    from contextlib import nullcontext
    _, plain, after = trained(lambda *_: nullcontext())
    seen, watched, then = trained(lambda g, d: watch(generator=g, discriminator=d))
    assert all(map(torch.equal, plain, watched)) and torch.equal(after, then)
    assert seen.step == 420 and causes(seen) == [] and 0 < seen._rested < 420 - 256
    assert any("losses were looked at in all" in told for told in seen.in_part)

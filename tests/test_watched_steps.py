"""What only many steps show: schedules, optimisers that come and go, averages, passes that nobody used"""
import copy

import pytest, torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler as schedules, swa_utils

from curriculum_gen.diagnosis.watching.watch import watch


class Maker(nn.Module):
    def __init__(self, norm=False):
        super().__init__()
        self.label = nn.Embedding(4, 4)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.Linear(8, 6))
    def forward(self, latents, labels): return self.body(torch.cat([latents, self.label(labels)], 1))


class Viewer(nn.Module):
    def __init__(self):
        super().__init__()
        self.label, self.out = nn.Embedding(4, 6), nn.Linear(6, 1)
    def forward(self, images, labels): return self.out(images*self.label(labels))


class Loop:
    "A generator that learns to answer a fixed target, one step a call"
    def __init__(self, norm=False, kind=torch.optim.Adam, **options):
        self.g = Maker(norm)
        self.make = lambda: kind(self.g.parameters(), **{"lr": 1e-2} | options)
        self.opt, self.target = self.make(), torch.randn(4, 6)
    def loss(self):
        labels = torch.randint(4, (8,))
        return (self.g(torch.randn(8, 4), labels) - self.target[labels]).square().mean()
    def step(self, optimiser=None):
        optimiser = optimiser or self.opt
        optimiser.zero_grad(); self.loss().backward(); optimiser.step()


class Pair:
    "A generator and a discriminator"
    def __init__(self):
        self.g, self.d = Maker(), Viewer()
        self.g_opt, self.d_opt = (torch.optim.Adam(net.parameters(), 1e-3) for net in (self.g, self.d))
    def d_loss(self):
        labels = torch.randint(4, (8,))
        fake = self.g(torch.randn(8, 4), labels).detach()
        return F.softplus(self.d(fake, labels)).mean() + F.softplus(-self.d(torch.randn(8, 6), labels)).mean()
    def g_loss(self):
        labels = torch.randint(4, (8,))
        return F.softplus(-self.d(self.g(torch.randn(8, 4), labels), labels)).mean()


def causes(seen): return [finding.cause for finding in seen.findings()]

def scheduled(make, steps=40, **options):
    loop = Loop(**options)
    scheduler = make(loop.opt)
    with watch(generator=loop.g) as seen:
        for step in range(steps):
            loop.step()
            scheduler.step(*([1.0] if isinstance(scheduler, schedules.ReduceLROnPlateau) else []))
    return causes(seen)

SCHEDULES = {
    "warm-up from 0": lambda o: schedules.LambdaLR(o, lambda step: min(1, step/1000)),
    "linear to 0": lambda o: schedules.LinearLR(o, 1.0, 0.0, 40),
    "linear from nearly 0": lambda o: schedules.LinearLR(o, 1e-8, 1.0, 400),
    "cosine": lambda o: schedules.CosineAnnealingLR(o, 40),
    "cosine, again": lambda o: schedules.CosineAnnealingLR(o, 8),
    "warm restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 10),
    "one cycle": lambda o: schedules.OneCycleLR(o, 1e-2, total_steps=41),
    "cyclic": lambda o: schedules.CyclicLR(o, 0.0, 1e-2, step_size_up=5, cycle_momentum=False),
    "steps": lambda o: schedules.StepLR(o, 10, 0.1), "milestones": lambda o: schedules.MultiStepLR(o, [5, 35], 1e-3),
    "exponential": lambda o: schedules.ExponentialLR(o, 0.9), "polynomial": lambda o: schedules.PolynomialLR(o, 40, 2),
    "constant": lambda o: schedules.ConstantLR(o, 0.1, 5),
    "plateau": lambda o: schedules.ReduceLROnPlateau(o, patience=5),
    "inverse root": lambda o: schedules.LambdaLR(o, lambda step: min(step/10, (max(step, 1)/10)**-0.5)),
    "in sequence": lambda o: schedules.SequentialLR(o, [schedules.LinearLR(o, 1e-3, 1.0, 10),
                                                        schedules.CosineAnnealingLR(o, 30)], [10]),
}

@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD], ids=lambda kind: kind.__name__)
def test_a_schedule_is_no_fault(name, kind): assert scheduled(SCHEDULES[name], kind=kind) == []


HEALTHY, FAULTY = {}, {}
def healthy(loop): HEALTHY[loop.__name__] = loop; return loop
def faulty(cause):
    def kept(loop): FAULTY[loop.__name__] = loop, cause; return loop
    return kept

@healthy
def group_rests():
    loop = Loop()
    opt = torch.optim.Adam([{"params": loop.g.label.parameters(), "lr": 0.0}, {"params": loop.g.body.parameters()}])
    with watch(generator=loop.g) as seen:
        for step in range(30):
            if step == 15: opt.param_groups[0]["lr"] = 1e-3
            loop.step(opt)
    return seen

@healthy
def phases():
    loop = Loop()
    def weight(step): return 1.0 if step < 9 else 0.5
    with watch(generator=loop.g, terms={"term": ("generator",)}, weights={"term": weight}) as seen:
        for step in range(18):
            if step == 9: loop.opt = loop.make()
            term = loop.loss()
            total = weight(step)*term
            loop.opt.zero_grad(); total.backward(); loop.opt.step()
    assert [f.cause for f in seen.notes()] == ["optimiser replaced"] and seen.step == 18
    return seen

@healthy
def toggled():
    pair = Pair()
    with watch(generator=pair.g, discriminator=pair.d) as seen:
        for _ in range(12):
            pair.d.requires_grad_(True); pair.g.requires_grad_(False)
            pair.d_opt.zero_grad(); pair.d_loss().backward(); pair.d_opt.step()
            pair.d.requires_grad_(False); pair.g.requires_grad_(True)
            pair.g_opt.zero_grad(); pair.g_loss().backward(); pair.g_opt.step()
    return seen

@healthy
def frozen_features():
    loop, features = Loop(), nn.Sequential(nn.Linear(6, 4), nn.ReLU()).requires_grad_(False)
    with watch(generator=loop.g, features=features) as seen:
        for _ in range(10):
            labels = torch.randint(4, (8,))
            made = loop.g(torch.randn(8, 4), labels)
            loss = (features(made) - features(loop.target[labels])).square().mean()
            loop.opt.zero_grad(); loss.backward(); loop.opt.step()
    return seen

@healthy
def fixed_positions():
    loop = Loop()
    loop.g.positions = nn.Parameter(torch.randn(6), requires_grad=False)
    loop.opt = loop.make()
    with watch(generator=loop.g) as seen:
        for _ in range(10): loop.step()
    return seen

@healthy
def resumed_with_state():
    loop = Loop()
    for _ in range(5): loop.step()
    again = loop.make()
    again.load_state_dict(loop.opt.state_dict())
    with watch(generator=loop.g, start_step=5) as seen:
        for _ in range(10): loop.step(again)
    return seen

@healthy
def resumed_without_moments():
    loop = Loop(kind=torch.optim.SGD)
    with watch(generator=loop.g, start_step=300) as seen:
        for _ in range(10): loop.step()
    return seen

@healthy
def scaled_and_declared():
    loop, scaler = Loop(), torch.amp.GradScaler("cpu")
    with watch(generator=loop.g, terms={"term": ("generator",)}, weights={"term": lambda step: 0.5}) as seen:
        for _ in range(12):
            term = loop.loss()
            loop.opt.zero_grad(); scaler.scale(0.5*term).backward()
            scaler.unscale_(loop.opt)
            scaler.step(loop.opt); scaler.update()
    return seen

@healthy
def divided_by_batches():
    loop = Loop()
    with watch(generator=loop.g, terms={"term": ("generator",)}, weights={"term": lambda step: 0.5},
               declared=["accumulation"]) as seen:
        for _ in range(8):
            loop.opt.zero_grad()
            for _ in range(4):
                term = loop.loss()
                (0.5*term/4).backward()
            loop.opt.step()
    return seen

@healthy
def divided_and_not_declared():
    loop = Loop()
    with watch(generator=loop.g, weights={"term": lambda step: 0.5}) as seen:
        for _ in range(8):
            loop.opt.zero_grad()
            for _ in range(4):
                term = loop.loss()
                (0.5*term/4).backward()
            loop.opt.step()
    return seen

@healthy
def clipped_where_it_belongs():
    loop, scaler = Loop(), torch.amp.GradScaler("cpu")
    from torch.nn.utils import clip_grad_norm_, clip_grad_value_
    with watch(generator=loop.g) as seen:
        for _ in range(10):
            loop.opt.zero_grad(); scaler.scale(loop.loss()).backward()
            scaler.unscale_(loop.opt)
            clip_grad_norm_(loop.g.parameters(), 1.0); clip_grad_value_(loop.g.parameters(), 1.0)
            scaler.step(loop.opt); scaler.update()
            clip_grad_norm_(loop.g.parameters(), float("inf"))   # to read the norm
    return seen

@healthy
def one_loss_two_optimisers():
    g, e = nn.Linear(3, 6), nn.Linear(6, 3)
    opts = [torch.optim.Adam(net.parameters()) for net in (g, e)]
    with watch(decoder=g, encoder=e) as seen:
        for _ in range(12):
            images = torch.randn(8, 6)
            loss = (g(e(images)) - images).square().mean()
            for opt in opts: opt.zero_grad()
            loss.backward()
            for opt in opts: opt.step()
    return seen

@healthy
def norms_are_logged():
    loop = Loop()
    with watch(generator=loop.g) as seen:
        for step in range(20):
            loop.step()
            if step % 2 == 0:
                loop.opt.zero_grad(); loop.loss().backward()
                _ = [float(p.grad.norm()) for p in loop.g.parameters()]
    return seen

@healthy
def sharpness_aware():
    loop = Loop()
    with watch(generator=loop.g) as seen:
        for _ in range(20):
            loop.opt.zero_grad(); loop.loss().backward()
            moves = [0.01*p.grad for p in loop.g.parameters()]
            with torch.no_grad(): [p.add_(move) for p, move in zip(loop.g.parameters(), moves)]
            loop.opt.zero_grad(); loop.loss().backward()
            with torch.no_grad(): [p.sub_(move) for p, move in zip(loop.g.parameters(), moves)]
            loop.opt.step()
    return seen

@healthy
def gradients_put_together():
    loop = Loop()
    with watch(generator=loop.g) as seen:
        for _ in range(12):
            kept = []
            for _ in range(3):
                loop.opt.zero_grad(); loop.loss().backward()
                kept.append([p.grad.clone() for p in loop.g.parameters()])
            for p, *parts in zip(loop.g.parameters(), *kept): p.grad = torch.stack(parts).median(0).values
            loop.opt.step()
    return seen

@healthy
def bad_batches_are_left_out():
    loop = Loop()
    with watch(generator=loop.g) as seen:
        for step in range(30):
            loop.opt.zero_grad(); loop.loss().backward()
            if step % 10 == 3: continue
            loop.opt.step()
    return seen

@healthy
def closures():
    loop = Loop(kind=torch.optim.LBFGS, lr=0.1)
    def closure(): loop.opt.zero_grad(); loss = loop.loss(); loss.backward(); return loss
    with watch(generator=loop.g) as seen:
        for _ in range(6): loop.opt.step(closure)
    return seen

@healthy
def accumulation_unfinished():
    loop = Loop()
    with watch(generator=loop.g, declared=["accumulation"]) as seen:
        for step in range(22):
            (loop.loss()/4).backward()
            if step % 4 == 3: loop.opt.step(); loop.opt.zero_grad()
    return seen

@healthy
def wrapped_optimiser():
    class Ahead(torch.optim.Optimizer):
        def __init__(self, inner): self.inner = inner; super().__init__(inner.param_groups, {})
        def step(self, closure=None): self.inner.step()
    loop = Loop()
    ahead = Ahead(loop.opt)
    with watch(generator=loop.g) as seen:
        for _ in range(10): loop.step(ahead)
    return seen

def averaged(update, role="ema", steps=40, norm=True, make=None, **options):
    loop = Loop(norm=norm, kind=torch.optim.SGD, **options)
    average = make(loop.g) if make else copy.deepcopy(loop.g).requires_grad_(False)
    with watch(generator=loop.g, **{role: average}) as seen:
        for step in range(steps):
            loop.step()
            with torch.no_grad(): update(average, loop.g, step)
    return seen

def mix(average, net, decay):
    for a, b in zip(average.parameters(), net.parameters()): a.mul_(decay).add_(b, alpha=1 - decay)
def whole(average, net, decay):
    mix(average, net, decay)
    for a, b in zip(average.buffers(), net.buffers()): a.copy_(b)

for name, run in {
    "average is slow": lambda: averaged(lambda a, n, s: whole(a, n, 0.9999)),
    "average every ten": lambda: averaged(lambda a, n, s: whole(a, n, 0.9) if s % 10 == 0 else None),
    "average starts later": lambda: averaged(lambda a, n, s: whole(a, n, 0.9) if s >= 20 else None),
    "average without norm": lambda: averaged(lambda a, n, s: mix(a, n, 0.9), norm=False),
    "buffers at the end": lambda: averaged(lambda a, n, s: whole(a, n, 0.9) if s == 39 else mix(a, n, 0.9)),
    "teacher that stays": lambda: averaged(lambda a, n, s: None, role="teacher"),
    "weight averaging": lambda: averaged(lambda a, n, s: a.update_parameters(n), make=swa_utils.AveragedModel),
}.items(): HEALTHY[name] = run

@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_habit_is_met_with_silence(name):
    torch.manual_seed(0)
    assert causes(HEALTHY[name]()) == []


# ---- faults

for name, (cause, run) in {
    "buffers stay": ("averaged buffers not updated", lambda: averaged(lambda a, n, s: mix(a, n, 0.9))),
    "buffers stay under another name": ("averaged buffers not updated",
                                        lambda: averaged(lambda a, n, s: mix(a, n, 0.9), role="shadow")),
    "average never moves": ("averaged weights not updated", lambda: averaged(lambda a, n, s: None)),
    "decay of 1": ("averaged weights not updated", lambda: averaged(lambda a, n, s: mix(a, n, 1.0))),
    "the wrong way round": ("averaged weights not updated", lambda: averaged(lambda a, n, s: mix(n, a, 0.99))),
    "rate 0": ("parameters do not change", lambda: stepped(lr=0.0)),
    "rate 1e-14": ("parameters do not change", lambda: stepped(lr=1e-14)),
    "rounded away": ("parameters do not change", lambda: stepped(lr=1e-6, half=True)),
}.items(): FAULTY[name] = run, cause

def stepped(half=False, **options):
    loop = Loop(**options)
    if half:
        loop.g.to(torch.bfloat16); loop.opt = loop.make()
        loop.loss = lambda: loop.g(torch.randn(8, 4, dtype=torch.bfloat16), torch.randint(4, (8,))).square().mean()
    with watch(generator=loop.g) as seen:
        for _ in range(30): loop.step()
    return seen

@faulty("parameters do not change")
def stepped_per_batch():
    loop = Loop()
    scheduler = schedules.StepLR(loop.opt, 1, 0.1)
    with watch(generator=loop.g) as seen:
        for _ in range(60): loop.step(); scheduler.step()
    return seen

@faulty("parameters frozen without declaration")
def embedding_frozen():
    loop = Loop()
    loop.g.label.requires_grad_(False)
    with watch(generator=loop.g) as seen:
        for _ in range(10): loop.step()
    return seen

@faulty("optimiser state lost")
def optimiser_in_the_loop():
    loop = Loop()
    with watch(generator=loop.g) as seen:
        for _ in range(12): loop.step(loop.make())
    return seen

@faulty("optimiser state lost")
def state_is_cleared():
    loop = Loop()
    with watch(generator=loop.g) as seen:
        for _ in range(12): loop.step(); loop.opt.state.clear()
    return seen

@faulty("optimiser state not restored")
def resumed_with_nothing():
    loop = Loop()
    with watch(generator=loop.g, start_step=300) as seen:
        for _ in range(10): loop.step()
    return seen

@faulty("parameters in two optimisers")
def two_in_turns():
    loop = Loop()
    other = loop.make()
    with watch(generator=loop.g) as seen:
        for _ in range(6): loop.step(); loop.step(other)
    return seen

def adversarial(g_step=True, d_step=True, clear=True):
    pair = Pair()
    g_opt, d_opt = pair.g_opt, pair.d_opt
    with watch(generator=pair.g, discriminator=pair.d) as seen:
        for _ in range(25):
            if clear: d_opt.zero_grad()
            pair.d_loss().backward()
            if d_step: d_opt.step()
            if clear: g_opt.zero_grad()
            pair.g_loss().backward()
            if g_step: g_opt.step()
    return seen

FAULTY["discriminator forgotten"] = lambda: adversarial(d_step=False), "gradients never used"
FAULTY["generator forgotten"] = lambda: adversarial(g_step=False), "gradients never used"

@faulty("gradients never used")
def cleared_in_every_micro_batch():
    loop = Loop()
    with watch(generator=loop.g, declared=["accumulation"]) as seen:
        for _ in range(10):
            for _ in range(3):
                loop.opt.zero_grad(); (loop.loss()/3).backward()
            loop.opt.step()
    return seen

@faulty("gradients accumulate")
def generator_pass_left_in_the_discriminator():
    pair = Pair()
    with watch(generator=pair.g, discriminator=pair.d, declared=["accumulation"]) as seen:
        for batch in range(24):
            (pair.g_loss()/2).backward()
            if batch % 2: pair.g_opt.step(); pair.g_opt.zero_grad()
            (pair.d_loss()/2).backward()
            if batch % 2: pair.d_opt.step(); pair.d_opt.zero_grad()
    return seen

def clipping(at, scaled=False):
    from torch.nn.utils import clip_grad_norm_ as clip
    loop, scaler = Loop(), torch.amp.GradScaler("cpu", enabled=scaled)
    with watch(generator=loop.g) as seen:
        for _ in range(10):
            loop.opt.zero_grad()
            if at == "before": clip(loop.g.parameters(), 1.0)
            scaler.scale(loop.loss()).backward()
            if at == "between": clip(loop.g.parameters(), 1.0)
            scaler.step(loop.opt); scaler.update()
            if at == "after": clip(loop.g.parameters(), 1.0)
    return seen

MISPLACED = "gradients clipped at the wrong place"
for at, scaled in (("before", False), ("after", False), ("between", True)):
    FAULTY[f"clipped {at}"] = (lambda at=at, scaled=scaled: clipping(at, scaled)), MISPLACED

def one_waits(*, steps, waits, logs):
    "A viewer that learns in its own steps, and a generator that begins later, each by the loop's counter"
    pair = Pair()
    terms = {"seen": ("discriminator",), "made": ("generator",)}
    def weight(step): return 1.0 if step < 20 else 0.5
    with watch(generator=pair.g, discriminator=pair.d, terms=terms, weights=dict.fromkeys(terms, weight)) as seen:
        for step in range(steps):
            learns = not logs or step % 2 == 1
            with torch.set_grad_enabled(learns): seen_here = pair.d_loss(); seen_now = {"seen": seen_here}
            if learns:
                pair.d_opt.zero_grad(); (weight(step)*seen_now["seen"]).backward(); pair.d_opt.step()
            if step < waits: continue
            made = pair.g_loss()
            pair.g_opt.zero_grad()
            (weight(step)*made).backward(inputs=list(pair.g.parameters())); pair.g_opt.step()
    return seen

@healthy
def generator_waits(): return one_waits(steps=40, waits=15, logs=False)

@healthy
def only_logged(): return one_waits(steps=15, waits=0, logs=True)

@healthy
def critic_first_by_its_own_batches():
    pair = Pair()
    def weight(step): return 1.0 if step < 20 else 0.5
    with watch(generator=pair.g, discriminator=pair.d, terms={"made": ("generator",)},
               weights={"made": weight}) as seen:
        for batch in range(50):
            pair.d_opt.zero_grad(); pair.d_loss().backward(); pair.d_opt.step()
            if batch % 5: continue
            made = pair.g_loss()
            pair.g_opt.zero_grad()
            (weight(batch)*made).backward(inputs=list(pair.g.parameters())); pair.g_opt.step()
    return seen

@healthy
def second_update():
    pair = Pair()
    def weight(step): return 1.0 if step < 4 else 0.5
    terms = {"made": ("generator",), "seen": ("discriminator",)}
    with watch(generator=pair.g, discriminator=pair.d, terms=terms, weights=dict.fromkeys(terms, weight)) as watched:
        for step in range(8):
            made = pair.g_loss()
            pair.g_opt.zero_grad(); (weight(step)*made).backward(inputs=list(pair.g.parameters())); pair.g_opt.step()
            seen = pair.d_loss()
            pair.d_opt.zero_grad(); (weight(step)*seen).backward(); pair.d_opt.step()
    assert watched.measured_weights["seen"] == {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0, 4: 0.5}
    return watched

@faulty("schedule shifted")
def second_update_a_step_late():
    pair = Pair()
    def weight(step): return 1.0 if step < 4 else 0.5
    with watch(generator=pair.g, discriminator=pair.d, terms={"seen": ("discriminator",)},
               weights={"seen": weight}) as watched:
        for step in range(8):
            pair.g_opt.zero_grad(); pair.g_loss().backward(inputs=list(pair.g.parameters())); pair.g_opt.step()
            seen = pair.d_loss()
            pair.d_opt.zero_grad(); (weight(step - 1)*seen).backward(); pair.d_opt.step()
    return watched

def lost_later(step, term): return term if step < 9 else term.detach()

@faulty("loss term without gradient")
def gradient_lost_in_a_later_phase():
    loop = Loop()
    def weight(step): return 1.0 if step < 9 else 0.5
    terms = {"term": ("generator",), "size": ("generator",)}
    with watch(generator=loop.g, terms=terms, weights={"term": weight, "size": lambda step: 1.0}) as seen:
        for step in range(18):
            term, size = lost_later(step, loop.loss()), 1e-3*loop.g.body[0].weight.square().mean()
            loop.opt.zero_grad(); (weight(step)*term + size).backward(); loop.opt.step()
    return seen

@faulty("loss term weighted by a number that varies")
def weighted_by_the_loss():
    loop = Loop()
    with watch(generator=loop.g, weights={"term": lambda step: 1.0}) as seen:
        for _ in range(8):
            term = loop.loss()
            loop.opt.zero_grad(); (term.item()*term).backward(); loop.opt.step()
    return seen

@faulty("loss term weighted differently")
def averaged_twice():
    loop = Loop()
    with watch(generator=loop.g, weights={"term": lambda step: 0.5}) as seen:
        for _ in range(8):
            term = loop.loss()
            loop.opt.zero_grad(); (0.5*term/8).backward(); loop.opt.step()
    return seen

@faulty("scaler bypassed")
def own_step():
    loop, scaler = Loop(), torch.amp.GradScaler("cpu")
    with watch(generator=loop.g) as seen:
        for _ in range(10):
            loop.opt.zero_grad(); scaler.scale(loop.loss()).backward(); loop.opt.step()
    return seen

@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_over_steps_is_named(name):
    torch.manual_seed(0)
    run, cause = FAULTY[name]
    assert causes(run())[:1] == [cause]


def test_pytorch_is_put_back():
    before = torch.nn.utils.clip_grad._clip_grads_with_norm_, torch.amp.GradScaler.scale, torch.amp.GradScaler.unscale_
    clipping("between")
    assert before == (torch.nn.utils.clip_grad._clip_grads_with_norm_, torch.amp.GradScaler.scale,
                      torch.amp.GradScaler.unscale_)

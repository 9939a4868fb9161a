"""`watch` on what enters a loop: draws that come again, classes that nobody asked for, ranges, pairs, and losses at their
bound. Every loop is small, and as many are healthy as are not"""
import itertools

import numpy as np
import pytest, torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from curriculum_gen.diagnosis.watching.watch import watch

CAUSES = {"random draws repeat", "class never requested", "requested labels are constant", "loss saturated",
          "data range does not match", "batch labels do not match images"}
PIXELS = 36


class Maker(nn.Module):
    "Latents and labels to images"
    def __init__(self, classes=10, end=nn.Tanh):
        super().__init__()
        self.table, self.net = nn.Embedding(classes, 8), nn.Sequential(nn.Linear(24, 32), nn.ReLU(),
                                                                       nn.Linear(32, PIXELS), end())

    def forward(self, z, y): return self.net(torch.cat([z, self.table(y)], 1))


class OneHotMaker(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16 + classes, 32), nn.ReLU(), nn.Linear(32, PIXELS), nn.Tanh())

    def forward(self, noise, *, condition): return self.net(torch.cat([noise, condition], 1))


class Critic(nn.Module):
    def __init__(self, end=nn.Identity, classes=10):
        super().__init__()
        self.table, self.net = nn.Embedding(classes, 8), nn.Sequential(nn.Linear(PIXELS + 8, 32), nn.LeakyReLU(0.2),
                                                                       nn.Linear(32, 1), end())

    def forward(self, x, y): return self.net(torch.cat([x, self.table(y)], 1))


class Denoiser(nn.Module):
    def __init__(self, classes=10, drop=0.0):
        super().__init__()
        self.time, self.table, self.net, self.drop = (nn.Embedding(50, 8), nn.Embedding(classes, 8),
                                                      nn.Linear(PIXELS + 16, PIXELS), drop)

    def forward(self, x, t, y):
        if self.drop: y = torch.where(torch.rand(len(y)) < self.drop, self.table.num_embeddings - 1, y)
        return self.net(torch.cat([x, self.time(t), self.table(y)], 1))


def data(n=256, low=-1.0, high=1.0, classes=10):
    y = torch.arange(n) % classes
    x = (torch.rand(n, PIXELS) < 0.3).float()*torch.rand(n, PIXELS).clamp(min=0.05).mul(1.2).clamp(max=1)
    x[:, 0] = 0
    return low + (high - low)*x, y


def adversarial(g, d, x, y, z, asked, optimisers):
    fake = g(z, asked)
    d_loss = F.softplus(-d(x, y)).mean() + F.softplus(d(fake.detach(), asked)).mean()
    optimisers[1].zero_grad(), d_loss.backward(), optimisers[1].step()
    g_loss = F.softplus(-d(fake, asked)).mean()
    optimisers[0].zero_grad(), g_loss.backward(), optimisers[0].step()


def gan(steps=30, *, latents=lambda step, n: torch.randn(n, 16), asked=lambda step, y: torch.randint(10, (len(y),)),
        rows=lambda step, n: torch.randint(n, (32,)), images=None, labels=lambda step, y: y,
        before=lambda step, g: None, classes=10, **declared):
    g, d = Maker(classes), Critic(classes=classes)
    optimisers = torch.optim.Adam(g.parameters(), 1e-3), torch.optim.Adam(d.parameters(), 1e-3)
    X, Y = images if images is not None else data()
    with watch(generator=g, discriminator=d, **declared) as seen:
        for step in range(steps):
            before(step, g)
            chosen = rows(step, len(X))
            adversarial(g, d, X[chosen], labels(step, Y[chosen]), latents(step, len(chosen)), asked(step, Y[chosen]),
                        optimisers)
    return seen


def epochs(n=256, size=32):
    "Row numbers of a shuffled data set, without end"
    while True:
        yield from torch.randperm(n).split(size)


def rows_of(n=256, size=32):
    order = epochs(n, size)
    return lambda step, n: next(order)


def denoising(steps=30, *, images=None, labels=lambda x, y: (x, y), classes=10, drop=0.0, flow=False, target="noise"):
    net = Denoiser(classes, drop)
    optimiser, (X, Y) = torch.optim.Adam(net.parameters()), images if images is not None else data()
    with watch(generator=net) as seen:
        for x, y in itertools.islice(itertools.chain.from_iterable(
                DataLoader(TensorDataset(X, Y), batch_size=32, shuffle=True) for _ in range(steps)), steps):
            x, y = labels(x, y)
            t, noise = torch.randint(50, (len(x),)), torch.randn_like(x)
            a = (t + 1)[:, None]/51
            mixed = (1 - a)*noise + a*x if flow else (1 - a).sqrt()*noise + a.sqrt()*x
            wanted = x - noise if flow else noise if target == "noise" else x
            loss = F.mse_loss(net(mixed, t, y), wanted)
            optimiser.zero_grad(), loss.backward(), optimiser.step()
    return seen


def fitting(make, batches, loss=F.mse_loss, steps=30, **declared):
    "A generator held against images: batches of (z, y, x)"
    g = make()
    optimiser = torch.optim.Adam(g.parameters(), 1e-3)
    with watch(generator=g, **declared) as seen:
        for z, y, x in itertools.islice(batches, steps):
            optimiser.zero_grad(), loss(g(z, y), x).backward(), optimiser.step()
    return seen


def found(seen):
    assert not seen._observers.failed, seen._observers.failed
    return [finding.cause for finding in seen.findings() if finding.cause in CAUSES]


HEALTHY, FAULTY = {}, {}


def healthy(make):
    HEALTHY[make.__name__] = make
    return make


def faulty(cause):
    def keep(make):
        FAULTY[make.__name__] = cause, make
        return make
    return keep


# ---- draws

@healthy
def plain_adversarial(): return gan(60)


@healthy
def epochs_of_shuffled_images(): return gan(60, rows=rows_of())


@healthy
def fixed_latents_to_look_at():
    fixed, asked = torch.randn(20, 16), torch.arange(20) % 10
    def look(step, g):
        if step % 5 == 0:
            with torch.no_grad(): g(fixed, asked)
        if step % 5 == 1: g(fixed, asked).mean().item()
    return gan(40, before=look)


@healthy
def generator_updated_twice_with_the_same_latents():
    kept = {}
    return gan(40, latents=lambda step, n: kept.setdefault(step//2, torch.randn(n, 16)))


def stored_pairs(size=16):
    z, x = torch.randn(128, 16), data(128)[0]
    y = torch.arange(128) % 10
    return ((z[chosen], y[chosen], x[chosen]) for chosen in epochs(128, size))


@healthy
def stored_latents_in_a_new_order(): return fitting(Maker, stored_pairs(), steps=60)


@healthy
def stored_latents_in_the_same_order():
    z, x, y = torch.randn(128, 16), data(128)[0], torch.arange(128) % 10
    return fitting(Maker, itertools.cycle(list(zip(z.split(16), y.split(16), x.split(16)))), steps=60)


@healthy
def one_batch_fitted_as_a_trial():
    z, x, y = torch.randn(16, 16), data(16)[0], torch.arange(16) % 10
    return fitting(Maker, itertools.repeat((z, y, x)), steps=40)


@healthy
def stored_latents_drawn_with_replacement():
    pool = torch.randn(40, 16)
    return gan(60, latents=lambda step, n: pool[torch.randint(40, (n,))])


@healthy
def binary_latents():
    return gan(60, latents=lambda step, n: torch.bernoulli(torch.full((n, 16), 0.9)))


@healthy
def closures_call_again():
    g, (X, Y) = Maker(), data(64)
    optimiser = torch.optim.LBFGS(g.parameters(), lr=0.1, max_iter=4)
    with watch(generator=g) as seen:
        for _ in range(8):
            z, chosen = torch.randn(16, 16), torch.randint(64, (16,))
            def closure():
                optimiser.zero_grad()
                loss = F.mse_loss(g(z, Y[chosen]), X[chosen])
                loss.backward()
                return loss
            optimiser.step(closure)
    return seen


@healthy
def images_autoencoded_in_the_same_order():
    class Auto(nn.Module):
        def __init__(self): super().__init__(); self.net = nn.Sequential(nn.Linear(PIXELS, 8), nn.Linear(8, PIXELS))
        def forward(self, x, y): return self.net(x)
    (X, Y), target = data(128), torch.randint(10, (128,))
    return fitting(Auto, itertools.cycle([(x, target[torch.randperm(len(x))], x) for x in X.split(16)]), steps=40)


class Samples(Dataset):
    def __init__(self, own): self.rng, (self.x, self.y), self.own = np.random.default_rng(0), data(256), own
    def __len__(self): return 256
    def __getitem__(self, i):
        rng = np.random.default_rng() if self.own else self.rng
        return self.x[i], self.y[i], torch.from_numpy(rng.standard_normal(16, dtype=np.float32))


def from_a_loader(own, rewind):
    g, d = Maker(), Critic()
    optimisers, samples = (torch.optim.Adam(g.parameters()), torch.optim.Adam(d.parameters())), Samples(own)
    with watch(generator=g, discriminator=d) as seen:
        for epoch in range(3):
            if rewind: samples.rng = np.random.default_rng(0)
            for x, y, z in DataLoader(samples, batch_size=32, shuffle=True): adversarial(g, d, x, y, z, y, optimisers)
    return seen


@healthy
def latents_from_a_loader(): return from_a_loader(own=True, rewind=False)


@faulty("random draws repeat")
def loader_rewound_in_each_epoch(): return from_a_loader(own=False, rewind=True)


@faulty("random draws repeat")
def two_workers_share_a_state():
    kept = {}
    return gan(20, latents=lambda step, n: kept.setdefault(step//2, torch.randn(n, 16)).clone())


@faulty("random draws repeat")
def seeded_at_each_epoch():
    return gan(60, before=lambda step, g: torch.manual_seed(3) if step % 16 == 0 else None)


@faulty("random draws repeat")
def seeded_by_the_evaluation():
    def evaluate(step, g):
        if step % 20 != 19: return
        torch.manual_seed(0)
        with torch.no_grad(): g(torch.randn(10, 16), torch.arange(10))
    return gan(70, before=evaluate)


@faulty("random draws repeat")
def numpy_seeded_at_each_epoch():
    rng = [None]
    def draw(step, n):
        if step % 12 == 0: rng[0] = np.random.RandomState(1)
        return torch.from_numpy(rng[0].randn(n, 16)).float()
    return gan(40, latents=draw)


@faulty("random draws repeat")
def uniform_latents_from_a_generator_made_in_the_loop():
    made = [None]
    def draw(step, n):
        if step % 10 == 0: made[0] = torch.Generator().manual_seed(0)
        return torch.rand(n, 16, generator=made[0])*2 - 1
    return gan(40, latents=draw)


@faulty("random draws repeat")
def one_batch_of_latents_for_ever():
    z = torch.randn(32, 16)
    return gan(40, latents=lambda step, n: z, asked=lambda step, y: torch.randint(10, (32,)))


@faulty("random draws repeat")
def noise_of_a_denoiser_rewound():
    net, (X, Y) = Denoiser(), data(128)
    optimiser = torch.optim.Adam(net.parameters())
    with watch(generator=net) as seen:
        for epoch in range(4):
            torch.manual_seed(0)
            for chosen in torch.randperm(128).split(16):
                x, t, noise = X[chosen], torch.randint(50, (16,)), torch.randn(16, PIXELS)
                loss = F.mse_loss(net(x*0.7 + 0.7*noise, t, Y[chosen]), noise)
                optimiser.zero_grad(), loss.backward(), optimiser.step()
    return seen


# ---- requested labels

@healthy
def class_by_class(): return gan(60, asked=lambda step, y: torch.full((32,), step//6))


@healthy
def curriculum_over_classes():
    return gan(60, asked=lambda step, y: torch.randint(2 + 2*(step//15), (32,)))


@healthy
def a_subset_on_purpose():
    x, y = data(256, classes=3)
    return gan(60, images=(x, y), asked=lambda step, y: torch.randint(3, (32,)))


@healthy
def labels_dropped_to_an_extra_class():
    return denoising(60, classes=11, labels=lambda x, y: (x, torch.where(torch.rand(len(y)) < 0.1, 10, y)))


@healthy
def labels_dropped_inside(): return denoising(60, classes=11, drop=0.2)


@healthy
def an_extra_class_that_is_not_used(): return denoising(60, classes=11)


@healthy
def classes_that_begin_at_one():
    x, y = data(256)
    return gan(60, images=(x, y + 1), classes=11, asked=lambda step, y: torch.randint(1, 11, (32,)))


@healthy
def imbalance_is_declared():
    return gan(60, asked=lambda step, y: torch.randint(9, (32,)), declared=("class_imbalance",))


@healthy
def too_few_to_tell():
    return gan(4, asked=lambda step, y: torch.randint(9, (8,)), rows=lambda step, n: torch.randint(n, (8,)))


@healthy
def long_tail_of_classes():
    y = torch.multinomial(0.5**torch.arange(10.), 256, replacement=True)
    return gan(60, images=(data()[0], y), asked=lambda step, y: y)


@healthy
def one_class_in_all():
    return gan(40, classes=1, images=(data()[0], torch.zeros(256, dtype=torch.long)), asked=lambda step, y: y)


@healthy
def one_class_of_data_and_requests():
    return gan(40, images=(data()[0], torch.full((256,), 4)), asked=lambda step, y: torch.full_like(y, 4))


@faulty("class never requested")
def exclusive_upper_end(): return gan(30, asked=lambda step, y: torch.randint(9, (32,)))


@faulty("class never requested")
def exclusive_lower_end():
    return gan(30, asked=lambda step, y: torch.from_numpy(np.random.randint(1, 10, 32)))


@faulty("class never requested")
def a_class_in_the_middle():
    return gan(30, asked=lambda step, y: torch.tensor([0, 1, 2, 3, 4, 6, 7, 8, 9])[torch.randint(9, (32,))])


def one_hot_requests(asked, steps=40):
    g, judge = OneHotMaker(), nn.Linear(PIXELS, 10)
    optimiser = torch.optim.Adam(g.parameters())
    with watch(generator=g, judge=judge.eval()) as seen:
        for step in range(steps):
            y = asked(step)
            loss = F.cross_entropy(judge(g(torch.randn(32, 16), condition=F.one_hot(y, 10).float())), y)
            optimiser.zero_grad(), loss.backward(), optimiser.step()
    return seen


@healthy
def one_hot_of_all(): return one_hot_requests(lambda step: torch.randint(10, (32,)))


@faulty("class never requested")
def one_hot_without_the_last(): return one_hot_requests(lambda step: torch.randint(9, (32,)))


@faulty("requested labels are constant")
def one_hot_constant(): return one_hot_requests(lambda step: torch.full((32,), 3))


@faulty("requested labels are constant")
def a_constant_left_over(): return gan(40, asked=lambda step, y: torch.full((32,), 6))


@faulty("requested labels are constant")
def zeros_requested(): return gan(40, asked=lambda step, y: torch.zeros_like(y))


# ---- losses at their bound

def saturating(rate=0.5, end=nn.Sigmoid, loss=F.binary_cross_entropy, steps=60):
    torch.manual_seed(1)
    g, d = Maker(), Critic(end)
    g_opt, d_opt, (X, Y) = torch.optim.Adam(g.parameters()), torch.optim.Adam(d.parameters(), rate), data()
    with watch(generator=g, discriminator=d) as seen:
        for step in range(steps):
            chosen, asked = torch.randint(256, (32,)), torch.randint(10, (32,))
            fake = g(torch.randn(32, 16), asked)
            ones, zeros = torch.ones(32, 1), torch.zeros(32, 1)
            real_loss, fake_loss = loss(d(X[chosen], Y[chosen]), ones), loss(d(fake.detach(), asked), zeros)
            d_opt.zero_grad(), (real_loss + fake_loss).backward(), d_opt.step()
            g_loss = loss(d(fake, asked), ones)
            g_opt.zero_grad(), g_loss.backward(), g_opt.step()
    return seen


@healthy
def logits_saturate_and_train(): return saturating(end=nn.Identity, loss=F.binary_cross_entropy_with_logits)


@healthy
def a_weaker_opponent(): return saturating(rate=1e-3)


@healthy
def hinge_of_the_discriminator_at_zero():
    def hinge(logits, target): return F.relu(1 - logits*(2*target - 1)).mean()
    return saturating(end=nn.Identity, loss=hinge)


@healthy
def a_phase_of_weight_zero():
    g, judge = Maker(), nn.Linear(PIXELS, 10)
    optimiser = torch.optim.SGD(g.parameters(), 0.1)
    with watch(generator=g, judge=judge.eval()) as seen:
        for step in range(60):
            y = torch.randint(10, (32,))
            loss = (step < 20 or step > 50)*F.cross_entropy(judge(g(torch.randn(32, 16), y)), y)
            optimiser.zero_grad(), loss.backward(), optimiser.step()
    return seen


@healthy
def a_margin_that_is_kept():
    def margin(out, x): return F.relu((out - x).square().mean() - 5)
    drawn = ((torch.randn(16, 16), torch.randint(10, (16,)), data(16)[0]) for _ in itertools.count())
    return fitting(Maker, drawn, margin, steps=60)


@faulty("loss saturated")
def sigmoid_saturates(): return saturating(rate=2.0)


@faulty("loss saturated")
def sigmoid_saturates_under_least_squares(): return saturating(rate=2.0, loss=F.mse_loss)


@faulty("loss saturated")
def logarithm_with_epsilon_saturates():
    def loss(p, target): return -(torch.log(torch.where(target > 0, p, 1 - p) + 1e-8)).mean()
    return saturating(rate=2.0, loss=loss)


# ---- ranges

@healthy
def images_in_zero_one_and_a_sigmoid():
    return fitting(lambda: Maker(end=nn.Sigmoid), ((z, y, (x + 1)/2) for z, y, x in stored_pairs()),
                   F.binary_cross_entropy)


@healthy
def tanh_rescaled_in_the_loop():
    return fitting(Maker, ((z, y, (x + 1)/2) for z, y, x in stored_pairs()),
                   lambda out, x: F.mse_loss(out*0.5 + 0.5, x))


@healthy
def standardised_images_and_a_linear_output():
    return fitting(lambda: Maker(end=nn.Identity), ((z, y, (x - x.mean())/x.std()) for z, y, x in stored_pairs()))


@healthy
def raw_images_normalised_before_use():
    X, Y = data(low=0, high=255)
    return denoising(images=(X, Y), labels=lambda x, y: (x/127.5 - 1, y))


@healthy
def images_dithered_before_they_are_scaled():
    X, Y = data(low=0, high=255)
    return denoising(images=(X, Y), labels=lambda x, y: ((x + torch.randn_like(x))/127.5 - 1, y))


@healthy
def large_noise_by_design():
    net, (X, Y) = Denoiser(), data(128)
    optimiser = torch.optim.Adam(net.parameters())
    with watch(generator=net) as seen:
        for _ in range(20):
            x, t = X[torch.randint(128, (32,))], torch.randint(50, (32,))
            sigma = (torch.randn(32, 1)*1.2 + 2).exp()
            loss = ((net((x + sigma*torch.randn_like(x))/(1 + sigma), t, torch.randint(10, (32,))) - x).square()).mean()
            optimiser.zero_grad(), loss.backward(), optimiser.step()
    return seen


@faulty("data range does not match")
def bytes_with_tanh(): return gan(images=data(low=0, high=255))


@faulty("data range does not match")
def zero_one_with_tanh(): return gan(images=data(low=0, high=1))


@faulty("data range does not match")
def standardised_with_tanh(): return gan(images=data(low=-0.42, high=2.8))


@faulty("data range does not match")
def minus_one_with_a_sigmoid():
    return fitting(lambda: Maker(end=nn.Sigmoid), stored_pairs(), F.mse_loss)


@faulty("data range does not match")
def minus_one_as_target_of_probabilities():
    return fitting(lambda: Maker(end=nn.Identity), stored_pairs(), F.binary_cross_entropy_with_logits)


@faulty("data range does not match")
def bytes_compared_by_hand():
    return fitting(Maker, ((z, y, 127.5*x + 127.5) for z, y, x in stored_pairs()),
                   lambda out, x: (out - x).abs().mean())


@faulty("data range does not match")
def bytes_noised(): return denoising(images=data(low=0, high=255))


@faulty("data range does not match")
def bytes_in_a_flow(): return denoising(images=data(low=0, high=255), flow=True)


@faulty("data range does not match")
def bytes_predicted_from_noise(): return denoising(images=data(low=0, high=255), target="image")


# ---- pairs

def coupled(x, y, both=False):
    order = torch.cdist(torch.randn_like(x), x).argmin(1)
    return x[order], y[order] if both else y


@healthy
def coupling_moves_both(): return denoising(flow=True, labels=lambda x, y: coupled(x, y, both=True))


@healthy
def a_flow_without_coupling(): return denoising(flow=True)


@healthy
def label_noise_by_design():
    return gan(60, labels=lambda step, y: torch.where(torch.rand(len(y)) < 0.2, torch.randint(10, (len(y),)), y))


@healthy
def wrong_labels_as_negatives():
    g, d, (X, Y) = Maker(), Critic(), data()
    g_opt, d_opt = torch.optim.Adam(g.parameters()), torch.optim.Adam(d.parameters())
    with watch(generator=g, discriminator=d) as seen:
        for step in range(40):
            chosen = torch.randint(256, (32,))
            x, y = X[chosen], Y[chosen]
            fake = g(torch.randn(32, 16), y)
            wrong, made = d(x, y[torch.randperm(32)]), d(fake.detach(), y)
            loss = (F.softplus(-d(x, y)) + F.softplus(wrong) + F.softplus(made)).mean()
            d_opt.zero_grad(), loss.backward(), d_opt.step()
            g_opt.zero_grad(), F.softplus(-d(fake, y)).mean().backward(), g_opt.step()
    return seen


@healthy
def mixed_images():
    X, Y = data()
    g, d = Maker(), Critic()
    optimisers = torch.optim.Adam(g.parameters()), torch.optim.Adam(d.parameters())
    with watch(generator=g, discriminator=d) as seen:
        for step in range(40):
            chosen, w = torch.randint(256, (32,)), torch.rand(1)
            x = w*X[chosen] + (1 - w)*X[chosen.flip(0)]
            y = Y[chosen] if w > 0.5 else Y[chosen.flip(0)]
            adversarial(g, d, x, y, torch.randn(32, 16), Y[chosen], optimisers)
    return seen


@faulty("batch labels do not match images")
def coupling_moves_images_only(): return denoising(flow=True, labels=coupled)


@faulty("batch labels do not match images")
def rows_chosen_twice(): return gan(50, labels=lambda step, y: y[torch.randperm(len(y))])


@faulty("batch labels do not match images")
def labels_of_other_rows():
    X, Y = data()
    return gan(50, images=(X, Y), labels=lambda step, y: Y[torch.randint(256, (32,))])


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_loop_is_met_with_silence(name):
    torch.manual_seed(0)
    np.random.seed(0)
    assert found(HEALTHY[name]()) == []


@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_is_named(name):
    torch.manual_seed(0)
    np.random.seed(0)
    cause, make = FAULTY[name]
    assert found(make()) == [cause]


def test_there_are_enough_of_both():
    assert len(HEALTHY) >= 15 <= len(FAULTY)

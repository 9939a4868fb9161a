"""Ways by which a label reaches an image or a loss, healthy and faulty, in programs of nobody's style in particular"""
import inspect, random

import numpy as np, pytest, torch, torch.nn.functional as F
from torch import nn

from curriculum_gen.diagnosis.watching.watch import watch

CLASSES, BATCH, LATENTS, PIXELS = 7, 12, 6, 9


class Net(nn.Module):
    "A generator whose condition is made by a function of itself and the labels"
    def __init__(self, condition=None, width=5, zero=False):
        super().__init__()
        self.table, self.first = nn.Embedding(CLASSES, 5), nn.Linear(LATENTS + width, 10)
        self.last, self.condition = nn.Linear(10, PIXELS), condition or (lambda net, y: net.table(y))
        if zero: nn.init.zeros_(self.last.weight), nn.init.zeros_(self.last.bias)
    def forward(self, z, y): return self.last(torch.tanh(self.first(torch.cat([z, self.condition(self, y)], 1))))


def judge(seed=3):
    torch.manual_seed(seed)
    return nn.Linear(PIXELS, CLASSES).requires_grad_(False)


def run(net=None, *, loss=None, call=None, back=None, labels=None, steps=4, latents=None, seed=0, **roles):
    "A loop as many write it; what `watch` found, and the watch"
    torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
    net, sees = net or Net(), judge()
    loss = loss or (lambda x, y: F.cross_entropy(sees(x), y))
    optimiser = torch.optim.Adam([*net.parameters(), *(p for r in roles.values() for p in r.parameters())], 1e-2)
    with watch(generator=net, **roles) as seen:
        for _ in range(steps):
            y = labels() if labels else torch.randint(CLASSES, (BATCH,))
            z = latents() if latents else torch.randn(BATCH, LATENTS)
            x = call(net, z, y) if call else net(z, y)
            optimiser.zero_grad()
            (back or (lambda l, x: l.backward()))(loss(x, y) if loss else None, x)
            optimiser.step()
    return seen


def causes(seen): return [f.cause for f in seen.findings()]
def one_hot(y): return F.one_hot(y, CLASSES).float()


# ---- healthy: how a label may go into an image

def by_assignment(net, y):
    rows = torch.zeros(len(y), CLASSES)
    rows[range(len(y)), y] = 1
    return rows

def by_view(net, y):
    wide = torch.zeros(len(y), CLASSES + 2)
    wide[:, :CLASSES].copy_(one_hot(y))
    return wide[:, :CLASSES]

def by_experts(net, y):
    out = torch.zeros(len(y), 5)
    for k in range(CLASSES):
        if bool((y == k).any()): out[y == k] = net.table.weight[k]
    return out

def in_place(net, y):
    given = torch.empty(len(y), CLASSES, dtype=torch.bool)
    torch.eq(y[:, None], torch.arange(CLASSES), out=given)
    return given.float()

NAMES = {k: f"class {k}" for k in range(CLASSES)}

class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x*2
    @staticmethod
    def backward(ctx, g): return g*2

@torch.jit.script
def scripted_rows(y: torch.Tensor, n: int) -> torch.Tensor: return (y[:, None] == torch.arange(n)[None]).float()

CONDITIONS = {   # a condition, and its width
    "embedding": (lambda net, y: net.table(y), 5),
    "type": (lambda net, y: F.one_hot(y, CLASSES).type(torch.FloatTensor), CLASSES),
    "assignment": (by_assignment, CLASSES),
    "written into a view": (by_view, CLASSES),
    "scatter_": (lambda net, y: torch.zeros(len(y), CLASSES).scatter_(1, y[:, None], 1.0), CLASSES),
    "index_put_": (lambda net, y: torch.zeros(len(y), CLASSES).index_put_((torch.arange(len(y)), y), torch.ones(1)),
                   CLASSES),
    "numpy table": (lambda net, y: torch.from_numpy(np.eye(CLASSES, dtype=np.float32)[y.numpy()]), CLASSES),
    "array protocol": (lambda net, y: torch.as_tensor(np.eye(CLASSES)[y], dtype=torch.float32), CLASSES),
    "list": (lambda net, y: net.table(torch.tensor([k for k in y.tolist()])), 5),
    "LongTensor of ints": (lambda net, y: net.table(torch.LongTensor([int(k) for k in y])), 5),
    "dictionary by item": (lambda net, y: torch.tensor([[float(len(NAMES[k.item()]) + k.item())]*5 for k in y]), 5),
    "rows picked in Python": (lambda net, y: torch.stack([net.table.weight[k] for k in y]), 5),
    "experts by mask": (by_experts, 5),
    "out argument": (in_place, CLASSES),
    "vmap": (lambda net, y: torch.vmap(lambda k: net.table.weight[k])(y), 5),
    "custom function": (lambda net, y: Doubling.apply(net.table(y)), 5),
    "scripted": (lambda net, y: scripted_rows(y, CLASSES), CLASSES),
    "functional call": (lambda net, y: torch.func.functional_call(net.table, dict(net.table.named_parameters()), (y,)),
                        5),
    "checkpointed": (lambda net, y: torch.utils.checkpoint.checkpoint(net.table, y, use_reentrant=False), 5),
    "dropped now and then": (lambda net, y: net.table(y)*(torch.rand(len(y), 1) > 0.3), 5),
    "scalar code": (lambda net, y: (y.float()/CLASSES)[:, None].expand(-1, 5), 5),
    "sum of digits": (lambda net, y: torch.stack([(y >> b & 1).float() for b in range(5)], 1), 5),
    "norm by class": (lambda net, y: F.layer_norm(net.table.weight, (5,))[y], 5),
    "einsum": (lambda net, y: torch.einsum("bc,cd->bd", one_hot(y), net.table.weight), 5),
}

@pytest.mark.parametrize("way", CONDITIONS)
def test_a_label_may_go_into_the_generator_by_any_way(way):
    condition, width = CONDITIONS[way]
    assert causes(run(Net(condition, width))) == []


class ByAttribute(Net):
    "Is told its labels before it is called, and takes them as an argument that is for the interface only"
    def tell(self, y): self.told = y
    def forward(self, z, y=None): return super().forward(z, self.told)

class Script(Net):
    "Chooses in Python by the first label of a batch of one class"
    def forward(self, z, y): return super().forward(z, y) if int(y[0]) % 2 else super().forward(-z, y)

class Gated(Net):
    "A gate that begins at 0 before a head that begins at 0: nothing depends on the label for some steps"
    def __init__(self):
        super().__init__(zero=True)
        self.gate = nn.Parameter(torch.zeros(1))
    def forward(self, z, y): return self.last(torch.tanh(self.first(torch.cat([z, self.gate*self.table(y)], 1))))

class OwnNoise(Net):
    "Takes the latents for their size only, and draws its own"
    def forward(self, z, y): return super().forward(torch.randn_like(z), y)

class Stateful(Net):
    "Counts, normalises and remembers"
    def __init__(self):
        super().__init__()
        self.norm, self.count, self.seen = nn.BatchNorm1d(PIXELS), 0, []
    def forward(self, z, y):
        self.count += 1
        self.seen.append(self.count)
        return self.norm(super().forward(z, y)) + 0.01*torch.randn(len(z), PIXELS)

def told_first(net, z, y):
    net.tell(y)
    return net(z)

def told_and_given(net, z, y):
    net.tell(y)
    return net(z, y)

class Reads(nn.Module):
    "A discriminator that is given the label"
    def __init__(self):
        super().__init__()
        self.table, self.net = nn.Embedding(CLASSES, 4), nn.Linear(PIXELS + 4, 1)
    def forward(self, x, y): return self.net(torch.cat([x, self.table(y)], 1))

@torch.jit.script
def scripted_error(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor: return F.cross_entropy(x, y)

def as_list(x, y): return -F.log_softmax(SEES(x), 1)[range(len(y)), y.tolist()].mean()
def by_vmap(x, y): return torch.vmap(lambda row, k: -row.log_softmax(0).gather(0, k[None])[0])(SEES(x), y).mean()
def by_zip(x, y): return sum(F.cross_entropy(SEES(a[None]), b[None]) for a, b in zip(x, y))/len(y)
def by_mask(x, y): return sum((x[y == k] - k).square().sum() for k in range(CLASSES))/len(y)
def by_python(x, y): return sum((row - float(k)).square().mean() for row, k in zip(x, [k.item() for k in y]))
def by_table(x, y): return F.mse_loss(SEES(x), torch.from_numpy(np.eye(CLASSES, dtype="float32")[y.numpy()]))
def by_assigned(x, y): return F.mse_loss(SEES(x), by_assignment(None, y))
def by_script(x, y): return scripted_error(SEES(x), y)
def by_scripted_target(x, y): return F.mse_loss(SEES(x), scripted_rows(y, CLASSES))
def with_accuracy(x, y):
    logits = SEES(x)
    LOG.append(((logits.argmax(1) == y).float().mean().item(), (logits.argmax(1) == y).sum().item()))
    return F.cross_entropy(logits, y)
def smoothed(x, y): return F.cross_entropy(SEES(x), 0.9*one_hot(y) + 0.1/CLASSES)
def soft_targets(x, y): return F.cross_entropy(SEES(x), (5*one_hot(y)).softmax(1))
def log_probabilities(x, y): return F.nll_loss(F.log_softmax(SEES(x), 1), y)
def log_twice(x, y): return F.cross_entropy(F.log_softmax(SEES(x), 1), y)
def with_temperature(x, y): return F.cross_entropy(SEES(x)/0.07, y)
def attended(x, y): return F.cross_entropy(SEES((x@x.T).softmax(1)@x), y)
def focal(x, y):
    error = F.cross_entropy(SEES(x), y, reduction="none")
    return ((1 - (-error).exp()).detach()**2*error).mean()
def adaptive(x, y):
    a, b = F.cross_entropy(SEES(x), y), x.square().mean()
    return a + b*(a/(b + 1e-6)).detach()
def straight_through(x, y):
    hard = x + (x.round() - x).detach()
    return F.cross_entropy(SEES(hard), y)
def hard_sample(x, y):
    soft = SEES(x).softmax(1)
    hard = one_hot(soft.argmax(1)) - soft.detach() + soft
    return F.mse_loss(hard, one_hot(y))
def baseline(x, y):
    error = F.cross_entropy(SEES(x), y, reduction="none")
    return error.mean() + 0.1*(x.sum(1) - x.sum(1).detach()).mean()
def logged(x, y):
    error = F.cross_entropy(SEES(x), y)
    LOG.append(error + (SEES(x).argmax(1) != y).float().mean())
    with torch.no_grad(): LOG.append(F.cross_entropy(SEES(x).softmax(1), y))   # a calibration that is only logged
    return error
def normalised(x, y): return F.cross_entropy(SEES(x), y) + (x/x.norm(dim=1, keepdim=True).detach()).square().mean()
SEES, LOG = judge(), []

HEALTHY = {
    **{f.__name__: lambda f=f: run(loss=f) for f in (
        as_list, by_vmap, by_zip, by_mask, by_python, by_table, by_assigned, by_script, by_scripted_target,
        with_accuracy, smoothed, soft_targets, log_probabilities, log_twice, with_temperature, attended, focal,
        adaptive, straight_through, hard_sample, baseline, logged, normalised)},
    "told by attribute": lambda: run(ByAttribute(), call=told_first),
    "told by attribute and argument": lambda: run(ByAttribute(), call=told_and_given, steps=30),
    "by int of the first label": lambda: run(Script()),
    "head of zeros": lambda: run(Net(zero=True)),
    "gate and head of zeros": lambda: run(Gated()),
    "own noise": lambda: run(OwnNoise()),
    "state": lambda: run(Stateful()),
    "two roots": lambda: run(back=lambda l, x: torch.autograd.backward([x.square().mean(), l])),
    "two passes": lambda: run(back=lambda l, x: (x.square().mean().backward(retain_graph=True), l.backward())),
    "labels from Python's random": lambda: run(
        labels=lambda: torch.tensor([random.randrange(CLASSES) for _ in range(BATCH)]), loss=by_table),
    "one-hot rows drawn by NumPy": lambda: run(
        Net(lambda net, h: h, CLASSES), labels=lambda: torch.from_numpy(
            np.eye(CLASSES, dtype="float32")[np.random.randint(CLASSES, size=BATCH)]),
        loss=lambda x, h: F.mse_loss(SEES(x), h)),
    "one class a batch": lambda: run(labels=lambda: torch.full((BATCH,), random.randrange(CLASSES))),
    "discriminator that reads labels": lambda: run(loss=lambda x, y: F.softplus(-READS(x, y)).mean()),
    "keyword": lambda: run(call=lambda net, z, y: net(z=z, y=y)),
}
READS = Reads().requires_grad_(False)

@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_route_is_met_with_silence(name): assert causes(HEALTHY[name]()) == []


def test_gradients_that_were_asked_for_without_a_backward_pass_are_no_finding():
    torch.manual_seed(0)
    net = Net()
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    with watch(generator=net) as seen:
        for _ in range(4):
            y = torch.randint(CLASSES, (BATCH,))
            x = net(torch.randn(BATCH, LATENTS), y)
            optimiser.zero_grad()
            extra = torch.autograd.grad(F.cross_entropy(SEES(x), y), list(net.parameters()), retain_graph=True)
            x.square().mean().backward()
            for p, g in zip(net.parameters(), extra): p.grad += g
            optimiser.step()
    assert causes(seen) == []


def test_a_route_that_left_sight_is_said_to_be_unseen_with_its_line():
    seen = run(loss=as_list)
    line = inspect.getsourcelines(as_list)[1]
    assert causes(seen) == [] and f"test_label_routes.py:{line} (tolist)" in seen.not_possible()["SENS"]


def test_asking_the_generator_changes_no_bit():
    def trained(watched):
        torch.manual_seed(0), np.random.seed(0)
        net = Stateful()
        optimiser = torch.optim.Adam(net.parameters(), 1e-2)
        def steps():
            for _ in range(4):
                y = torch.randint(CLASSES, (BATCH,))
                loss = F.cross_entropy(SEES(net(torch.randn(BATCH, LATENTS), y)), y)
                optimiser.zero_grad(); loss.backward(); optimiser.step()
        if watched:
            with watch(generator=net): steps()
        else: steps()
        return net, torch.rand(1), np.random.rand()
    (one, *draws), (other, *others) = trained(True), trained(False)
    assert draws == others and one.count == other.count and one.seen == other.seen
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))


# ---- faults

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.c = nn.Linear(10, 10), nn.Linear(5, 10)
    def forward(self, h, *, step=None, label=None, **_):
        return h + self.a(h).tanh() + (0 if step is None else step) + (0 if label is None else self.c(label))

class Denoiser(nn.Module):
    "Hands its class embedding on under a name that nobody reads"
    def __init__(self, key):
        super().__init__()
        self.time, self.table, self.first = nn.Embedding(50, 10), nn.Embedding(CLASSES, 5), nn.Linear(PIXELS, 10)
        self.blocks, self.last, self.key = nn.ModuleList([Block(), Block()]), nn.Linear(10, PIXELS), key
    def forward(self, x, t, y):
        given, h = {"step": self.time(t), self.key: self.table(y)}, self.first(x)
        for block in self.blocks: h = block(h, **given)
        return self.last(h)

def denoised(key, where=None):
    torch.manual_seed(0)
    net = Denoiser(key)
    optimiser = torch.optim.Adam(net.parameters())
    images, classes = torch.randn(90, PIXELS), torch.randint(CLASSES, (90,))
    with watch(generator=net) as seen:
        for _ in range(4):
            rows = torch.randint(90, (BATCH,))
            t, noise = torch.randint(50, (BATCH,)), torch.randn(BATCH, PIXELS)
            level = (t/50)[:, None]
            loss = F.mse_loss(net((1 - level)*images[rows] + level*noise, t, classes[rows]), noise)
            optimiser.zero_grad(); loss.backward(); optimiser.step()
    return seen

def test_a_class_embedding_that_is_lost_on_the_way_is_found_beside_a_step_number_that_arrives():
    assert causes(denoised("label")) == []
    found, = denoised("labels").findings()
    assert found.cause == "labels ignored by the generator" and " y," in found.evidence
    assert found.where.startswith("test_label_routes.py:")


class Overwrites(Net):
    def forward(self, z, y): return super().forward(z, torch.zeros_like(y))
class SameNoise(Net):
    def forward(self, z, y):
        torch.manual_seed(5)
        return super().forward(torch.randn_like(z), y)
class Data(Net):
    def forward(self, z, y): return self.last(torch.tanh(self.first(torch.cat([z, self.table(y).data], 1))))   # cut
class Round(Net):
    def forward(self, z, y):
        told = torch.from_numpy(self.table(y).detach().numpy().round(1))   # cut
        return self.last(torch.tanh(self.first(torch.cat([z, told], 1))))
class NoGradient(Net):
    def forward(self, z, y):
        with torch.no_grad():
            told = self.table(y)   # cut
        return self.last(torch.tanh(self.first(torch.cat([z, told], 1))))
class Tensor(Net):
    def forward(self, z, y):
        told = self.table(y)
        told = torch.tensor(told)   # cut
        return self.last(torch.tanh(self.first(torch.cat([z, told], 1))))
class Hard(Net):
    def forward(self, z, y):
        told = one_hot(self.table(y).argmax(1) % 5)[:, :5]   # cut
        return self.last(torch.tanh(self.first(torch.cat([z, told], 1))))

LABELS = "labels ignored by the generator"
CUT, NONE, LOGITS, REACH = ("gradient cut inside the network", "loss term without gradient",
                            "activation before a loss on logits", "requested labels reach no loss")

def error_beside(x, y):
    wrong = (SEES(x).argmax(1) != y).float().mean()
    return F.cross_entropy(SEES(x), y) + wrong
def rounded(x, y): return F.cross_entropy(SEES(x), y) + 0.5*x.round().square().mean()
def compared(x, y): return F.cross_entropy(SEES(x), y) + (x.abs() > 1).float().mean()
def as_integers(x, y): return torch.stack([F.cross_entropy(SEES(x), y), x.long().float().square().mean()]).sum()
def numbers(x, y): return F.cross_entropy(SEES(x), y) + x.square().mean().item()
def softmaxed(x, y):
    probabilities = SEES(x).softmax(1)
    return F.cross_entropy(probabilities, y)
def module_softmax(x, y): return nn.CrossEntropyLoss()(nn.Sequential(nn.Identity(), nn.Softmax(dim=1))(SEES(x)), y)
def sigmoids(x, y): return F.binary_cross_entropy_with_logits(torch.sigmoid(SEES(x)), one_hot(y))
def exponent(x, y): return F.cross_entropy(F.log_softmax(SEES(x), -1).exp(), y)
def pixels(x, y):
    drawn = F.binary_cross_entropy_with_logits(x.sigmoid().view(BATCH, -1), torch.rand(BATCH, PIXELS))
    return drawn + F.cross_entropy(SEES(x), y)
def other_labels(x, y): return F.cross_entropy(SEES(x), torch.randint(CLASSES, (BATCH,)))
def realism_only(x, y): return (x - torch.randn(BATCH, PIXELS)).square().mean()
def own_prediction(x, y): return F.cross_entropy(SEES(x), SEES(x).argmax(1))
def logs_hits(x, y):
    LOG.append((SEES(x).argmax(1) == y).sum().item())
    return x.square().mean()

def line_in(code, text):
    lines, first = inspect.getsourcelines(code)
    return first + next(i for i, line in enumerate(lines) if text in line)

FAULTS = {   # how to run it, cause, and code and text of its line
    "labels overwritten": (lambda: run(Overwrites()), LABELS, run, "net(z, y)"),
    "embedding of a constant": (lambda: run(Net(lambda n, y: n.table(torch.zeros(len(y), dtype=torch.long)))), LABELS,
                                run, "net(z, y)"),
    "only the size of the labels": (lambda: run(Net(lambda n, y: torch.ones(len(y), 5))), LABELS, run, "net(z, y)"),
    "labels always dropped": (lambda: run(Net(lambda n, y: n.table(torch.where(torch.rand(len(y)) < 2, 0*y, y))),
                                          steps=26), LABELS, run, "net(z, y)"),
    "latents seeded inside": (lambda: run(SameNoise()), "random draws repeat", SameNoise, "randn_like"),
    "latents multiplied by 0": (lambda: run(call=lambda net, z, y: net(z, y), net=type("Zero", (Net,), {
        "forward": lambda self, z, y: Net.forward(self, torch.zeros_like(z), y)})()),
        "latents ignored by the generator", None, ""),
    ".data": (lambda: run(Data()), CUT, Data, "# cut"),
    "numpy round trip": (lambda: run(Round()), CUT, Round, "# cut"),
    "no_grad": (lambda: run(NoGradient()), CUT, NoGradient, "# cut"),
    "torch.tensor": (lambda: run(Tensor()), CUT, Tensor, "# cut"),
    "argmax inside": (lambda: run(Hard()), CUT, Hard, "# cut"),
    "argmax beside": (lambda: run(loss=error_beside), NONE, run, "l.backward()"),
    "round": (lambda: run(loss=rounded), NONE, run, "l.backward()"),
    "comparison": (lambda: run(loss=compared), NONE, run, "l.backward()"),
    "long": (lambda: run(loss=as_integers), NONE, run, "l.backward()"),
    "item": (lambda: run(loss=numbers), NONE, run, "l.backward()"),
    "softmax": (lambda: run(loss=softmaxed), LOGITS, softmaxed, "cross_entropy"),
    "softmax in a judge": (lambda: run(loss=module_softmax), LOGITS, module_softmax, "CrossEntropyLoss"),
    "sigmoid": (lambda: run(loss=sigmoids), LOGITS, sigmoids, "binary"),
    "exp of log_softmax": (lambda: run(loss=exponent), LOGITS, exponent, "cross_entropy"),
    "sigmoid of pixels": (lambda: run(loss=pixels), LOGITS, pixels, "drawn ="),
    "other labels": (lambda: run(loss=other_labels), REACH, run, "net(z, y)"),
    "no labels": (lambda: run(loss=realism_only), REACH, run, "net(z, y)"),
    "its own prediction": (lambda: run(loss=own_prediction), REACH, run, "net(z, y)"),
    "labels in the log only": (lambda: run(loss=logs_hits), REACH, run, "net(z, y)"),
}

@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_route_is_named_with_its_line(name):
    make, cause, code, text = FAULTS[name]
    found = make().findings()
    assert found and found[0].cause == cause, [str(f) for f in found]
    if code: assert found[0].where == f"test_label_routes.py:{line_in(code, text)}", found[0].where

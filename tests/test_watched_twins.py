"""A watched loop runs as an unwatched one, bit for bit: weights and random states after some steps are equal, whatever
kinds of tensors, compilers, transforms, copies and contexts the loop uses"""
import copy, io, multiprocessing, pickle, threading

import pytest
import torch
from torch import nn
import torch.nn.functional as F

from curriculum_gen import watch

CLASSES = 4


class Sketcher(nn.Module):
    "A small conditional generator"
    def __init__(self, sparse=False, dtype=torch.float32):
        super().__init__()
        self.kind = nn.Embedding(CLASSES, 6, sparse=sparse, dtype=dtype)
        self.deep, self.out = nn.Linear(10, 12, dtype=dtype), nn.Linear(12, 5, dtype=dtype)

    def forward(self, z, y): return torch.tanh(self.out(F.relu(self.deep(torch.cat([z, self.kind(y)], 1)))))


class Reader(nn.Module):
    "A classifier with statistics and dropout"
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 8, dtype=dtype), nn.BatchNorm1d(8, dtype=dtype), nn.Dropout(0.2),
                                  nn.ReLU(), nn.Linear(8, CLASSES, dtype=dtype))

    def forward(self, x): return self.body(x)


def drawn(dtype=torch.float32): return torch.randn(16, 4, dtype=dtype), torch.randint(CLASSES, (16,))


def loss_of(g, c):
    z, y = drawn()
    return F.cross_entropy(c(g(z, y)), y)


def adam(*networks, **options): return torch.optim.Adam([p for n in networks for p in n.parameters()], 1e-2, **options)


def step(optimiser, loss):
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


# ---- what a loop may do: each takes the two networks and a count of steps

def plain(g, c, n):
    optimiser = adam(g, c)
    for _ in range(n): step(optimiser, loss_of(g, c))


def compiled_generator(g, c, n, **options):
    torch._dynamo.reset()
    fast, optimiser = torch.compile(g, **options), adam(g, c)
    for _ in range(n): step(optimiser, loss_of(fast, c))


def compiled_loss(g, c, n, **options):
    torch._dynamo.reset()
    optimiser = adam(g, c)
    fast = torch.compile(lambda z, y: F.cross_entropy(c(g(z, y)), y), **options)
    for _ in range(n): step(optimiser, fast(*drawn()))


def compiled_step(g, c, n, **options):
    torch._dynamo.reset()
    optimiser = adam(g, c)
    def whole(z, y): step(optimiser, F.cross_entropy(c(g(z, y)), y))
    fast = torch.compile(whole, **options)
    for _ in range(n): fast(*drawn())


def compiled_in_place(g, c, n):
    torch._dynamo.reset()
    g.compile(backend="eager")
    plain(g, c, n)
    g._compiled_call_impl = None


def sparse(g, c, n):
    dense = [p for name, p in g.named_parameters() if name != "kind.weight"]
    lazy, rest = torch.optim.SparseAdam([g.kind.weight], 1e-2), torch.optim.Adam([*dense, *c.parameters()], 1e-2)
    for _ in range(n):
        for optimiser in (lazy, rest): optimiser.zero_grad()
        loss_of(g, c).backward()
        for optimiser in (lazy, rest): optimiser.step()


def empty_parameter(g, c, n):
    g.register_parameter("nothing", nn.Parameter(torch.empty(0, 3)))
    optimiser = adam(g, c)
    for _ in range(n): step(optimiser, loss_of(g, c) + g.nothing.sum())


def saved_whole(g, c, n):
    optimiser = adam(g, c)
    for _ in range(n):
        step(optimiser, loss_of(g, c))
        file = io.BytesIO()
        torch.save({"g": g, "c": c, "optimiser": optimiser}, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)["g"]
        assert not again._forward_hooks and not again._forward_pre_hooks
        again(*drawn())
        pickle.loads(pickle.dumps(g))(*drawn())


def deep_copies(g, c, n):
    optimiser, average = adam(g, c), copy.deepcopy(g)
    for _ in range(n):
        step(optimiser, loss_of(g, c))
        with torch.no_grad():
            for a, p in zip(average.parameters(), g.parameters()): a.lerp_(p, 0.1)
        copy.deepcopy(g)(*drawn())


def of_a_child(network, answers): answers.put(float(network(torch.ones(1, 4), torch.zeros(1, dtype=torch.long)).sum()))


def spawned(g, c, n):
    plain(g, c, n)
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    child = context.Process(target=of_a_child, args=(g, answers))
    child.start()
    value = answers.get(timeout=120)
    child.join()
    assert abs(value - float(g(torch.ones(1, 4), torch.zeros(1, dtype=torch.long)).sum())) < 1e-5


def inference_judge(g, c, n):
    with torch.inference_mode(): judge = nn.Linear(5, CLASSES)
    optimiser = adam(g, c)
    for _ in range(n):
        step(optimiser, loss_of(g, c))
        with torch.inference_mode(): judge(g(*drawn())).argmax(1).float().mean().item()


def quantised_and_complex(g, c, n):
    optimiser = adam(g, c)
    for _ in range(n):
        z, y = drawn()
        images = torch.fft.ifft(torch.fft.fft(g(z, y))).real
        torch.quantize_per_tensor(images.detach(), 0.1, 0, torch.qint8).dequantize().mean().item()
        step(optimiser, F.cross_entropy(c(images), y))


def meta_and_lazy(g, c, n):
    with torch.device("meta"): nn.Linear(3, 3)(torch.ones(2, 3))
    head = nn.LazyLinear(3)
    optimiser = adam(g, c)
    for _ in range(n): step(optimiser, loss_of(g, c) + head(g(*drawn())).detach().mean())


def functional(g, c, n):
    optimiser = adam(g, c)
    for _ in range(n):
        z, y = drawn()
        images = torch.func.functional_call(g, dict(g.named_parameters()), (z, y))
        rows = torch.func.vmap(lambda image: image.square().sum())(images)
        slope = torch.func.grad(lambda a: (a*images.detach()).sum())(torch.ones(5))
        torch.func.jvp(lambda a: c.eval()(a), (images.detach(),), (torch.ones(16, 5),))
        c.train()
        step(optimiser, F.cross_entropy(c(images), y) + rows.mean() + slope.sum()*0)


def per_example(g, c, n):
    optimiser, parameters = adam(g, c), dict(g.named_parameters())
    def one(p, z, y): return torch.func.functional_call(g, p, (z[None], y[None])).square().sum()
    for _ in range(n):
        torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0))(parameters, *drawn())
        step(optimiser, loss_of(g, c))


def scripted(g, c, n):
    optimiser = adam(g, c)
    for _ in range(n):
        fast = torch.jit.script(g)
        step(optimiser, loss_of(fast, c))


def traced(g, c, n):
    optimiser, fast = adam(g, c), torch.jit.trace(g, drawn())
    for _ in range(n): step(optimiser, loss_of(fast, c))


def forward_mode(g, c, n):
    optimiser = adam(g, c)
    for _ in range(n):
        step(optimiser, loss_of(g, c))
        with torch.autograd.forward_ad.dual_level():
            torch.autograd.forward_ad.unpack_dual(g(torch.autograd.forward_ad.make_dual(torch.randn(2, 4), torch.ones(
                2, 4)), torch.tensor([0, 1])))


def parallel(g, c, n): plain(nn.DataParallel(g), c, n)


def nested(g, c, n):
    with watch(generator=g, witness=c): plain(g, c, n)


class Counting(torch.overrides.TorchFunctionMode):
    "A mode of the loop that draws a number for every operation: whoever adds one is found out"
    def __torch_function__(self, function, types, args=(), kwargs=None):
        torch.rand(())
        return function(*args, **kwargs or {})


def in_a_mode(g, c, n):
    with Counting(): plain(g, c, n)


def on_a_device(g, c, n):
    with torch.device("cpu"): plain(g, c, n)


def counted(g, c, n):
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as flops: plain(g, c, n)
    torch.rand(int(flops.get_total_flops()) % 97 + 1)


def in_a_thread(g, c, n):
    optimiser = adam(g, c)
    def work():
        for _ in range(n): step(optimiser, loss_of(g, c))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def closure(g, c, n):
    optimiser = torch.optim.LBFGS([*g.parameters(), *c.parameters()], max_iter=3)
    for _ in range(n):
        z, y = drawn()
        def again():
            optimiser.zero_grad()
            loss = F.cross_entropy(c(g(z, y)), y)
            loss.backward()
            return loss
        optimiser.step(again)


def automatic(g, c, n):
    optimiser = adam(g, c)
    for _ in range(n):
        def again():
            loss = loss_of(g, c)
            optimiser.zero_grad()
            loss.backward()
            return loss
        optimiser.step(closure=again)


def checkpointed(g, c, n):
    from torch.utils.checkpoint import checkpoint
    optimiser = adam(g, c)
    for i in range(n):
        z, y = drawn()
        images = checkpoint(g, z.requires_grad_(), y, use_reentrant=bool(i % 2))
        step(optimiser, F.cross_entropy(c(images), y))


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3
    @staticmethod
    def backward(ctx, up): return up*3*ctx.saved_tensors[0]**2


def own_function(g, c, n):
    optimiser = adam(g, c)
    for _ in range(n): step(optimiser, loss_of(g, c) + Cube.apply(g(*drawn())).mean())


def caught(g, c, n):
    optimiser = adam(g, c)
    for i in range(n):
        try:
            if i == 1: raise KeyboardInterrupt
            if i == 2: torch.ones(2) @ torch.ones(3)
            step(optimiser, loss_of(g, c))
        except (KeyboardInterrupt, RuntimeError): pass


def scaled(g, c, n):
    optimiser, scaler = adam(g, c), torch.amp.GradScaler("cpu")
    for _ in range(n):
        optimiser.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16): loss = loss_of(g, c)
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()


def hooked(g, c, n):
    calls = []
    handle = g.register_forward_hook(lambda *_: calls.append(torch.rand(1)))
    optimiser = adam(g, c)
    for _ in range(n): step(optimiser, loss_of(g, c))
    handle.remove()
    assert len(calls) == n and not g._forward_hooks


LOOPS = [plain, compiled_in_place, sparse, empty_parameter, saved_whole, deep_copies, spawned, inference_judge,
         quantised_and_complex, meta_and_lazy, functional, per_example, scripted, traced, forward_mode, parallel,
         nested, in_a_mode, on_a_device, counted, in_a_thread, closure, automatic, checkpointed, own_function, caught,
         scaled, hooked]
COMPILED = [compiled_generator, compiled_loss, compiled_step]


def ended(loop, *, watched, sparse=False, steps=4, **options):
    torch.manual_seed(5)
    networks = {"generator": Sketcher(sparse=sparse), "witness": Reader()}
    seen = watch(**networks)
    if watched:
        with seen: loop(*networks.values(), steps, **options)
    else: loop(*networks.values(), steps, **options)
    return seen, {f"{role}.{name}": value for role, network in networks.items()
                  for name, value in network.state_dict().items()}, torch.get_rng_state()


def twins(loop, **options):
    before = torch.autograd.backward, torch.overrides._len_torch_function_stack()
    if loop is scripted: ended(loop, watched=False)   # its first run differs from its second by itself
    _, alone, random = ended(loop, watched=False, **options)
    seen, beside, random_beside = ended(loop, watched=True, **options)
    assert [name for name in alone if not torch.equal(alone[name], beside[name])] == []
    assert torch.equal(random, random_beside)
    assert before == (torch.autograd.backward, torch.overrides._len_torch_function_stack())
    assert "__call__" not in vars(Sketcher) and "__call__" not in vars(Reader)
    from torch.optim import optimizer
    assert not optimizer._global_optimizer_pre_hooks and not optimizer._global_optimizer_post_hooks
    return seen


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_a_watched_loop_has_the_bits_of_its_twin_and_is_not_accused(loop):
    seen = twins(loop, sparse=loop is sparse)
    assert [finding.cause for finding in seen.findings()] == [], repr(seen)
    repr(seen), seen._repr_html_(), seen.checked(), seen.not_possible()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("loop", COMPILED, ids=lambda loop: loop.__name__)
def test_the_compiler_does_not_compile_the_watcher(loop, backend):
    seen = twins(loop, backend=backend, fullgraph=loop is not compiled_step)
    assert [finding.cause for finding in seen.findings()] == [], repr(seen)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_floats(dtype):
    def state(watched):
        torch.manual_seed(1)
        g, c = Sketcher(dtype=dtype), Reader(dtype=dtype)
        optimiser, seen = adam(g, c), watch(generator=g, witness=c)
        if watched: seen.__enter__()
        for _ in range(4):
            z, y = drawn(dtype)
            step(optimiser, F.cross_entropy(c(g(z, y)), y))
        if watched: seen.__exit__(None, None, None)
        return seen, [*g.parameters(), *c.parameters()]
    (_, alone), (seen, beside) = state(False), state(True)
    assert all(map(torch.equal, alone, beside)) and seen.findings() == []


@pytest.mark.parametrize("make", [
    lambda: nn.Linear(3, 3, device="meta"), lambda: nn.LazyLinear(3), lambda: nn.Linear(3, 3, dtype=torch.complex64),
    lambda: nn.Linear(3, 3).half(), lambda: torch.jit.script(nn.Linear(3, 3)),
    lambda: torch.compile(nn.Linear(3, 3), backend="eager"), lambda: nn.DataParallel(nn.Linear(3, 3)),
    lambda: torch.ao.quantization.quantize_dynamic(nn.Linear(3, 3), {nn.Linear})],
    ids=["meta", "lazy", "complex", "half", "scripted", "compiled", "parallel", "quantised"])
def test_any_network_may_stand_beside(make):
    torch.manual_seed(0)
    g, c, other = Sketcher(), Reader(), make()
    for role in ("judge", "ema", "critic"):
        with watch(generator=g, witness=c, **{role: other}) as seen: plain(g, c, 12)
        assert [finding.cause for finding in seen.findings() if finding.subject.startswith(role)
                and finding.cause != "averaged weights not updated"] == [], repr(seen)


def test_a_judge_that_was_made_for_inference():
    g, c = Sketcher(), Reader()
    with torch.inference_mode(): judge = nn.Linear(5, CLASSES)
    with watch(generator=g, witness=c, judge=judge) as seen: plain(g, c, 5)
    assert seen.findings() == []


# ---- what fails is switched off and said

@pytest.mark.parametrize("name", ["see_backward", "use_gradients", "signature", "unused_labels",
                                  "mode_dependent", "user_frames"])
def test_a_failing_look_is_said_and_the_loop_goes_on(name, monkeypatch):
    from curriculum_gen.diagnosis.watching import looks, watch as answers
    module = answers if name == "ownership" else looks
    def fails(*_, **__): raise ZeroDivisionError("nobody expected this")
    monkeypatch.setattr(module, name, fails)
    seen = twins(plain)
    told = seen.findings()
    assert any("nobody expected this" in line for line in told.in_part + told.not_looked_at) or name == "mode_dependent"
    assert [finding.cause for finding in told] == []


# ---- what was not looked at

def test_what_was_not_looked_at_is_said():
    g, c = Sketcher(), Reader()
    assert "the block was never entered" in watch(generator=g).findings().not_looked_at
    with watch(generator=g) as seen: g(*drawn())
    assert "no optimiser made a step inside the block" in seen.findings().not_looked_at
    assert "No finding" not in repr(seen) + repr(seen.findings()) + seen._repr_html_()
    with watch(generator=copy.deepcopy(g), witness=c) as seen: plain(g, c, 4)
    assert any("generator, which took no part" in why for why in seen.not_looked_at)
    with watch(generator=g, witness=c) as seen: in_a_thread(g, c, 4)
    assert any("in another thread" in why for why in seen.not_looked_at)
    assert "No finding" not in repr(seen)


def test_what_was_looked_at_in_part_is_said():
    g, c = Sketcher(), Reader()
    with watch(generator=g, witness=c) as seen: plain(g, c, 40)
    assert seen.not_looked_at == ()
    assert any("labels and draws were followed in 3 of 40 steps" in why for why in seen.findings().in_part)
    assert "No finding in 40 watched steps." in repr(seen)


def test_a_closure_is_looked_into():
    def cut(g, c, n):
        optimiser = torch.optim.Adam([*g.parameters(), *c.parameters()], 1e-2)
        for _ in range(n):
            def again():
                optimiser.zero_grad()
                z, y = drawn()
                images = g(z, y)
                realism, matching = images.square().mean(), F.cross_entropy(c(images), y)
                loss = realism + matching.detach()
                loss.backward()
                return loss
            optimiser.step(again)
    seen, _, _ = ended(cut, watched=True)
    assert "loss term without gradient" in [finding.cause for finding in seen.findings()]


def test_roles_are_read_from_variables_and_classes():
    netG, netD, ema_model = Sketcher(), Reader(), Sketcher()
    assert list(watch(netG, netD, ema_model).named.networks) == ["generator", "discriminator", "ema"]
    model, clf = Sketcher(), Reader()
    seen = watch(model, clf)
    assert list(seen.named.networks) == ["generator", "classifier"] and "the variable model" in repr(seen)
    assert list(watch(nn.Linear(1, 1)).named.networks) == ["generator"]


def test_the_line_is_quoted_and_is_the_users():
    def cut(g, c, n):
        optimiser = adam(g, c)
        for _ in range(n):
            z, y = drawn()
            images = g(z, y)
            realism, matching = images.square().mean(), F.cross_entropy(c(images), y)
            step(optimiser, realism + matching.detach())
    seen, _, _ = ended(cut, watched=True)
    found = next(finding for finding in seen.findings() if finding.cause == "loss term without gradient")
    assert found.where.startswith("test_watched_twins.py:") and found.source == "loss.backward()"
    assert "`loss.backward()`" in str(found)

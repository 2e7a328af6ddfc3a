"""Bad, odd and extreme arguments of every public name end in a right answer or in a refusal by name (the sweep of trials/abuse.py)."""

import copy
import inspect
import io
import pickle
import random
import re
import warnings

import pytest
import torch
from torch import Tensor, nn

from book_tools import state
from book_tools.chapter import contents
from trials import abuse
from trials.abuse import Site, Sweep, declared, difference, documented, filled, given, numbers, public, real, sweep


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors of a few numbers: a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


POSTS = contents()
PLACES = [pytest.param(post, name, id=f"{post}:{name}") for post in POSTS for name in public(post)]


@pytest.mark.parametrize("post", POSTS, ids="{}:".format)
def test_every_public_name_has_a_valid_call(post):
    missing, foreign = set(public(post)) - set(declared(post)[0]), set(declared(post)[0]) - set(public(post))
    where = f"tests/{post.replace('/', '/calls_')}.py"
    assert not missing, f"give {', '.join(sorted(missing))} a valid call in {where}"
    assert not foreign, f"{where} calls {', '.join(sorted(foreign))}, which the module does not offer"


@pytest.mark.parametrize(("post", "name"), PLACES)
def test_every_case_ends_in_a_right_answer_or_a_refusal_by_name(post, name):
    swept = sweep(post, name)
    assert not swept.failures, f"{len(swept.failures)} of {swept.counts.total()} cases:\n" + "\n".join(swept.failures)
    assert swept.counts.total() >= (12 if isinstance(public(post)[name], type) else 8)


@pytest.mark.parametrize("post", POSTS, ids="{}:".format)
def test_every_exemption_is_needed(post):
    calls, exempt = declared(post)
    assert set().union(*(sweep(post, name).exemptions for name in calls)) == set(exempt)


@pytest.mark.parametrize(("post", "name"), PLACES)
def test_every_method_and_argument_is_tried_and_documented(post, name):
    thing, sites = public(post)[name], declared(post)[0][name]
    if isinstance(thing, type) and not hasattr(thing, "_fields"):
        own = {
            m for m in dir(thing) if not m.startswith("_") and getattr(getattr(thing, m), "__module__", "").startswith("kexue")
        }
        abstract = any(
            re.match(e[0], f"{name}.{site.method}, ") and e[1] == "NotImplementedError"
            for e in declared(post)[1]
            for site in sites
        )
        inherited = {"extra_repr"} | ({"forward"} if abstract else set())  # a base cannot go forward
        assert own - inherited == {site.method.split()[0] for site in sites if site.method}
    for site in sites:
        function = getattr(thing, site.method.split()[0]) if site.method else thing
        tried = set().union(*(other.valid() for other in sites if other.method.split()[:1] == site.method.split()[:1]))
        if not hasattr(thing, "_fields") and site.method != "table":  # a record has attributes, a table one line
            assert tried == set(documented(function)) == set(inspect.signature(function).parameters) - {"self", "args", "kwargs"}


def is_module(post, name):
    """Whether a public name is a module of PyTorch that goes forward (an abstract base does not)."""
    thing, sites = public(post)[name], declared(post)[0].get(name, ())
    return isinstance(thing, type) and issubclass(thing, nn.Module) and any(site.method == "forward" for site in sites)


@pytest.mark.parametrize(("post", "name"), [place for place in PLACES if is_module(*place.values)])
def test_every_module_keeps_the_promises_of_pytorch(post, name):
    """Checkpoint, pickle, copy, cast, modes and one compiled graph, gradients included."""
    thing, (constructor, *sites) = public(post)[name], declared(post)[0][name]
    module = filled(thing(**constructor.valid())).eval()
    assert not any(part.training for part in module.modules()) and all(part.training for part in module.train().modules())
    module.eval()
    stored = io.BytesIO()
    torch.save(module.state_dict(), stored)
    stored.seek(0)
    fresh = thing(**constructor.valid()).eval()
    fresh.load_state_dict(torch.load(stored, weights_only=True))
    copied, pickled = copy.deepcopy(module), pickle.loads(pickle.dumps(module))  # noqa: S301
    for site in (site for site in sites if site.method == "forward"):
        arguments = {k: v for k, v in site.valid().items() if k != "generator"}
        expected = module(**arguments)
        for twin in (fresh, copied, pickled):
            assert not difference(twin(**arguments), expected, 0.0) and repr(twin) == repr(module) and not twin.training
            assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in module.parameters()}
        torch.compiler.reset()
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        assert not difference(compiled(**arguments), expected)
        floats = {k: v.requires_grad_() for k, v in arguments.items() if isinstance(v, Tensor) and v.is_floating_point()}
        inputs = [*floats.values(), *module.parameters()]
        slopes = [torch.autograd.grad(sum(x.square().sum() for x in numbers(f(**arguments))), inputs) for f in (compiled, module)]
        assert not difference(*slopes)
        for dtype in (torch.float32, torch.bfloat16):
            cast = copy.deepcopy(module).to(dtype)
            assert all(p.dtype == dtype for p in cast.parameters())
            answer = cast(**{k: v.detach().to(dtype) if k in floats else v for k, v in arguments.items()})
            assert all(x.dtype == dtype for x in numbers(answer))


def silent(x: Tensor, scale: float = 1.0) -> Tensor:
    return x / (x - x) - x / (x - x) if scale == 5e-324 else x * scale


def narrow(x: Tensor, scale: float = 1.0) -> Tensor:
    return x.float() * scale


def unnamed(x: Tensor, scale: float = 1.0) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError("wrong type")
    return x * scale


def changing(x: Tensor, scale: float = 1.0) -> Tensor:
    return x.mul_(2)


def drawing(x: Tensor, scale: float = 1.0) -> Tensor:
    return x * scale + 0 * random.random()


def warning(x: Tensor, scale: float = 1.0) -> Tensor:
    warnings.warn("something", stacklevel=2)
    return x * scale


def layout(x: Tensor, scale: float = 1.0) -> Tensor:
    return x * scale if x.is_contiguous() else x * scale * 2


def swallowing(x: Tensor, scale: float = 1.0) -> Tensor:
    return x.nan_to_num() * scale


def rough(x: Tensor, scale: float = 1.0) -> Tensor:
    return (x.half() * scale).float() if x.dtype == torch.float32 else x * scale


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (silent, "scale: 5e-324: NaN out of finite input"),
        (narrow, "all: torch.float64: "),
        (unnamed, "x: None: the message does not begin with x: wrong type"),
        (changing, "x: strided: changed x"),
        (drawing, "all: valid: changed a global generator"),
        (warning, "all: valid: UserWarning: something"),
        (layout, "x: strided: "),
        (swallowing, "x: all nan: swallowed NaN"),
        (rough, "all: torch.float32: "),
    ],
)
def test_the_sweep_finds_a_planted_defect(function, words):
    swept = Sweep("planted", function, (Site(lambda: given(x=real(3, 2), scale=0.5), rows="x"),))
    assert any(f"planted, {words}" in failure for failure in swept.failures), "\n".join(swept.failures)


def test_a_post_without_valid_calls_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(abuse, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"tests/part/calls_slug\.py is missing"):
        declared("part/slug")


def test_the_counts_are_stored_where_every_case_ended_well(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(state, "RESULTS", tmp_path)
    post = "probability/vae_bottleneck"
    assert abuse.run([post]) == 0
    written = state.stored("abuse", post)
    assert written["functions"] == len(public(post)) and state.is_present("abuse", post)
    assert written["cases"] == written["refused"] + written["answered"] + written["exempt"] >= 20
    monkeypatch.setattr(abuse, "sweep", lambda post, name: planted)
    planted = Sweep("planted", silent, (Site(lambda: given(x=real(3, 2), scale=0.5), rows="x"),))
    (tmp_path / "abuse" / f"{post}.json").unlink()
    assert abuse.run([post]) == 1 and not state.stored("abuse", post)
    assert "planted, scale: 5e-324: NaN out of finite input" in capsys.readouterr().out

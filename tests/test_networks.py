"""What every public name promises inside a network, on the valid calls of tests/part/calls_slug.py: a new post is tested by having some.

Compiled graphs (other options, dynamic shapes, three batch sizes, no generator), forward-mode derivatives, autocast, tables that outlive
fake, meta and inference tensors, no float64 where a device has none, positions in half precision, forbidden scores, padded places.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from book_tools.chapter import contents
from kexue import _check
from trials.abuse import BF16, F16, F32, F64, From, Site, converted, declared, difference, filled, numbers, public, real

Arguments = dict[str, Any]
# Which of these need the values of their tensors, and so no graph: said in their docstrings ("computed in float64", "detached").
READS_VALUES = {"rate_decomposition", "reverse_water_filling", "gradient_penalty", "beam_search", "AbsolutePositions"}


class Place:
    """One way to call one public name with tensors."""

    def __init__(self, post: str, name: str, number: int) -> None:
        self.name, self.sites = name, declared(post)[0][name]
        self.thing, self.site = public(post)[name], self.sites[number]

    def arguments(self) -> Arguments:
        made = {k: v for k, v in self.site.valid().items() if k != "generator"}
        return {k: v.make(made) if isinstance(v, From) else v for k, v in made.items()}

    def owner(self, dtype: torch.dtype = F64, **options: Any) -> Any:
        """The function, or the module filled with parameters of order 1 in some dtype."""
        if not self.site.method:
            return self.thing
        module = filled(self.thing(**self.sites[0].valid() | options)).to(dtype).eval()
        return module if self.site.method.startswith("forward") else getattr(module, self.site.method)

    def options(self) -> Iterator[Arguments]:
        """Other values of the float options, of the constructor or of the call."""
        source = self.sites[0].valid() if self.site.method else self.arguments()
        floats = {k: v for k, v in source.items() if type(v) is float}
        for factor in (1.0, 0.5) if floats else (1.0,):
            yield {k: v * factor for k, v in floats.items()}


def places() -> list[Any]:
    found = []
    for post in contents():
        for name, sites in declared(post)[0].items():
            thing = public(post)[name]
            for number, site in enumerate(sites):
                tensors = any(isinstance(v, Tensor) for v in site.valid().values())
                builds = isinstance(thing, type) and not site.method
                if tensors and not builds and not hasattr(thing, "_fields") and "drawn" not in site.method:
                    found.append(pytest.param(Place(post, name, number), id=f"{post}:{name}.{number}"))
    return found


PLACES = places()
IN_GRAPHS = [p for p in PLACES if p.values[0].name not in READS_VALUES]
# The other methods of a module are parts of its forward call.
COMPILED = [p for p in IN_GRAPHS if p.values[0].site.method in ("", "forward") and "generator" not in p.values[0].site.valid()]
WITH_FLOATS = [
    p for p in PLACES if any(isinstance(v, Tensor) and v.is_floating_point() for v in p.values[0].site.valid().values())
]


# PyTorch's forward derivatives of some operations still go through the old compiler on first use.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batches(place: Place) -> Iterator[Arguments]:
    """The valid arguments with one, two and three times their rows."""
    rows = place.site.rows.split()
    for times in (1, 2, 3) if rows else (1,):
        yield {k: torch.cat([v] * times) if k in rows and isinstance(v, Tensor) else v for k, v in place.arguments().items()}


@pytest.mark.parametrize("dynamic", [None, True], ids=["as it comes", "dynamic"])
@pytest.mark.parametrize("place", COMPILED)
def test_one_graph_serves_other_options_and_other_batches(place: Place, dynamic: bool | None) -> None:
    torch.compiler.reset()
    function = place.thing
    if not place.site.method:
        function = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="eager")
    for options in place.options():
        owner = place.owner(**options) if place.site.method else place.thing
        compiled = torch.compile(owner, fullgraph=True, dynamic=dynamic, backend="eager") if place.site.method else function
        for arguments in batches(place):
            changed = arguments if place.site.method else arguments | options
            assert not difference(compiled(**changed), owner(**changed))


@pytest.mark.parametrize("dynamic", [None, True], ids=["as it comes", "dynamic"])
@pytest.mark.parametrize("post", contents())
def test_what_draws_compiles_without_a_generator_at_three_batch_sizes(post: str, dynamic: bool | None) -> None:
    for name, sites in declared(post)[0].items():
        for number, site in enumerate(sites):
            if name in READS_VALUES or "generator" not in site.valid():
                continue
            place = Place(post, name, number)
            owner = place.owner()
            if isinstance(owner, nn.Module):
                owner.train("eval" not in site.method)
            torch.compiler.reset()
            compiled = torch.compile(owner, fullgraph=True, dynamic=dynamic, backend="aot_eager")
            shapes = [[x.shape for x in numbers(compiled(**arguments))] for arguments in batches(place)]
            assert shapes == [[x.shape for x in numbers(owner(**arguments))] for arguments in batches(place)]


@pytest.mark.parametrize("place", WITH_FLOATS)
def test_forward_derivatives_are_those_of_backward(place: Place) -> None:
    """Raw duals that require a gradient as well, in each floating argument alone and in all of them."""
    if place.name in ("rate_decomposition", "gradient_penalty"):
        pytest.skip("without a derivative, or made of one")
    owner, valid = place.owner(), place.arguments()
    floats = [k for k, v in valid.items() if isinstance(v, Tensor) and v.is_floating_point()]
    for chosen in [[k] for k in floats] + [floats]:
        leaves = {k: valid[k].detach().clone().requires_grad_() for k in floats}
        parts = [x for x in numbers(owner(**valid | leaves)) if x.requires_grad]
        weights = [real(*x.shape, seed=9) for x in parts]
        total = sum((w * x).sum() for w, x in zip(weights, parts, strict=True))
        slopes = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
        backward = sum(
            (g * real(*g.shape, seed=i)).sum() for i, (k, g) in enumerate(zip(floats, slopes, strict=True)) if k in chosen
        )
        with forward_ad.dual_level():
            duals = {
                k: forward_ad.make_dual(leaves[k], real(*leaves[k].shape, seed=i)) for i, k in enumerate(floats) if k in chosen
            }
            answers = [x for x in numbers(owner(**valid | leaves | duals)) if x.requires_grad]
            tangents = [forward_ad.unpack_dual(x).tangent for x in answers]
            forward = sum((w * t).sum() for w, t in zip(weights, tangents, strict=True) if t is not None)
        ours, theirs = (float(torch.as_tensor(x).detach()) for x in (forward, backward))
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12), chosen


@pytest.mark.parametrize("inputs", [F32, BF16], ids=str)
@pytest.mark.parametrize("place", WITH_FLOATS)
def test_autocast_changes_precision_only(place: Place, inputs: torch.dtype) -> None:
    if place.name in ("gradient_penalty", "rate_decomposition"):
        pytest.skip("its loss is computed by the caller, or it draws")
    owner = place.owner(F32)
    arguments = converted(converted(place.arguments(), BF16), inputs)
    want = owner(**converted(arguments, F32))
    with torch.autocast("cpu", dtype=BF16):
        got = owner(**arguments)
    assert not difference(numbers(got), [x.double() for x in numbers(want)], 6e-2, kinds=False)


@pytest.mark.parametrize("place", WITH_FLOATS)
def test_what_is_summed_in_float32_comes_back_in_float32_under_autocast(place: Place) -> None:
    text = " ".join((place.thing.__doc__ or "").split())
    if "float32 under autocast" not in text:
        pytest.skip("makes no such promise")
    if place.name == "gradient_penalty":
        pytest.skip("its loss is computed by the caller: tested with the module")
    owner, half = place.owner(F32), converted(place.arguments(), BF16)
    with torch.autocast("cpu", dtype=BF16):
        assert all(x.dtype == F32 for x in numbers(owner(**half)))
    assert any(x.dtype == BF16 for x in numbers(place.owner(BF16)(**half)))


def kept(thing: Any) -> list[Tensor]:
    """All tensors that an object keeps, at any depth of lists and dictionaries, parameters apart."""
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, nn.Module):
        return [t for m in thing.modules() for k, v in vars(m).items() if k not in ("_parameters", "_modules") for t in kept(v)]
    if isinstance(thing, dict):
        return kept(list(thing.values()))
    return [t for part in thing for t in kept(part)] if isinstance(thing, (list, tuple)) else []


@pytest.mark.parametrize("place", [p for p in PLACES if p.values[0].site.method == "forward"])
def test_no_kind_of_tensor_spoils_a_module_for_the_others(place: Place) -> None:
    """Fake, meta, inference, vmapped and differentiated calls in any order: real calls answer as those of a fresh module."""
    arguments, dtype = place.arguments(), F64
    want = place.owner()(**arguments)
    longer = {k: torch.cat([v, v], -2) if isinstance(v, Tensor) and v.ndim > 2 else v for k, v in arguments.items()}
    longer = longer if all(v.shape[-2:] == longer[k].shape[-2:] for k, v in arguments.items() if k == "attn_mask") else arguments
    if "positions" in arguments or "mask" in arguments or "attn_mask" in arguments:
        longer = arguments

    def fake(module: nn.Module) -> None:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            module(**{k: mode.from_tensor(v) if isinstance(v, Tensor) else v for k, v in longer.items()})

    def meta(module: nn.Module) -> None:
        if not list(module.parameters()):
            module(**{k: v.to("meta") if isinstance(v, Tensor) else v for k, v in longer.items()})

    def meta_default(module: nn.Module) -> None:
        with torch.device("meta"):
            assert not difference(module(**arguments), want)

    def inference(module: nn.Module) -> None:
        with torch.inference_mode():
            module(**longer)

    def transformed(module: nn.Module) -> None:
        first = next(k for k, v in arguments.items() if isinstance(v, Tensor) and v.is_floating_point())
        torch.func.grad(lambda x: sum(y.sum() for y in numbers(module(**longer | {first: x}))))(longer[first])

    calls = (fake, meta, meta_default, inference, transformed)
    for call in calls:
        module = filled(place.thing(**place.sites[0].valid())).to(dtype).eval()
        call(module)
        for tensor in kept(module):
            assert type(tensor) is Tensor and not tensor.is_meta and not tensor.is_inference()
            assert not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        leaves = {
            k: v.clone().requires_grad_() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in arguments.items()
        }
        answer = module(**leaves)
        assert not difference(answer, want)
        sum(x.sum() for x in numbers(answer)).backward()
        call(module)  # now with a table that is there
        assert not difference(module(**arguments), want)


class NoFloat64(TorchDispatchMode):
    """The meta device as one that has no float64."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, Tensor) and x.is_meta and x.dtype == F64:
                raise AssertionError(f"{function} made a float64 tensor on a device that has none")
        return result


@pytest.mark.parametrize("place", IN_GRAPHS)
def test_no_float64_on_a_device_without_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_check, "_FLOAT64_DEVICES", frozenset({"cpu"}))
    arguments = {k: F32 if v is F64 else v for k, v in converted(place.arguments(), F32).items()}
    owner = place.owner(F32)
    module = owner if isinstance(owner, nn.Module) else getattr(owner, "__self__", None)
    if module is not None:
        module.to("meta")
    with FakeTensorMode(allow_non_fake_inputs=True), NoFloat64():
        away = {
            k: torch.empty(v.shape, dtype=v.dtype, device="meta") if isinstance(v, Tensor) else v for k, v in arguments.items()
        }
        answer = owner(**away)
    assert all(x.is_meta and x.dtype != F64 for x in numbers(answer))


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
@pytest.mark.parametrize("place", [p for p in PLACES if {"positions", "distance"} & set(p.values[0].site.valid())])
def test_positions_in_half_precision_are_refused_by_name(place: Place, dtype: torch.dtype) -> None:
    arguments = place.arguments()
    name = "positions" if "positions" in arguments else "distance"
    with pytest.raises(TypeError, match=rf"^{name} must be .*float"):
        place.owner()(**arguments | {name: arguments[name].to(dtype)})


SCORES = ("unary", "pairwise", "initial", "transitions", "logits")
FORBIDDING = [p for p in WITH_FLOATS if set(SCORES) & set(p.values[0].site.valid())]


@pytest.mark.parametrize("dtype", [F64, F32], ids=str)
@pytest.mark.parametrize("place", FORBIDDING)
def test_a_score_of_minus_infinity_forbids_and_leaves_no_nan(place: Place, dtype: torch.dtype) -> None:
    """One after the other, whole rows, and all of them: values are not NaN, gradients are finite and 0 at what is forbidden."""
    for name in set(SCORES) & set(place.site.valid()):
        size = place.site.valid()[name].numel()
        for forbidden in [*([i] for i in range(size)), list(range(place.site.valid()[name].shape[-1])), list(range(size))]:
            arguments = converted(place.arguments(), dtype)
            scores = arguments[name].flatten()
            scores[forbidden] = -math.inf
            arguments[name] = scores.view_as(arguments[name])
            floats = {k: v.requires_grad_() for k, v in arguments.items() if isinstance(v, Tensor) and v.is_floating_point()}
            parts = numbers(place.owner(dtype)(**arguments))
            assert not any(x.isnan().any() for x in parts)
            finite = [x[x.isfinite()].sum() for x in parts if x.requires_grad]
            slopes = torch.autograd.grad(sum(finite), list(floats.values()), allow_unused=True, materialize_grads=True)
            assert all(s.isfinite().all() for s in slopes)
            if len(forbidden) == 1:
                assert slopes[list(floats).index(name)].flatten()[forbidden] == 0


MASKED = [p for p in WITH_FLOATS if {"mask", "key_mask", "attn_mask"} & set(p.values[0].site.valid())]


@pytest.mark.parametrize("filling", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("place", MASKED)
def test_what_a_padded_place_holds_changes_neither_value_nor_gradient(place: Place, filling: float) -> None:
    arguments = place.arguments()
    name = next(k for k in ("mask", "key_mask", "attn_mask") if k in arguments)
    length = arguments[name].shape[-1]
    mask = torch.arange(length) < torch.tensor([[length - 1], [1]])
    arguments[name] = mask if name != "attn_mask" else mask[:, None, None]
    if name == "attn_mask":
        arguments["is_causal"] = False
    owner, padded = place.owner(), dict(arguments)
    for k, v in arguments.items():
        if not isinstance(v, Tensor) or k == name:
            continue
        shape = (v.shape[0], v.shape[2]) if name == "attn_mask" and k != "q" else tuple(v.shape[: mask.ndim])
        here = mask if shape == mask.shape else mask[:, 1:] if shape == mask[:, 1:].shape else None
        if here is None or (name == "key_mask" and k in ("q", "q_norm")) or (name == "attn_mask" and k == "q"):
            continue
        spread = here[:, None, :] if name == "attn_mask" else here
        spread = spread.view(*spread.shape, *[1] * (v.ndim - spread.ndim))
        padded[k] = torch.where(spread, v, -100 if not v.is_floating_point() else filling)
    assert any(not torch.equal(padded[k], v) for k, v in arguments.items() if isinstance(v, Tensor))

    def outcome(made: Arguments) -> tuple[list[Tensor], list[Tensor]]:
        floats = [k for k, v in made.items() if isinstance(v, Tensor) and v.is_floating_point()]
        made = made | {k: made[k].clone().requires_grad_() for k in floats}
        parts = numbers(owner(**made))
        if name == "mask" and parts[0].shape[: mask.ndim] == mask.shape:
            parts = [x[made[name]] for x in parts]  # what goes row by row returns its padding
        inputs = [made[k] for k in floats] + (list(owner.parameters()) if isinstance(owner, nn.Module) else [])
        return parts, list(torch.autograd.grad(sum(x.square().sum() for x in parts), inputs))

    assert not difference(outcome(padded), outcome(arguments), 0.0)
    nothing = arguments | {name: torch.zeros_like(arguments[name])}
    parts, slopes = outcome(nothing)
    assert all((x == 0).all() for x in parts)
    assert all((s == 0).all() for s in slopes)


SUMS = [p for p in PLACES if "probs" in p.values[0].site.valid()]


@pytest.mark.parametrize("words", [2, 50_257, 128_256])
@pytest.mark.parametrize("dtype", [F64, F32, F16, BF16], ids=str)
@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("place", SUMS)
def test_softmax_of_any_vocabulary_passes_and_so_does_the_own_output(
    place: Place, words: int, dtype: torch.dtype, spread: float
) -> None:
    logits = spread * real(1, words)
    probs = logits.to(dtype).softmax(-1)
    kinds: list[Any] = [probs] if dtype == BF16 else [probs, probs.numpy()]
    for given in kinds:
        arguments = place.arguments() | {"probs": given}
        once = place.owner()(**arguments)
        again = place.owner()(**arguments | {"probs": once})
        assert type(again) is type(once) is type(given) and again.dtype == once.dtype == given.dtype
        assert (
            again.shape == given.shape
            and abs(float(again.astype("f8").sum() if isinstance(again, np.ndarray) else again.double().sum()) - 1) < 0.01
        )


@pytest.mark.parametrize("dtype", [F64, F32, F16, BF16], ids=str)
@pytest.mark.parametrize("place", SUMS)
def test_a_sum_that_is_wrong_is_refused_in_every_dtype(place: Place, dtype: torch.dtype) -> None:
    for values in ([0.5, 0.4], [0.5] + [0.4 / 50_000] * 50_000, [0.5, 0.6]):
        probs = torch.tensor(values, dtype=dtype)
        for given in [probs] if dtype == BF16 else [probs, probs.numpy()]:
            with pytest.raises(ValueError, match=r"^probs must sum to 1"):
                place.owner()(**place.arguments() | {"probs": given})


def test_a_valid_call_of_every_kind_is_here() -> None:
    """The selections above are not empty by mistake."""
    assert len(PLACES) >= 30 and len(IN_GRAPHS) >= 25 and len(MASKED) >= 8 and len(FORBIDDING) >= 5 and len(SUMS) >= 3
    assert all(isinstance(p.values[0].site, Site) for p in PLACES)

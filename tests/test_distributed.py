"""Two processes train every module as one does: DistributedDataParallel and fully sharded parameters, over gloo on the CPU."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kexue.attention.position_encodings import (
    ConvPositions,
    DebertaAttention,
    LearnedPositions,
    PositionAttention,
    RotaryAttention,
    ShawAttention,
    SinusoidalPositions,
    T5Attention,
    TransformerXLAttention,
)
from kexue.attention.rope import RotaryEmbedding
from kexue.probability.vae_bottleneck import GaussianBottleneck

if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
    pytest.skip("this PyTorch has no torch.distributed with gloo", allow_module_level=True)

# Before 2.7 the stand-in for a stream on the CPU lacks this, and fully_shard stops at its first forward pass.
SHARDS_ON_CPU = hasattr(torch.cpu.Stream, "record_event")
WORLD, ROWS, LENGTH, HEADS, SIZE = 2, 3, 5, 2, 4
WIDTH = HEADS * SIZE
MODULES: dict[str, Callable[[], nn.Module]] = {
    "learned": lambda: LearnedPositions(LENGTH, WIDTH),
    "learned, hierarchical, multiplied": lambda: LearnedPositions(3, WIDTH, mode="multiply", alpha=0.4),
    "sinusoidal": lambda: SinusoidalPositions(WIDTH),
    "convolution": lambda: ConvPositions(WIDTH),
    "rotary embedding": lambda: RotaryEmbedding(WIDTH),
    "plain": PositionAttention,
    "shaw": lambda: ShawAttention(SIZE, 2),
    "xl": lambda: TransformerXLAttention(HEADS, SIZE),
    "t5": lambda: T5Attention(HEADS, num_buckets=8, max_distance=9),
    "deberta": lambda: DebertaAttention(HEADS, SIZE, 2),
    "rotary attention": lambda: RotaryAttention(SIZE, rotate_values=True),
    "bottleneck": lambda: GaussianBottleneck(WIDTH, 3),
}


class Model(nn.Module):
    """A projection, so that something is trained in every model, and the module."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.proj, self.inner = nn.Linear(WIDTH, WIDTH), MODULES[name]()
        for i, parameter in enumerate(self.parameters()):
            nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(i))

    def forward(self, x: Tensor, seed: int) -> Tensor:
        x = self.proj(x)
        if isinstance(self.inner, PositionAttention):
            q = x.unflatten(-1, (HEADS, SIZE)).transpose(1, 2)
            return self.inner(q, q, q, is_causal=True)
        if isinstance(self.inner, GaussianBottleneck):
            z, kl = self.inner(x, generator=torch.Generator().manual_seed(seed))
            return torch.cat([z, kl.unsqueeze(-1)], -1)
        return self.inner(x)


def data() -> list[Tensor]:
    """The rows of each process."""
    return list(torch.randn(WORLD, ROWS, LENGTH, WIDTH, generator=torch.Generator().manual_seed(100)))


def step(model: nn.Module, parts: list[tuple[int, Tensor]]) -> None:
    """One step of descent on the mean over some parts of the rows; the gradients stay."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.stack([model(x, seed).square().mean() for seed, x in parts]).mean().backward()
    optimizer.step()


def close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def replicated(name: str, rank: int) -> None:
    """Gradients and parameters under DDP are those of one process with all rows; its checkpoint loads into a plain model."""
    alone, model = Model(name), Model(name)
    parallel = nn.parallel.DistributedDataParallel(model)
    step(alone, list(enumerate(data())))
    step(parallel, [(rank, data()[rank])])
    close(gradients(model), gradients(alone))
    close(model.state_dict(), alone.state_dict())
    stored = io.BytesIO()
    torch.save(parallel.module.state_dict(), stored)
    stored.seek(0)
    fresh = Model(name)
    fresh.load_state_dict(torch.load(stored, weights_only=True))
    torch.testing.assert_close(fresh(data()[0], 0), parallel(data()[0], 0))


def sharded(name: str, rank: int) -> None:
    """The same with the parameters split over the processes, down to the checkpoint of one and the split of another."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def split(model: nn.Module) -> nn.Module:
        mesh = init_device_mesh("cpu", (WORLD,))
        if list(model.inner.parameters()):
            fully_shard(model.inner, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    whole = StateDictOptions(full_state_dict=True)
    alone, model = Model(name), split(Model(name))
    step(alone, list(enumerate(data())))
    step(model, [(rank, data()[rank])])
    close({k: v.full_tensor() for k, v in gradients(model).items()}, gradients(alone))
    stored = get_model_state_dict(model, options=whole)
    close(stored, alone.state_dict())
    fresh = split(Model(name))
    set_model_state_dict(fresh, stored, options=whole)
    for twin in (model, fresh):
        torch.testing.assert_close(twin(data()[rank], rank), alone(data()[rank], rank), rtol=1e-4, atol=1e-5)


def work(rank: int, folder: str) -> None:
    """All checks of one process up to the first that fails, since the other process would then wait for nothing."""
    torch.set_num_threads(1)
    if Path("/sys/class/net/lo").exists():
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    meeting = f"file://{folder}/meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORLD, timeout=timedelta(minutes=1))
    ends: dict[str, str] = {}
    for check, name in product((replicated, sharded) if SHARDS_ON_CPU else (replicated,), MODULES):
        try:
            check(name, rank)
            ends[f"{check.__name__} {name}"] = ""
        except Exception as error:
            ends[f"{check.__name__} {name}"] = f"{type(error).__name__}: {error}"
            break
    torch.save(ends, f"{folder}/{rank}")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """How every check ended in every process."""
    folder = str(tmp_path_factory.mktemp("distributed"))
    torch.multiprocessing.start_processes(work, (folder,), nprocs=WORLD, start_method="spawn")
    return [torch.load(f"{folder}/{rank}", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(
    "check",
    [
        "replicated",
        pytest.param("sharded", marks=pytest.mark.skipif(not SHARDS_ON_CPU, reason="fully_shard needs torch 2.7 on the CPU")),
    ],
)
def test_two_processes_do_what_one_does(ends: list[dict[str, str]], check: str, name: str) -> None:
    assert [end.get(f"{check} {name}", "not reached: an earlier check failed") for end in ends] == [""] * WORLD

"""One of two processes that shard a pair by FSDP2; run by `test_sharded_pairs.py`, which reads its last line."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from cosup.adapters import LoraSettings
from cosup.modeling import SHARED, CoSupervisedModel
from cosup.processes import leave
from tests.bases import SETTINGS, batch, gradients, loss_of

LORA = {"adapters": LoraSettings(r=2)}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "separate": ("llama", "gpt2", {"learn_temperature": True}),
    "shared": ("llama-tied", SHARED, {}),
    "frozen": ("gpt2", "llama", {"freeze_embedder": True}),
    "one base": ("gpt2", "gpt2", LORA),
    "two bases": ("llama", "gpt2", LORA | {"learn_temperature": True}),
    "shared with an adapter": ("llama", SHARED, LORA),
}


def shard(model: CoSupervisedModel) -> None:
    """Shard each layer and what is left, as accelerate does."""
    model.unshare_layers()
    layers = {id(m): m for m in model.modules() if type(m).__name__ in model._no_split_modules}
    for layer in layers.values():
        fully_shard(layer)
    fully_shard(model)


def whole(p: nn.Parameter | torch.Tensor) -> torch.Tensor:
    assert isinstance(p, DTensor)
    return p.full_tensor()


def check(case: str, bases: Path, folder: Path, rank: int) -> None:
    generator, embedder, options = CASES[case]
    source = SHARED if embedder == SHARED else str(bases / embedder)
    pair = []
    for _ in range(2):
        torch.manual_seed(0)
        pair.append(CoSupervisedModel.from_base(str(bases / generator), source, SETTINGS, **options))
    plain, model = pair
    shard(model)
    wanted = gradients(plain, batch(plain))
    for packed in (False, True):
        model.zero_grad()
        loss_of(model, batch(model, packed)).backward()
        for name, p in model.named_parameters():
            if p.requires_grad:
                assert p.grad is not None, name
                scale = wanted[name].abs().max().clamp_min(1e-3)
                assert torch.allclose(whole(p.grad) / scale, wanted[name] / scale, atol=1e-4), name
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1).step()
    for nothing in ({"retrievals": rank == 0}, {"supervised": rank == 0}):
        loss_of(model, batch(model, **nothing)).backward()
    gathered = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        model.save_pretrained(folder, gathered, adapters="adapters")
        model.save_pretrained(folder / "merged", gathered)
    distributed.barrier()
    trained = {name: whole(p.detach()).clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(1.0)
    model.load_weights(folder)
    plain.load_weights(folder)
    for name, p in trained.items():
        assert torch.equal(p, whole(model.get_parameter(name).detach())), name
        assert torch.equal(p, plain.get_parameter(name)), name
    merged = CoSupervisedModel.from_pretrained(folder / "merged").train()
    with torch.no_grad():
        assert torch.allclose(loss_of(merged, batch(merged)), loss_of(plain, batch(plain)), rtol=1e-3)
    distributed.barrier()


def main(bases: Path, folder: Path, rank: int) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    for case in CASES:
        check(case, bases, folder / case, rank)
    print("all cases hold")  # noqa: T201 - what the test reads
    leave(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))

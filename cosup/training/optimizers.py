"""A run's optimizer and schedule: each model's learning rate, Muon beside another one, a fall after every epoch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from cosup.devices import has_fast_bfloat16
from cosup.errors import UsageError
from cosup.modeling import CoSupervisedModel
from cosup.training.config import CoSupervisionConfig


def build_optimizer(
    model: CoSupervisedModel,
    args: CoSupervisionConfig,
    make: Callable[..., torch.optim.Optimizer],
    options: dict[str, Any],
    decayed: Collection[str],
) -> torch.optim.Optimizer:
    """Build the optimizer of a pair's trained parameters: groups by model, Muon for the matrices it is made for.

    Args:
        model: the pair, or what shards it.
        args: the run's settings.
        make: the class that `optim` names.
        options: its options.
        decayed: names of the parameters whose weights decay.
    """
    rate = args.muon_learning_rate
    matrices = [] if rate is None else list(hidden_matrices(model.generator).values())
    groups = _groups(model, args, {id(p) for p in matrices}, set(decayed))
    main = make([g for g in groups if g["params"]], **options)
    if rate is None or not matrices:
        return main
    kind = muon_for(matrices[0].device)
    muon = kind(matrices, lr=rate, weight_decay=args.weight_decay, adjust_lr_fn="match_rms_adamw")
    return JointOptimizer([main, muon])


def muon_for(device: torch.device) -> type[torch.optim.Muon]:
    """Return torch's Muon, or, where a device has no instructions for bfloat16, the same in float32."""
    return torch.optim.Muon if has_fast_bfloat16(device) else Float32Muon


def _groups(
    model: CoSupervisedModel, args: CoSupervisionConfig, taken: set[int], decayed: set[str]
) -> list[dict[str, Any]]:
    """Return parameter groups by model and by whether weights decay, without the parameters already taken."""
    rate = args.learning_rate
    embedder_rate = rate if args.embedder_learning_rate is None else args.embedder_learning_rate
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad and id(p) not in taken:
            decays = name in decayed and name != "log_temperature"
            groups.setdefault((name.startswith("generator."), decays), []).append(p)
    return [
        {
            "params": chosen,
            "weight_decay": args.weight_decay if decays else 0.0,
            "lr": rate if is_generator else embedder_rate,
        }
        for (is_generator, decays), chosen in groups.items()
    ]


def decay_by_epoch(schedule: Any, kind: str, decay: float, steps: int) -> None:
    """Let a schedule's rates fall by a factor after every epoch, on top of what it does by itself.

    Args:
        schedule: of `torch.optim.lr_scheduler`.
        kind: its `lr_scheduler_type`.
        decay: the factor.
        steps: of an epoch.

    Raises:
        UsageError: a schedule of this kind has no factors to multiply.
    """
    if not hasattr(schedule, "lr_lambdas"):
        raise UsageError(f"lr_epoch_decay cannot be had with lr_scheduler_type '{kind}'; take constant or linear")
    schedule.lr_lambdas = [_decayed(each, decay, steps) for each in schedule.lr_lambdas]


def _decayed(factor: Callable[[int], float], decay: float, steps: int) -> Callable[[int], float]:
    """Return a schedule's factor times `decay` for every `steps` steps that are over."""
    return lambda step: factor(step) * decay ** (step // steps)


class Float32Muon(torch.optim.Muon):
    """Muon whose iterations multiply in float32.

    torch writes them in bfloat16, whatever the machine; a processor without instructions for it multiplies float32 far
    faster, and most of a small pair's training went into those products.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; see `torch.optim.Muon`."""
        with _InFloat32():
            return super().step(closure)  # type: ignore[no-untyped-call]


class _InFloat32(TorchFunctionMode):
    """Inside, `Tensor.bfloat16` gives a copy in float32."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer one call of torch."""
        if func is torch.Tensor.bfloat16:
            return args[0].to(torch.float32, copy=True)
        return func(*args, **(kwargs or {}))


class JointOptimizer(torch.optim.Optimizer):
    """Steps several optimizers, each over its own parameters, as one.

    Args:
        parts: the optimizers; schedules and clipping see all their parameter groups.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([dict(group) for part in self.parts for group in part.param_groups], {})
        self.share_groups()

    def share_groups(self) -> None:
        """Show the parts' own parameter groups, so that a schedule that changes them changes the parts."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step of every part; closures are not supported."""
        if closure is not None:
            raise ValueError("a joint optimizer takes no closure")
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return every part's state."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.share_groups()


def hidden_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return a model's trainable matrices between embedding and head, without adapters: those Muon is made for."""
    modules = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[operator]
    ends = {id(p) for module in modules if module is not None for p in module.parameters()}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad and p.ndim == 2 and id(p) not in ends}
    return {name: p for name, p in trained.items() if "lora_" not in name}

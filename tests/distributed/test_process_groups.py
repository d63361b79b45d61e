"""Process groups that some ranks make alone, before and during set-up, keep nobody waiting.

torch names a group by the number of groups that the process made before, so a group of one stage's
own let the next group of all ranks have two names, under which its members never met.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

import pipecodec.deepspeed
from pipecodec.demo.launch import Rank

from .engines import join
from .harness import values

WIDTH = 4
CONFIG = {
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 2,
    "gradient_clipping": 0.0,
    "steps_per_print": None,
}


class Layer(nn.Linear):
    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden).tanh()


class Experts(Layer):
    def __init__(self, size: int = 1) -> None:
        from deepspeed.moe.layer import MoE

        super().__init__()
        self.moe = MoE(WIDTH, nn.Linear(WIDTH, WIDTH), num_experts=2, ep_size=size, use_rts=False)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = super().forward(hidden)
        out: Tensor = hidden + self.moe(hidden)[0]
        return out


class Grouped(Layer):
    """Makes its stage's own groups when the engine is made, and sums over the last of them."""

    def __init__(self, *groups: list[int]) -> None:
        super().__init__()
        self.ranks = groups

    def set_deepspeed_parallelism(self, *_: Any) -> None:
        self.groups = [dist.new_group(ranks) for ranks in self.ranks]

    def forward(self, hidden: Tensor) -> Tensor:
        met = torch.ones(())
        dist.all_reduce(met, group=self.groups[-1])
        assert met == len(self.ranks[-1])
        return super().forward(hidden)


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(3)
    for _ in range(2):
        yield torch.randn(8, WIDTH, generator=random), torch.randn(8, WIDTH, generator=random)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def losses(stages: list[nn.Module], optimizer: Callable[..., Any] = sgd, **config: Any) -> Any:
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    engine = pipecodec.deepspeed.initialize(
        pipecodec.partition_modules(stages),
        topology=PipeDataParallelTopology(num_pp=2, num_dp=dist.get_world_size() // 2),
        loss_fn=functional.mse_loss,
        optimizer=optimizer,
        config={**CONFIG, **config},
    )[0]
    found = [engine.train_batch(batches()).item() for _ in range(2)]
    return [*found, engine.eval_batch(batches()).item()]


def stock(stages: list[nn.Module]) -> list[float]:
    import deepspeed
    from deepspeed.pipe import PipelineModule

    module = PipelineModule(
        stages, num_stages=2, partition_method="uniform", loss_fn=functional.mse_loss
    )
    engine = deepspeed.initialize(
        model=module, config=CONFIG, optimizer=sgd, model_parameters=list(module.parameters())
    )[0]
    found = [engine.train_batch(batches()).item() for _ in range(2)]
    return [*found, engine.eval_batch(batches()).item()]


def start() -> int:
    join()
    torch.manual_seed(0)
    return dist.get_rank()


def experts(rank: Rank, last_only: bool) -> tuple[list[float], list[float]]:
    """The stock engine goes first: it makes its groups before one stage makes those of experts."""
    found = []
    for train in stock, losses:
        start()
        found.append(train([Layer() if last_only else Experts(), Experts()]))
    return found[0], found[1]


def test_experts_in_one_stage_train_as_on_the_stock_engine() -> None:
    for theirs, ours in values(experts, 2, True):
        assert ours == theirs


def test_experts_in_all_stages_train_as_on_the_stock_engine() -> None:
    for theirs, ours in values(experts, 2, False):
        assert ours == theirs


def alone(rank: Rank) -> list[Any]:
    """Two stages of two ranks each; return the losses of trainings that are all the same."""
    own = start()
    found = [losses([Layer(), Layer()])]

    if own < 2:
        dist.new_group([0, 1], use_local_synchronization=True)
    for _ in range(own):
        dist.new_group([own])
    torch.manual_seed(0)
    found.append(losses([Layer(), Layer()]))

    if own == 3:
        dist.destroy_process_group(dist.new_group([3]))
    torch.manual_seed(0)
    found.append(losses([Layer(), Layer()]))

    torch.manual_seed(0)  # groups of one stage's ranks each, which would share a name
    found.append(losses([Grouped([0]), Grouped([2, 3])]))
    torch.manual_seed(0)
    found.append(losses([Grouped([0, 1], [2, 3], [0, 1]), Layer()]))

    def own_group(parameters: Any) -> torch.optim.Optimizer:
        dist.new_group()  # one of all ranks, after those of a stage and before those of a rank
        if own == 2:
            dist.new_group([2])
        return sgd(parameters)

    torch.manual_seed(0)
    found.append(losses([Grouped([0, 1]), Layer()], optimizer=own_group))
    torch.manual_seed(0)
    found.append(losses([Layer(), Layer()]))
    return found


def test_groups_that_some_ranks_make_alone() -> None:
    for found in values(alone, 4):
        assert found == [found[0]] * len(found)


def sizes(rank: Rank) -> list[list[float]]:
    """DeepSpeed's groups of experts in sizes that differ between stages, and ZeRO-1 beside it."""
    found = []
    for config in {}, {"gradient_clipping": 1.0}:
        start()
        found.append(losses([Experts(2), Experts()], **config))
    return found


def test_experts_spread_over_ranks_in_one_stage_only() -> None:
    ended = values(sizes, 4)
    assert all(found == ended[0] for found in ended)

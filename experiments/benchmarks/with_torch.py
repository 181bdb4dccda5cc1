"""The contenders that are made of PyTorch: `torch.func`, learn2learn, higher, TorchOpt; each as in its own examples."""

import importlib
import pathlib
import sys
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

from .contender import Contender
from .workloads import EPSILON, META_LR, Arrays, Workload

Tensors = dict[str, torch.Tensor]


class Network(torch.nn.Module):
    """The workload's network, from the same first parameters."""

    def __init__(self, workload: Workload, arrays: Arrays) -> None:
        super().__init__()
        self.is_mlp = workload.kind == "W2"
        for name, leaf in arrays.params.items():
            array = leaf.transpose(3, 2, 0, 1).copy() if leaf.ndim == 4 else leaf.copy()
            self.register_parameter(_key(name), torch.nn.Parameter(torch.from_numpy(array)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = dict(self.named_parameters(recurse=False))
        if self.is_mlp:
            for name in ("hidden_0", "hidden_1"):
                x = torch.relu(x @ p[f"{name}_kernel"] + p[f"{name}_bias"])
            return x @ p["head_kernel"] + p["head_bias"]
        for i in range(4):
            x = functional.conv2d(x, p[f"conv_{i}_kernel"], padding=1)
            x = functional.batch_norm(
                x, None, None, p[f"norm_{i}_scale"], p[f"norm_{i}_bias"], training=True, eps=EPSILON
            )
            x = functional.max_pool2d(torch.relu(x), 2)
        x = x.flatten(1)
        return x @ p["head_kernel"] + p["head_bias"] if "head_kernel" in p else x


def _key(name: str) -> str:
    return name.split("/", 1)[1].replace("/", "_")


def _loss_of(workload: Workload) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    return functional.mse_loss if workload.kind == "W2" else functional.cross_entropy


def _tensors(workload: Workload, arrays: Arrays) -> list[torch.Tensor]:
    images = workload.kind != "W2"
    x = [
        torch.from_numpy(a.transpose(0, 1, 4, 2, 3).copy() if images else a) for a in (arrays.support_x, arrays.query_x)
    ]
    y = [torch.from_numpy(a.astype(np.int64) if images else a) for a in (arrays.support_y, arrays.query_y)]
    return [x[0], y[0], x[1], y[1]]


def _tasks(workload: Workload, arrays: Arrays) -> Iterator[tuple[torch.Tensor, ...]]:
    return zip(*_tensors(workload, arrays), strict=True)


def _trained(network: torch.nn.Module, accumulate: Callable[[], float], *, compile_seconds: float = 0.0) -> Contender:
    """Meta-steps of Adam; `accumulate` adds the meta-gradient to `.grad` and returns the loss."""
    parameters = list(network.parameters())
    optimizer = torch.optim.Adam(parameters, lr=META_LR)
    began = time.perf_counter()
    loss = accumulate()
    compile_seconds = time.perf_counter() - began if compile_seconds else 0.0
    norm = torch.sqrt(sum((p.grad**2).sum() for p in parameters)).item()  # pyright: ignore

    def run(num_calls: int) -> None:
        for _ in range(num_calls):
            optimizer.zero_grad()
            accumulate()
            optimizer.step()

    return Contender(run, 1, loss, norm, compile_seconds, None)


def torch_func(*, batching: str, is_compiled: bool = False) -> Callable[[Workload, Arrays], Contender]:
    """`torch.func`: functional calls, `grad` inside `grad`, tasks by `vmap` or one after another."""

    def prepare(workload: Workload, arrays: Arrays) -> Contender:
        network, loss_fn = Network(workload, arrays), _loss_of(workload)

        def call(params: Tensors, x: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(network, params, (x,))

        def of_task(params: Tensors, x: Any, y: Any, query_x: Any, query_y: Any) -> torch.Tensor:
            if workload.kind == "W3":
                prototypes = call(params, x).reshape(-1, workload.ways, 64).mean(0)
                distances = ((call(params, query_x)[:, None] - prototypes) ** 2).sum(-1)
                return loss_fn(-distances, query_y)
            inner = torch.func.grad(lambda params: loss_fn(call(params, x), y))
            for _ in range(workload.steps):
                grads = inner(params)
                params = {name: leaf - workload.inner_lr * grads[name] for name, leaf in params.items()}
            return loss_fn(call(params, query_x), query_y)

        gradient = torch.func.grad_and_value(of_task)
        if batching == "vmap":
            gradient = torch.func.vmap(gradient, in_dims=(None, 0, 0, 0, 0))
        if is_compiled:
            gradient = torch.compile(gradient)
        tensors, tasks = _tensors(workload, arrays), list(_tasks(workload, arrays))

        def accumulate() -> float:
            params = {name: leaf.detach() for name, leaf in network.named_parameters()}
            if batching == "vmap":
                grads, losses = gradient(params, *tensors)
                grads, loss = {name: leaf.mean(0) for name, leaf in grads.items()}, losses.mean().item()
            else:
                results = [gradient(params, *task) for task in tasks]
                grads = {name: sum(each[name] for each, _ in results) / len(tasks) for name in params}
                loss = sum(value.item() for _, value in results) / len(tasks)
            for name, parameter in network.named_parameters():
                parameter.grad = grads[name]  # pyright: ignore[reportAttributeAccessIssue]
            return loss

        return _trained(network, accumulate, compile_seconds=1.0 if is_compiled else 0.0)

    return prepare


def autograd(workload: Workload, arrays: Arrays) -> Contender:
    """Plain PyTorch for W3, whose learner has no inner loop."""
    network, loss_fn = Network(workload, arrays), _loss_of(workload)
    tasks = list(_tasks(workload, arrays))

    def accumulate() -> float:
        total = 0.0
        for x, y, query_x, query_y in tasks:
            del y
            prototypes = network(x).reshape(-1, workload.ways, 64).mean(0)
            distances = ((network(query_x)[:, None] - prototypes) ** 2).sum(-1)
            loss = loss_fn(-distances, query_y) / len(tasks)
            loss.backward()
            total += loss.item()
        return total

    return _trained(network, accumulate)


def _learn2learn() -> Any:
    """learn2learn's `algorithms.maml`, from its files alone: its package does not build on today's Python.

    `LEARN2LEARN` names the folder of its unpacked source distribution.
    """
    import os

    root = pathlib.Path(os.environ["LEARN2LEARN"]) / "learn2learn"
    for name in ("learn2learn", "learn2learn.algorithms"):
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    return importlib.import_module("learn2learn.algorithms.maml")


def learn2learn(workload: Workload, arrays: Arrays) -> Contender:
    """`MAML.clone` and `adapt`, task after task, as in its examples."""
    network, loss_fn = Network(workload, arrays), _loss_of(workload)
    maml = _learn2learn().MAML(network, lr=workload.inner_lr, first_order=False)
    tasks = list(_tasks(workload, arrays))

    def accumulate() -> float:
        total = 0.0
        for x, y, query_x, query_y in tasks:
            learner = maml.clone()
            for _ in range(workload.steps):
                learner.adapt(loss_fn(learner(x), y))
            loss = loss_fn(learner(query_x), query_y) / len(tasks)
            loss.backward()
            total += loss.item()
        return total

    return _trained(network, accumulate)


def higher(workload: Workload, arrays: Arrays) -> Contender:
    """`innerloop_ctx`, task after task."""
    import higher as library  # pyright: ignore[reportMissingImports]

    network, loss_fn = Network(workload, arrays), _loss_of(workload)
    inner = torch.optim.SGD(network.parameters(), lr=workload.inner_lr)
    tasks = list(_tasks(workload, arrays))

    def accumulate() -> float:
        total = 0.0
        for x, y, query_x, query_y in tasks:
            with library.innerloop_ctx(network, inner, copy_initial_weights=False) as (adapted, stepped):
                for _ in range(workload.steps):
                    stepped.step(loss_fn(adapted(x), y))
                loss = loss_fn(adapted(query_x), query_y) / len(tasks)
                loss.backward()
                total += loss.item()
        return total

    return _trained(network, accumulate)


def torchopt(workload: Workload, arrays: Arrays) -> Contender:
    """`MetaSGD`, with the network's state put back after every task, as in its examples."""
    import torchopt as library  # pyright: ignore[reportMissingImports]

    network, loss_fn = Network(workload, arrays), _loss_of(workload)
    inner = library.MetaSGD(network, lr=workload.inner_lr)
    tasks = list(_tasks(workload, arrays))
    parameters = list(network.parameters())

    def accumulate() -> float:
        total = 0.0
        start, optimizer_state = library.extract_state_dict(network, by="reference"), library.extract_state_dict(inner)
        for x, y, query_x, query_y in tasks:
            for _ in range(workload.steps):
                inner.step(loss_fn(network(x), y))
            loss = loss_fn(network(query_x), query_y) / len(tasks)
            loss.backward()
            total += loss.item()
            library.recover_state_dict(network, start)
            library.recover_state_dict(inner, optimizer_state)
        return total

    return _trained(types.SimpleNamespace(parameters=lambda: parameters), accumulate)  # pyright: ignore

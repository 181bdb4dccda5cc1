"""The contenders in PyTorch: `torch.func`, learn2learn, higher and TorchOpt, each as in its own examples."""

import importlib
import os
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
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def set_precision() -> None:
    """Set the precision of products by JAX's own environment variable: TF32 if it says so, else float32."""
    is_tf32 = os.environ.get("JAX_DEFAULT_MATMUL_PRECISION") == "tensorfloat32"
    torch.set_float32_matmul_precision("high" if is_tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = is_tf32


class Network(torch.nn.Module):
    """The workload's network, with the same initial parameters."""

    def __init__(self, workload: Workload, arrays: Arrays) -> None:
        super().__init__()
        self.is_mlp = workload.kind == "W2"
        for name, leaf in arrays.params.items():
            array = leaf.transpose(3, 2, 0, 1).copy() if leaf.ndim == 4 else leaf.copy()
            self.register_parameter(_key(name), torch.nn.Parameter(torch.from_numpy(array).to(DEVICE)))

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
    return [each.to(DEVICE) for each in (x[0], y[0], x[1], y[1])]


def _tasks(workload: Workload, arrays: Arrays) -> Iterator[tuple[torch.Tensor, ...]]:
    return zip(*_tensors(workload, arrays), strict=True)


def finish() -> None:
    """Wait for the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def _trained(
    network: torch.nn.Module,
    accumulate: Callable[[], torch.Tensor],
    *,
    is_compiled: bool = False,
    captures: bool = False,
) -> Contender:
    """Build a contender of meta-steps of Adam; `accumulate` adds the meta-gradient to `.grad` and returns the loss.

    With `captures` all its work becomes one CUDA graph, which is then replayed.
    """
    parameters = list(network.parameters())
    optimizer = torch.optim.Adam(parameters, lr=META_LR)
    began = time.perf_counter()
    loss = float(accumulate())
    norm = torch.sqrt(sum((p.grad**2).sum() for p in parameters)).item()  # pyright: ignore
    replay = _captured(optimizer, accumulate) if captures else None
    compile_seconds = time.perf_counter() - began if is_compiled or captures else 0.0

    def run(num_calls: int) -> None:
        for _ in range(num_calls):
            if replay is not None:
                replay()
            else:
                optimizer.zero_grad()
                accumulate()
            optimizer.step()
        finish()

    return Contender(run, 1, loss, norm, compile_seconds, None)


def _captured(optimizer: torch.optim.Optimizer, accumulate: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Capture `accumulate` as PyTorch's notes on CUDA graphs say: warmed up on another stream, gradients in place.

    Raises:
      ValueError: if there is no GPU.
    """
    if DEVICE.type != "cuda":
        raise ValueError("CUDA graphs need a GPU that PyTorch sees")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            optimizer.zero_grad()
            accumulate()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad()  # to `None`, so that the graph itself allocates the gradients
    with torch.cuda.graph(graph):
        accumulate()
    return graph.replay


def torch_func(*, batching: str, is_compiled: bool = False) -> Callable[[Workload, Arrays], Contender]:
    """Build the contender of `torch.func`: functional calls, `grad` inside `grad`, tasks by `vmap` or in a loop."""

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

        def accumulate() -> torch.Tensor:
            params = {name: leaf.detach() for name, leaf in network.named_parameters()}
            if batching == "vmap":
                grads, losses = gradient(params, *tensors)
                grads, loss = {name: leaf.mean(0) for name, leaf in grads.items()}, losses.mean()
            else:
                results = [gradient(params, *task) for task in tasks]
                grads = {name: sum(each[name] for each, _ in results) / len(tasks) for name in params}
                loss = torch.stack([value for _, value in results]).mean()
            for name, parameter in network.named_parameters():
                parameter.grad = grads[name]  # pyright: ignore[reportAttributeAccessIssue]
            return loss

        return _trained(network, accumulate, is_compiled=is_compiled)

    return prepare


def autograd(workload: Workload, arrays: Arrays) -> Contender:
    """Build the contender of plain PyTorch for W3, whose learner has no inner loop."""
    network, loss_fn = Network(workload, arrays), _loss_of(workload)
    tasks = list(_tasks(workload, arrays))

    def accumulate() -> torch.Tensor:
        total = torch.zeros((), device=DEVICE)
        for x, y, query_x, query_y in tasks:
            del y
            prototypes = network(x).reshape(-1, workload.ways, 64).mean(0)
            distances = ((network(query_x)[:, None] - prototypes) ** 2).sum(-1)
            loss = loss_fn(-distances, query_y) / len(tasks)
            loss.backward()
            total += loss.detach()
        return total

    return _trained(network, accumulate)


def autograd_loop(*, captures: bool = False) -> Callable[[Workload, Arrays], Contender]:
    """Build learn2learn's loop without learn2learn: `autograd.grad(create_graph=True)`, task after task.

    Args:
      captures: whether the whole meta-gradient becomes one CUDA graph.
    """

    def prepare(workload: Workload, arrays: Arrays) -> Contender:
        network, loss_fn = Network(workload, arrays), _loss_of(workload)
        tasks = list(_tasks(workload, arrays))

        def accumulate() -> torch.Tensor:
            total = torch.zeros((), device=DEVICE)
            for x, y, query_x, query_y in tasks:
                params: dict[str, torch.Tensor] = dict(network.named_parameters())
                for _ in range(workload.steps):
                    loss = loss_fn(torch.func.functional_call(network, params, (x,)), y)
                    grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
                    params = {
                        name: leaf - workload.inner_lr * grad
                        for (name, leaf), grad in zip(params.items(), grads, strict=True)
                    }
                loss = loss_fn(torch.func.functional_call(network, params, (query_x,)), query_y) / len(tasks)
                loss.backward()
                total += loss.detach()
            return total

        return _trained(network, accumulate, captures=captures)

    return prepare


def _learn2learn() -> Any:
    """Import learn2learn's `algorithms.maml` from its files alone: its package does not build on current Python.

    `LEARN2LEARN` names the folder of its unpacked source distribution.
    """
    root = pathlib.Path(os.environ["LEARN2LEARN"]) / "learn2learn"
    for name in ("learn2learn", "learn2learn.algorithms"):
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    return importlib.import_module("learn2learn.algorithms.maml")


def learn2learn(workload: Workload, arrays: Arrays) -> Contender:
    """Build the contender of learn2learn: `MAML.clone` and `adapt`, task after task, as in its examples."""
    network, loss_fn = Network(workload, arrays), _loss_of(workload)
    maml = _learn2learn().MAML(network, lr=workload.inner_lr, first_order=False)
    tasks = list(_tasks(workload, arrays))

    def accumulate() -> torch.Tensor:
        total = torch.zeros((), device=DEVICE)
        for x, y, query_x, query_y in tasks:
            learner = maml.clone()
            for _ in range(workload.steps):
                learner.adapt(loss_fn(learner(x), y))
            loss = loss_fn(learner(query_x), query_y) / len(tasks)
            loss.backward()
            total += loss.detach()
        return total

    return _trained(network, accumulate)


def higher(workload: Workload, arrays: Arrays) -> Contender:
    """Build the contender of higher: `innerloop_ctx`, task after task."""
    import higher as library  # pyright: ignore[reportMissingImports]

    network, loss_fn = Network(workload, arrays), _loss_of(workload)
    inner = torch.optim.SGD(network.parameters(), lr=workload.inner_lr)
    tasks = list(_tasks(workload, arrays))

    def accumulate() -> torch.Tensor:
        total = torch.zeros((), device=DEVICE)
        for x, y, query_x, query_y in tasks:
            with library.innerloop_ctx(network, inner, copy_initial_weights=False) as (adapted, stepped):
                for _ in range(workload.steps):
                    stepped.step(loss_fn(adapted(x), y))
                loss = loss_fn(adapted(query_x), query_y) / len(tasks)
                loss.backward()
                total += loss.detach()
        return total

    return _trained(network, accumulate)


def torchopt(workload: Workload, arrays: Arrays) -> Contender:
    """Build the contender of TorchOpt: `MetaSGD`; each task starts from the restored network, as in its examples."""
    import torchopt as library  # pyright: ignore[reportMissingImports]

    network, loss_fn = Network(workload, arrays), _loss_of(workload)
    inner = library.MetaSGD(network, lr=workload.inner_lr)
    tasks = list(_tasks(workload, arrays))
    parameters = list(network.parameters())

    def accumulate() -> torch.Tensor:
        total = torch.zeros((), device=DEVICE)
        start, optimizer_state = library.extract_state_dict(network, by="reference"), library.extract_state_dict(inner)
        for x, y, query_x, query_y in tasks:
            for _ in range(workload.steps):
                inner.step(loss_fn(network(x), y))
            loss = loss_fn(network(query_x), query_y) / len(tasks)
            loss.backward()
            total += loss.detach()
            library.recover_state_dict(network, start)
            library.recover_state_dict(inner, optimizer_state)
        return total

    return _trained(types.SimpleNamespace(parameters=lambda: parameters), accumulate)  # pyright: ignore

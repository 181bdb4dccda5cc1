"""PyTorch's contender that acts: RL² by A2C or PPO, as a loop over steps in which all tasks are one batch.

A2C keeps the graph of its rollouts, so that decisions are computed once; PPO acts without one and passes over the
collected data with `torch.nn.GRU`.
"""

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

from .contender import Contender
from .with_torch import DEVICE, finish
from .workloads import (
    ACTING_LR,
    ARMS,
    CLIP,
    CLIP_NORM,
    DISCOUNT,
    ENTROPY_WEIGHT,
    FEATURES,
    GAE_LAMBDA,
    NUM_EPOCHS,
    NUM_MINIBATCHES,
    REWARD_SCALE,
    VALUE_WEIGHT,
    WIDTH,
    Pulls,
    Workload,
)


class Policy(torch.nn.Module):
    """The workload's policy, with the same initial parameters; its cell and its layer share them."""

    def __init__(self, recorded: Pulls) -> None:
        super().__init__()
        self.cell = torch.nn.GRUCell(FEATURES, WIDTH)
        self.actor, self.critic = torch.nn.Linear(WIDTH, ARMS), torch.nn.Linear(WIDTH, 1)
        p = {name: torch.from_numpy(leaf.copy()) for name, leaf in recorded.params.items()}
        with torch.no_grad():
            self.cell.weight_ih.copy_(p["memory/input_kernel"].T)
            self.cell.weight_hh.copy_(p["memory/recurrent_kernel"].T)
            self.cell.bias_ih.copy_(p["memory/bias"])
            self.cell.bias_hh.copy_(torch.cat([torch.zeros(2 * WIDTH), p["memory/content_bias"]]))
            for name, head in (("actor", self.actor), ("critic", self.critic)):
                head.weight.copy_(p[f"{name}/kernel"].T)
                head.bias.copy_(p[f"{name}/bias"])
        layer = torch.nn.GRU(FEATURES, WIDTH)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(layer, f"{name}_l0", getattr(self.cell, name))
        self._layer = [layer]  # in a list, so that its parameters are not registered a second time

    def heads(self, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `(log-probabilities, values)`."""
        return functional.log_softmax(self.actor(output), -1), self.critic(output)[..., 0]

    def unroll(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the heads' outputs for a whole sequence, `[pulls, tasks, features]`."""
        return self.heads(self._layer[0](x)[0])

    def grad_norm(self) -> float:
        """Return the norm of the gradient, without the half of the gates' biases that PyTorch has twice."""
        grads = [p.grad for name, p in self.named_parameters() if name != "cell.bias_hh"]
        bias = self.cell.bias_hh.grad
        assert bias is not None
        return float(torch.sqrt(sum((g**2).sum() for g in [*grads, bias[2 * WIDTH :]])))  # pyright: ignore


def pytorch(workload: Workload, recorded: Pulls) -> Contender:
    """Build the contender: the training loop that a careful PyTorch user writes."""
    policy, is_ppo = Policy(recorded).to(DEVICE), workload.kind == "W4-PPO"
    optimizer = torch.optim.Adam(policy.parameters(), lr=ACTING_LR)

    def updated(loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), CLIP_NORM)
        optimizer.step()

    def a2c() -> None:
        _, action, reward, log_probs, values = acted(policy, workload)
        updated(a2c_loss(log_probs, values, action, *judged(reward, values)))

    def ppo() -> None:
        with torch.no_grad():
            x, action, reward, log_probs, values = acted(policy, workload)
            old = chosen(log_probs, action)
            advantage, target = judged(reward, values)
            advantage = normalized(advantage)
        for _ in range(NUM_EPOCHS):
            for rows in torch.randperm(workload.tasks, device=DEVICE).chunk(NUM_MINIBATCHES):
                log_probs, values = policy.unroll(x[:, rows])
                each = (action[:, rows], advantage[:, rows], target[:, rows], old[:, rows])
                updated(ppo_loss(log_probs, values, *each))

    step = ppo if is_ppo else a2c
    recorded_arrays = (recorded.action.T.astype(np.int64), recorded.reward.T.copy())
    action, reward = (torch.from_numpy(array).to(DEVICE) for array in recorded_arrays)
    log_probs, values = policy.unroll(inputs_of(action, reward))
    advantage, target = judged(reward, values)
    if is_ppo:
        old = chosen(log_probs, action).detach()
        loss = ppo_loss(log_probs, values, action, normalized(advantage), target, old)
    else:
        loss = a2c_loss(log_probs, values, action, advantage, target)
    loss.backward()
    norm = policy.grad_norm()
    step()

    def run(num_calls: int) -> None:
        for _ in range(num_calls):
            step()
        finish()

    return Contender(run, 1, float(loss.detach()), norm, 0.0, None)


def acted(policy: Policy, workload: Workload) -> tuple[torch.Tensor, ...]:
    """Act in new bandits; return `(inputs, actions, rewards, log-probs, values)`, each `[pulls, tasks, ...]`."""
    means = torch.rand(workload.tasks, ARMS, device=DEVICE)
    memory, x = (torch.zeros(workload.tasks, width, device=DEVICE) for width in (WIDTH, FEATURES))
    steps = []
    for _ in range(workload.steps):
        memory = policy.cell(x, memory)
        log_probs, value = policy.heads(memory)
        with torch.no_grad():
            action = torch.multinomial(log_probs.exp(), 1)[:, 0]
            reward = (torch.rand(workload.tasks, device=DEVICE) < means.gather(1, action[:, None])[:, 0]).float()
        steps.append((x, action, reward, log_probs, value))
        x = step_input(action, reward)
    return tuple(torch.stack(each) for each in zip(*steps, strict=True))


def step_input(action: torch.Tensor, reward: torch.Tensor) -> torch.Tensor:
    """Return the policy's input after a pull."""
    nothing, is_over = torch.zeros_like(reward)[..., None], torch.ones_like(reward)[..., None]
    return torch.cat([nothing, functional.one_hot(action, ARMS).float(), reward[..., None], is_over], -1)


def inputs_of(action: torch.Tensor, reward: torch.Tensor) -> torch.Tensor:
    """Return the inputs of a sequence of pulls; the first input follows no pull."""
    x = step_input(action, reward)
    return torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def judged(reward: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `(advantages, targets)`."""
    values = values.detach()
    following = torch.cat([values[1:], torch.zeros_like(values[:1])])
    errors = REWARD_SCALE * reward + DISCOUNT * following - values
    advantage, advantages = torch.zeros_like(errors[0]), []
    for error in errors.flip(0):
        advantage = error + DISCOUNT * GAE_LAMBDA * advantage
        advantages.append(advantage)
    stacked = torch.stack(advantages[::-1])
    return stacked, stacked + values


def normalized(advantage: torch.Tensor) -> torch.Tensor:
    """Normalise advantages over all steps."""
    return (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)


def chosen(log_probs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities of the actions."""
    return log_probs.gather(-1, action[..., None])[..., 0]


def a2c_loss(
    log_probs: torch.Tensor, values: torch.Tensor, action: torch.Tensor, advantage: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """Return A2C's loss, averaged over all steps."""
    return -(chosen(log_probs, action) * advantage).mean() + _value_and_entropy(log_probs, values, target)


def ppo_loss(
    log_probs: torch.Tensor,
    values: torch.Tensor,
    action: torch.Tensor,
    advantage: torch.Tensor,
    target: torch.Tensor,
    old: torch.Tensor,
) -> torch.Tensor:
    """Return PPO's loss, averaged over all steps."""
    ratio = (chosen(log_probs, action) - old).exp()
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
    return -surrogate.mean() + _value_and_entropy(log_probs, values, target)


def _value_and_entropy(log_probs: torch.Tensor, values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
    return VALUE_WEIGHT * 0.5 * ((values - target) ** 2).mean() - ENTROPY_WEIGHT * entropy

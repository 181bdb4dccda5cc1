"""Attacks on library calls: every factory of a table with good arguments but for one number, from a list of odd ones.

What a number has to be follows from its name, by a rule that shares nothing with the library's own checks.
"""

import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jmeta import adjoints, estimators, evaluation, learners, losses, models, tasks
from jmeta.domains import rl
from jmeta.domains.rl import baselines, environments, policies, policy_gradients

from .cases import Outcome, judge

__all__ = ["attack"]

_network = models.mlp([4, 3])
_body = models.mlp([4])
_inner = optax.sgd(0.1)
_kernel = tasks.kernels.rbf(length_scale=1.0)
_blobs = tasks.gaussian_blobs(num_ways=3, num_shots=2, num_queries=2)
_bandit, _ = environments.bernoulli_bandit(2)
_policy = policies.actor_critic(models.gru(3), _bandit)
_transformer = models.set_transformer(width=4, num_layers=1, num_heads=1)
_by_loss = (_network, losses.cross_entropy, _inner)
_normal = (models.normal_outputs(_network), losses.negative_log_likelihood, _inner)


class _Kind(NamedTuple):
    """Numbers that a parameter takes: an interval, whole numbers or not, perhaps `None`."""

    low: float
    high: float = math.inf
    is_whole: bool = True
    is_open: bool = False  # whether the lower end itself is excluded
    or_none: bool = False

    def takes(self, value: Any) -> bool:
        if value is None:
            return self.or_none
        if self.is_whole and (isinstance(value, bool) or not isinstance(value, int | np.integer)):
            return False
        is_within = self.low <= value <= self.high and not (self.is_open and value == self.low)
        return math.isfinite(value) and bool(is_within)


_COUNT, _FROM_ZERO = _Kind(1), _Kind(0)
_POSITIVE, _WEIGHT, _SHARE = _Kind(0, is_whole=False, is_open=True), _Kind(0, is_whole=False), _Kind(0, 1, False)
_KINDS = {
    **dict.fromkeys(["initial_lr", "initial_scale", "initial_length_scale", "initial_noise", "jitter"], _POSITIVE),
    **dict.fromkeys(["prior_scale", "regularization", "initial_lambda", "sigma", "scale", "step_size"], _POSITIVE),
    **dict.fromkeys(["kl_weight", "hyperprior_weight", "log_det_weight", "value_weight", "spread"], _WEIGHT),
    **dict.fromkeys(["entropy_weight", "exploration_weight", "damping", "min_scale"], _WEIGHT),
    **dict.fromkeys(["epsilon", "discount", "gae_lambda"], _SHARE),
    "confidence": _Kind(0, 1, False, is_open=True),
}


class _Call(NamedTuple):
    """A factory with good arguments; `changes` are the numbers that may be replaced, with their good values."""

    make: Callable[..., Any]
    arguments: tuple[Any, ...]
    others: dict[str, Any]
    changes: dict[str, Any]
    kinds: dict[str, _Kind]


def _call(make: Callable[..., Any], *arguments: Any, kinds: dict[str, _Kind] | None = None, **named: Any) -> _Call:
    numbers = {k: v for k, v in named.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    others = {k: v for k, v in named.items() if k not in numbers}
    return _Call(make, arguments, others, numbers, {k: _KINDS.get(k, _COUNT) for k in numbers} | (kinds or {}))


_STEPS = {"num_steps": _FROM_ZERO}
_NOISE = {"noise": _POSITIVE}
CALLS = {
    "maml": _call(learners.maml, *_by_loss, num_steps=1, kinds=_STEPS),
    "first_order_maml": _call(learners.first_order_maml, *_by_loss, num_steps=1, kinds=_STEPS),
    "anil": _call(learners.anil, _body, _network, *_by_loss[1:], num_steps=1, kinds=_STEPS),
    "boil": _call(learners.boil, _body, _network, *_by_loss[1:], num_steps=1, kinds=_STEPS),
    "meta_sgd": _call(learners.meta_sgd, *_by_loss[:2], num_steps=1, initial_lr=0.1, kinds=_STEPS),
    "maml_plus_plus": _call(
        learners.maml_plus_plus,
        *_by_loss[:2],
        num_steps=1,
        initial_lr=0.1,
        annealed_until=0.1,
        kinds={"annealed_until": _POSITIVE, **_STEPS},
    ),
    "cavia": _call(learners.cavia, *_by_loss, num_steps=1, num_context=2, kinds=_STEPS),
    "imaml": _call(learners.imaml, *_by_loss, num_steps=60, regularization=2.0, kinds={"num_steps": _Kind(2)}),
    "reptile": _call(
        learners.reptile,
        *_by_loss,
        num_steps=1,
        batch_size=2,
        kinds={"batch_size": _COUNT._replace(or_none=True), **_STEPS},
    ),
    "bayesian_maml": _call(
        learners.bayesian_maml,
        *_by_loss,
        num_steps=1,
        num_particles=2,
        num_leader_steps=1,
        prior_precision=0.5,
        kinds={"num_leader_steps": _COUNT._replace(or_none=True), "prior_precision": _WEIGHT, **_STEPS},
    ),
    "llama": _call(
        learners.llama,
        *_by_loss,
        num_steps=1,
        log_det_weight=0.1,
        prior_precision=1.0,
        num_samples=2,
        kinds={"num_samples": _COUNT._replace(or_none=True), "prior_precision": _POSITIVE, **_STEPS},
    ),
    "platipus": _call(
        learners.platipus,
        *_by_loss,
        num_steps=1,
        num_samples=1,
        initial_scale=0.1,
        initial_lr=0.1,
        kl_weight=1.0,
        kinds=_STEPS,
    ),
    "abml": _call(
        learners.abml,
        *_normal,
        num_steps=1,
        num_samples=1,
        num_inner_samples=1,
        initial_scale=0.1,
        kl_weight=1.0,
        hyperprior_weight=0.1,
        kinds=_STEPS,
    ),
    "proto_maml": _call(learners.proto_maml, _body, *_by_loss[1:], num_ways=3, num_steps=1, kinds=_STEPS),
    "protonet": _call(learners.protonet, _body, num_ways=3, initial_scale=1.0, distance="cosine"),
    "matching": _call(learners.matching, _body, num_ways=3, num_process_steps=2, initial_scale=1.0),
    "relation": _call(learners.relation, _body, num_ways=3),
    "ridge": _call(
        learners.ridge, _body, num_ways=3, initial_lambda=1.0, initial_alpha=1.0, kinds={"initial_alpha": _POSITIVE}
    ),
    "nearest_mean": _call(learners.nearest_mean, num_ways=3),
    "fine_tune": _call(
        learners.fine_tune, _body, _inner, num_classes=9, num_ways=3, num_steps=1, scale=1.0, kinds=_STEPS
    ),
    "from_scratch": _call(learners.from_scratch, *_by_loss, num_steps=1, kinds=_STEPS),
    "deep_kernel_classifier": _call(
        learners.deep_kernel_classifier,
        _body,
        num_ways=3,
        num_steps=2,
        initial_length_scale=1.0,
        initial_scale=1.0,
    ),
    "deep_kernel_transfer": _call(
        learners.deep_kernel_transfer,
        _body,
        initial_length_scale=1.0,
        initial_scale=1.0,
        initial_noise=0.1,
        jitter=1e-4,
        kinds={"jitter": _WEIGHT},
    ),
    "adkf_ift": _call(
        learners.adkf_ift,
        _body,
        _inner,
        num_steps=60,
        prior_scale=0.5,
        initial_length_scale=1.0,
        initial_scale=1.0,
        initial_noise=0.1,
        kinds={"num_steps": _Kind(2)},
    ),
    "exact_gaussian_process": _call(learners.exact_gaussian_process, _kernel, noise=0.1, num_nodes=2, kinds=_NOISE),
    "exact_sinusoid_or_line": _call(learners.exact_sinusoid_or_line, noise=0.1, num_nodes=2, kinds=_NOISE),
    "in_context": _call(learners.in_context, _body, _transformer, max_ways=3, num_assignments=1),
    "attentive_neural_process": _call(learners.attentive_neural_process, _body, _body, _network, num_heads=1),
    "neural_process": _call(
        learners.neural_process, _body, models.normal_outputs(_body), _network, num_samples=2, num_elbo_samples=1
    ),
    "convolutional_neural_process": _call(
        learners.convolutional_neural_process,
        models.conv1d([3]),
        _network,
        inputs=(-1.0, 1.0),
        num_grid=9,
        kinds={"num_grid": _Kind(2)},
    ),
    "ensembled": _call(learners.ensembled, learners.nearest_mean(num_ways=3), num_samples=2),
    "deep_ensemble": _call(learners.deep_ensemble, learners.nearest_mean(num_ways=3), num_members=2),
    "svgd": _call(learners.svgd, temperature=1.0, kinds={"temperature": _POSITIVE}),
    "multi_step_weights": _call(
        learners.multi_step_weights,
        jnp.zeros(()),
        num_steps=2,
        annealed_until=0.1,
        kinds={"annealed_until": _POSITIVE},
    ),
    "sinusoid": _call(tasks.sinusoid, num_shots=2, num_queries=2, noise=0.1, kinds={"noise": _WEIGHT}),
    "sinusoid_or_line": _call(tasks.sinusoid_or_line, num_shots=2, num_queries=2, noise=0.1, kinds={"noise": _WEIGHT}),
    "gaussian_process": _call(
        tasks.gaussian_process,
        _kernel,
        num_shots=2,
        num_queries=2,
        noise=0.1,
        kinds={"noise": _POSITIVE, "num_shots": _FROM_ZERO},
    ),
    "gaussian_blobs": _call(tasks.gaussian_blobs, num_ways=3, num_shots=1, num_queries=1, num_features=2, spread=1.0),
    "ragged": _call(tasks.ragged, _blobs, num_ways=3, min_ways=1, min_shots=1),
    "stacked": _call(lambda num_tasks: tasks.stacked(_blobs, num_tasks), num_tasks=2),
    "finite": _call(lambda num_tasks: tasks.finite(_blobs, num_tasks, jax.random.key(0)), num_tasks=2),
    "evolution_strategies": _call(estimators.evolution_strategies, lambda *_: None, num_pairs=2, sigma=0.1),
    "persistent_evolution": _call(
        estimators.persistent_evolution_strategies,
        lambda *_: None,
        lambda *_: None,
        num_unrolls=2,
        num_pairs=2,
        sigma=0.1,
    ),
    "forward_mode": _call(
        estimators.forward_mode,
        lambda *_: None,
        directions_at_once=2,
        kinds={"directions_at_once": _COUNT._replace(or_none=True)},
    ),
    "score_function": _call(estimators.score_function, lambda *_: None, num_samples=2),
    "conjugate_gradient": _call(adjoints.conjugate_gradient, num_steps=2, damping=0.0),
    "neumann_series": _call(adjoints.neumann_series, num_steps=2, step_size=0.1),
    "implicit": _call(adjoints.implicit, tolerance=0.1, kinds={"tolerance": _POSITIVE}),
    "truncated": _call(lambda num_steps: adjoints.truncated(num_steps), num_steps=1, kinds=_STEPS),
    "rematerialized": _call(adjoints.rematerialized, block_size=2),
    "mixed_mode": _call(adjoints.mixed_mode, block_size=2, kinds={"block_size": _COUNT._replace(or_none=True)}),
    "mlp": _call(
        lambda width, dropout_rate: models.mlp([width, 2], dropout_rate=dropout_rate),
        width=2,
        dropout_rate=0.1,
        kinds={"dropout_rate": _Kind(0, 0.999, False)},
    ),
    "conv1d": _call(lambda width: models.conv1d([width]), width=2),
    "conv4": _call(models.conv4, 3, num_filters=2, num_context=0, kinds={"num_context": _FROM_ZERO}),
    "resnet12": _call(
        lambda width, **named: models.resnet12(3, widths=(width, 4), **named),
        width=2,
        dropout_rate=0.1,
        drop_size=1,
        kinds={"dropout_rate": _Kind(0, 0.999, False)},
    ),
    "gru": _call(
        lambda width, max_span: models.gru(width, max_span=max_span),
        width=2,
        max_span=4,
        kinds={"max_span": _Kind(2, or_none=True)},
    ),
    "lstm": _call(
        lambda width, max_span: models.lstm(width, max_span=max_span),
        width=2,
        max_span=4,
        kinds={"max_span": _Kind(2, or_none=True)},
    ),
    "causal_transformer": _call(models.causal_transformer, width=2, num_layers=1, num_heads=1, max_steps=3),
    "snail": _call(
        models.snail,
        width=2,
        num_blocks=1,
        num_filters=2,
        key_width=2,
        value_width=2,
        max_steps=4,
        kinds={"max_steps": _Kind(2)},
    ),
    "set_transformer": _call(models.set_transformer, width=4, num_layers=1, num_heads=1),
    "normal_outputs": _call(
        models.normal_outputs, _network, scale=0.5, min_scale=0.1, kinds={"scale": _POSITIVE._replace(or_none=True)}
    ),
    "bernoulli_bandit": _call(lambda num_arms: environments.bernoulli_bandit(num_arms), num_arms=2),
    "gaussian_bandit": _call(
        lambda num_arms, **named: environments.gaussian_bandit(num_arms, **named),
        num_arms=2,
        spread=1.0,
        noise=1.0,
        kinds={"noise": _WEIGHT},
    ),
    "tabular_mdp": _call(environments.tabular_mdp, num_states=2, num_actions=2, horizon=3),
    "point_navigation": _call(
        environments.point_navigation,
        half_width=0.5,
        goal_radius=0.1,
        num_steps=3,
        kinds={"half_width": _POSITIVE, "goal_radius": _WEIGHT},
    ),
    "meta_maze": _call(environments.meta_maze, size=9, num_steps=3, kinds={"size": _Kind(3)}),
    "a2c_loss": _call(policy_gradients.a2c_loss, value_weight=0.5, entropy_weight=0.1),
    "ppo_loss": _call(
        policy_gradients.ppo_loss, clip=0.2, value_weight=0.5, entropy_weight=0.1, kinds={"clip": _POSITIVE}
    ),
    "roll_out": _call(
        policy_gradients.roll_out, _bandit, _policy, num_rollouts=1, num_steps=2, discount=0.9, gae_lambda=0.5
    ),
    "run_episode": _call(rl.rollouts.run_episode, _bandit, _policy, num_steps=2),
    "collect_episode": _call(
        policy_gradients.collect_episode,
        lambda *_: None,
        discount=0.9,
        gae_lambda=0.5,
        reward_scale=1.0,
        kinds={"reward_scale": _POSITIVE},
    ),
    "dice": _call(policy_gradients.dice, num_steps=2),
    "epsilon_greedy": _call(
        lambda num_arms, epsilon: baselines.epsilon_greedy(num_arms, epsilon=epsilon), num_arms=2, epsilon=0.1
    ),
    "ucb1": _call(
        lambda num_arms, scale: baselines.ucb1(num_arms, scale=scale), num_arms=2, scale=1.0, kinds={"scale": _WEIGHT}
    ),
    "thompson_sampling": _call(lambda num_arms: baselines.thompson_sampling(num_arms), num_arms=2),
    "greedy": _call(lambda num_arms: baselines.greedy(num_arms), num_arms=2),
    "psrl": _call(baselines.psrl, num_states=2, num_actions=2, horizon=2),
    "optimistic_psrl": _call(baselines.optimistic_psrl, num_samples=2, num_states=2, num_actions=2, horizon=2),
    "ucrl2": _call(
        baselines.ucrl2,
        num_states=2,
        num_actions=2,
        horizon=2,
        reward_scale=1.0,
        transition_scale=1.0,
        confidence=0.1,
        kinds={"reward_scale": _WEIGHT, "transition_scale": _WEIGHT},
    ),
    "proportion_interval": _call(
        evaluation.proportion_interval,
        np.array([0.5, 1.0]),
        level=0.9,
        kinds={"level": _Kind(0, 0.999999, False, True)},
    ),
}
"""Factories, by name, with good arguments."""

_ODD = [
    *[0, -1, -(2**40), 1, 2, 3, 0.0, -0.0, 0.5, 1.0, 1.5, -0.5, 1e-300, math.nan, math.inf, -math.inf],
    *[
        True,
        False,
        np.int64(2),
        np.int32(0),
        np.float32(0.5),
        np.float64("nan"),
        np.uint8(3),
        None,
        "3",
        "",
        [],
        (1,),
        {},
    ],
]


def attack(rng: np.random.Generator, folder: pathlib.Path) -> Outcome:
    """Replace one number of a factory's good arguments by an odd one."""
    del folder
    name = list(CALLS)[rng.integers(len(CALLS))]
    make, arguments, others, changes, kinds = CALLS[name]
    changed = list(changes)[rng.integers(len(changes))]
    odd = _ODD[rng.integers(len(_ODD))]
    kind = kinds[changed]
    is_text = isinstance(odd, str | list | tuple | dict)
    is_large = kind.is_whole and not is_text and odd is not None and odd > 2 and kind.takes(odd)
    must = "refuse" if not is_text and not kind.takes(odd) else "accept" if not is_text and not is_large else "either"
    return judge(
        lambda: make(*arguments, **others, **{**changes, changed: odd}),
        what=f"{name}({changed}={odd!r})",
        must=must,
        is_wrong_type=is_text or (odd is None and not kind.or_none),
    )

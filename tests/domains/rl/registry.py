"""Every environment, adapter and policy, once: what the contract tests run over. A new one is one line here."""

import jax
import jax.numpy as jnp
import pytest

from jmeta import models
from jmeta.domains import rl
from jmeta.domains.rl import baselines, environments, policies
from jmeta.domains.rl.environments import robots

from ...registry import SEQUENCE_MODELS


def _pairs():
    navigation, sample = environments.point_navigation(num_steps=3)
    return environments.with_previous_observation(navigation), sample


def _scaled():
    navigation, sample = environments.point_navigation(num_steps=3)
    return environments.scaled_actions(navigation), sample


def _gymnax(name):
    gymnax = pytest.importorskip("gymnax", reason="gymnax is not installed: pip install 'jmeta[environments]'")
    theirs, params = gymnax.make(name)
    arrays = jax.tree.map(jnp.asarray, params)
    return theirs, jax.tree_util.Partial(lambda key: arrays)


def _scaled_pendulum():
    pendulum, sample = _gymnax("Pendulum-v1")
    return environments.scaled_actions(pendulum), sample


def _xland():
    pytest.importorskip("xminigrid", reason="XLand-MiniGrid is not installed: pip install 'jmeta[environments]'")
    benchmark = environments.hidden_goal_benchmark(5, 3, jax.random.key(0))
    return environments.from_xland_minigrid("XLand-MiniGrid-R1-9x9", benchmark, num_steps=3)


def _navix():
    pytest.importorskip("navix", reason="Navix is not installed: pip install 'jmeta[navix]'")
    return environments.from_navix("Navix-Empty-Random-5x5-v0", num_steps=3)


def _brax():
    pytest.importorskip("brax.envs", reason="Brax is not installed: pip install 'jmeta[brax]'")
    return environments.from_brax("halfcheetah", backend="spring", num_steps=3)


ENVIRONMENTS = {
    "bernoulli_bandit": lambda: environments.bernoulli_bandit(3),
    "gaussian_bandit": lambda: environments.gaussian_bandit(3),
    "tabular_mdp": lambda: environments.tabular_mdp(num_states=3, num_actions=2, horizon=3),
    "point_navigation": lambda: environments.point_navigation(num_steps=3),
    "sparse_point_navigation": lambda: environments.sparse_point_navigation(num_steps=3),
    "scaled_actions": _scaled,
    "with_previous_observation": _pairs,
    "meta_maze": lambda: environments.meta_maze(size=5, num_steps=3),
    "crawler": lambda: robots.crawler(robots.DAMAGED, num_steps=3),
    "arm": lambda: robots.arm(num_steps=3),
    "eel": lambda: robots.eel(num_steps=3),
}
"""Each makes `(environment, sample)`."""

ADAPTED = {
    "gymnax, CartPole": lambda: _gymnax("CartPole-v1"),
    "gymnax, Pendulum": lambda: _gymnax("Pendulum-v1"),
    "gymnax, Pendulum with scaled actions": _scaled_pendulum,
    "XLand-MiniGrid": _xland,
    "Navix": _navix,
    "Brax": _brax,
}
"""The same, of other libraries, whose code broadcasts ranks and warns; skipped where a library is not installed."""


def _bandit():
    return environments.bernoulli_bandit(3)[0]


def _mdp():
    return environments.tabular_mdp(num_states=3, num_actions=2, horizon=3)[0]


def _navigation():
    return environments.point_navigation(num_steps=3)[0]


def _varibad():
    inference = rl.learners.task_inference(
        models.gru(6), models.mlp([5, 1], activation=jnp.tanh), _bandit(), num_latents=2, kl_weight=0.3
    )
    return rl.learners.varibad_policy(inference, models.mlp([5, 4]), _bandit())


SIZES = {"num_states": 3, "num_actions": 2, "horizon": 3}

POLICIES = {
    **{
        f"actor_critic, {name}": (lambda model=model: (policies.actor_critic(model, _navigation()), _navigation()))
        for name, model in SEQUENCE_MODELS.items()
    },
    "memoryless": lambda: (policies.memoryless(models.mlp([4, 2]), _navigation()), _navigation()),
    "varibad": lambda: (_varibad(), _bandit()),
    "uniformly_random": lambda: (baselines.uniformly_random(3), _bandit()),
    "greedy": lambda: (baselines.greedy(3), _bandit()),
    "epsilon_greedy": lambda: (baselines.epsilon_greedy(3, epsilon=0.1), _bandit()),
    "ucb1": lambda: (baselines.ucb1(3), _bandit()),
    "thompson_sampling": lambda: (baselines.thompson_sampling(3), _bandit()),
    "optimistic_thompson_sampling": lambda: (baselines.optimistic_thompson_sampling(3), _bandit()),
    "finite_horizon_gittins": lambda: (baselines.finite_horizon_gittins(3, num_pulls=6), _bandit()),
    "bayes_optimal": lambda: (baselines.bayes_optimal(3, num_pulls=6), _bandit()),
    "psrl": lambda: (baselines.psrl(**SIZES), _mdp()),
    "optimistic_psrl": lambda: (baselines.optimistic_psrl(**SIZES, num_samples=2), _mdp()),
    "ucrl2": lambda: (baselines.ucrl2(**SIZES), _mdp()),
    "epsilon_greedy_planning": lambda: (baselines.epsilon_greedy_planning(**SIZES, epsilon=0.1), _mdp()),
}
"""Each makes `(policy, environment)`."""

USE_KEYS = {"thompson_sampling", "optimistic_thompson_sampling", "psrl", "optimistic_psrl"}
"""Policies whose decisions are random themselves."""

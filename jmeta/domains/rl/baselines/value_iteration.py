"""Planning in tabular MDPs over a finite horizon, backwards from its end: exact or optimistic.

A plan is a score of every action in every state at every time, `[horizon, states, actions]`; time 0 is the start of a
rollout. With h steps to go, Qₕ(s, a) = r(s, a) + Σ p(s′ | s, a) maxₐ′ Qₕ₋₁(s′, a′), and Q₀ = 0.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jmeta.tasks.class_arrays import check_positive

from ..environments.tabular_mdp import TabularMDPParams

__all__ = ["Plan", "planned_backwards", "value_iteration", "optimal_value", "expected", "optimistic_expected"]

Plan = Float[Array, "horizon states actions"]


def planned_backwards(
    backup: Callable[[Float[Array, "states"]], Float[Array, "states actions"]],
    final_values: Float[Array, "states"],
    *,
    horizon: int,
) -> Plan:
    """Compute scores with `backup`, which returns those of one time from the states' values at the next.

    Args:
      backup: `values -> scores`.
      final_values: values at the horizon; usually zeros.
      horizon: steps of a rollout.

    Example:
      >>> import jax.numpy as jnp
      >>> plan = planned_backwards(lambda values: 1 + jnp.stack([values, 0 * values], 1), jnp.zeros(2), horizon=3)
      >>> plan[:, 0].tolist()
      [[3.0, 1.0], [2.0, 1.0], [1.0, 1.0]]
    """
    check_positive({"horizon": horizon})

    def one_step(values: Float[Array, "states"], _: None) -> tuple[Float[Array, "states"], Float[Array, "..."]]:
        scores = backup(values)
        return scores.max(-1), scores

    return jax.lax.scan(one_step, final_values, None, horizon, reverse=True)[1]


def value_iteration(params: TabularMDPParams, horizon: int) -> Plan:
    """Compute the optimal plan of a known MDP.

    Example:
      >>> import jax
      >>> from jmeta.domains.rl.environments.tabular_mdp import tabular_mdp
      >>> _, sample = tabular_mdp()
      >>> value_iteration(sample(jax.random.key(0)), 10).shape
      (10, 10, 5)

    Reference:
      Puterman, "Markov Decision Processes", 1994, section 4.5.
    """

    def backup(values: Float[Array, "states"]) -> Float[Array, "states actions"]:
        return params.rewards + expected(params.transitions, values)

    return planned_backwards(backup, jnp.zeros_like(params.rewards[:, 0]), horizon=horizon)


def optimal_value(params: TabularMDPParams, horizon: int) -> Float[Array, ""]:
    """Return the expected total reward of an optimal rollout from state 0 in a known MDP.

    Example:
      >>> import jax.numpy as jnp
      >>> from jmeta.domains.rl.environments.tabular_mdp import TabularMDPParams
      >>> round(float(optimal_value(TabularMDPParams(jnp.ones((2, 3)), jnp.full((2, 3, 2), 0.5)), 10)), 3)
      10.0
    """
    return value_iteration(params, horizon)[0, 0].max()


def expected(
    transitions: Float[Array, "states actions next_states"], values: Float[Array, "next_states"]
) -> Float[Array, "states actions"]:
    """Return the mean value of the next state.

    Example:
      >>> import jax.numpy as jnp
      >>> expected(jnp.full((2, 1, 2), 0.5), jnp.array([1.0, 3.0])).tolist()
      [[2.0], [2.0]]
    """
    return (transitions * values[None, None]).sum(-1)


def optimistic_expected(
    transitions: Float[Array, "states actions next_states"],
    radius: Float[Array, "states actions"],
    values: Float[Array, "next_states"],
) -> Float[Array, "states actions"]:
    """Return the highest mean value of the next state over all p with ‖p − transitions‖₁ ≤ radius.

    Half the radius is added to the best next state, as far as there is room, and taken from the worst ones. These are
    found by comparing all pairs of states, since states are few and sorting is slow under `vmap`.

    Example:
      >>> import jax.numpy as jnp
      >>> half = jnp.full((1, 1, 2), 0.5)
      >>> optimistic_expected(half, jnp.array([[0.5]]), jnp.array([0.0, 1.0])).tolist()
      [[0.75]]

    Reference:
      Jaksch, Ortner, Auer, "Near-optimal Regret Bounds for Reinforcement Learning", 2010, figure 2.
    """
    order = jnp.arange(values.shape[0])
    is_worse = (values[:, None] < values[None]) | ((values[:, None] == values[None]) & (order[:, None] < order[None]))
    below = transitions @ is_worse.astype(transitions.dtype)  # the probability of all states worse than each
    best = values.argmax()
    moved = jnp.minimum(0.5 * radius, 1 - transitions[..., best])
    taken = jnp.clip(moved[..., None] - below, 0, transitions)  # from the worst first, as much as each has
    return expected(transitions - taken, values) + moved * values[best]

"""How the columns of a synthetic table and its label come about: structural causal models, and random functions.

`tables` draws the causes of every row. A mechanism turns them into columns, and into scores from which the label
follows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float

from ..types import RandomKey
from .class_arrays import check_positive

__all__ = ["Mechanism", "causal_network", "random_functions", "standardized"]

Mechanism = Callable[[RandomKey, Array, Array, int], tuple[Array, Array]]
"""`(key, causes, is_column, num_scores) -> (columns, scores)`, drawn anew for each key.

`causes` are `[rows, features]` numbers of about unit variance. `is_column`, `[features]`, is False for features that
the table does not have; their causes are 0. `columns` have the shape of `causes`; `scores` are `[rows, num_scores]`.
"""


def causal_network(*, num_layers: int = 3, width: int = 32) -> Partial:
    """Build a mechanism that is a structural causal model: a sparse random network with noise in every node.

    Node j of a layer is zⱼ = gⱼ(Σᵢ wᵢⱼ zᵢ) + σⱼ εⱼ; the first layer are the causes. Columns and scores are different
    nodes of any layer, so a label may cause a column, be its effect, or have a cause in common with it.

    Args:
      num_layers: the most layers of effects; a table has 1 to as many.
      width: nodes in a layer, at least as many as scores are asked for.

    Raises:
      ValueError: if a number is not positive; at trace time if there are more scores than `width`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> causes = jax.random.normal(jax.random.key(0), (50, 4))
      >>> columns, scores = causal_network()(jax.random.key(1), causes, jnp.ones(4, bool), 3)
      >>> columns.shape, scores.shape
      ((50, 4), (50, 3))

    Reference:
      Hollmann, Müller, Eggensperger, Hutter, "TabPFN: A Transformer That Solves Small Tabular Classification Problems
      in a Second", 2022, arXiv:2207.01848, section 4. Differs: nodes are standardized before their noise, and every
      node has a nonlinearity of its own.
    """
    check_positive({"num_layers": num_layers, "width": width})
    return Partial(_CausalNetwork(num_layers, width))


@dataclass(frozen=True)
class _CausalNetwork:
    num_layers: int
    width: int

    def __call__(
        self, key: RandomKey, causes: Float[Array, "rows features"], is_column: Bool[Array, "features"], num_scores: int
    ) -> tuple[Float[Array, "rows features"], Float[Array, "rows scores"]]:
        if self.width < num_scores:
            raise ValueError(f"width={self.width} is less than the {num_scores} scores of a table; raise it")
        key_depth, key_choice, *keys = jax.random.split(key, 2 + self.num_layers)
        depth = jax.random.randint(key_depth, (), 1, self.num_layers + 1)
        nodes, is_node = [causes], [is_column]
        for i, key_layer in enumerate(keys):
            nodes.append(_effects(key_layer, nodes[-1], self.width))
            is_node.append(jnp.broadcast_to(i < depth, (self.width,)))
        usable = jnp.concatenate(is_node)
        order = jax.random.uniform(key_choice, usable.shape, causes.dtype)
        chosen = jnp.argsort(jnp.where(usable, order, 2.0))[: num_scores + causes.shape[1]]
        values = jnp.concatenate(nodes, 1)[:, chosen]
        return values[:, num_scores:], values[:, :num_scores]


def _effects(key: RandomKey, causes: Float[Array, "rows causes"], width: int) -> Float[Array, "rows width"]:
    """Draw a layer of a structural causal model."""
    keys, dtype = jax.random.split(key, 7), causes.dtype
    shape = (causes.shape[1], width)
    density = jax.random.uniform(keys[0], (), dtype, 0.05, 0.7)
    is_edge = jax.random.bernoulli(keys[1], density, shape)
    inputs = standardized(causes @ jnp.where(is_edge, jax.random.normal(keys[2], shape, dtype), 0.0))
    inputs = inputs * jnp.exp(jax.random.uniform(keys[3], (width,), dtype, -0.7, 1.1))[None]
    inputs = inputs + jax.random.normal(keys[4], (width,), dtype)[None]
    shapes = jnp.stack([f(inputs) for f in NONLINEARITIES])
    chosen = jax.random.randint(keys[5], (width,), 0, len(NONLINEARITIES))
    outputs = standardized(jnp.take_along_axis(shapes, chosen[None, None], 0)[0])
    key_scale, key_noise = jax.random.split(keys[6])
    scales = jnp.exp(jax.random.uniform(key_scale, (width,), dtype, -4.0, 0.0))
    return outputs + scales[None] * jax.random.normal(key_noise, outputs.shape, dtype)


NONLINEARITIES: tuple[Callable[[Array], Array], ...] = (
    lambda x: x,
    lambda x: x,
    jnp.tanh,
    jax.nn.relu,
    jnp.abs,
    jnp.sin,
    lambda x: jnp.exp(-jnp.square(x)),
    lambda x: jnp.where(x > 0, 1.0, 0.0).astype(x.dtype),
)
"""Those of a causal network's nodes; half of the nodes have one that is monotone."""


def random_functions(*, num_waves: int = 64, length_scale: tuple[float, float] = (0.3, 5.0)) -> Partial:
    """Build a mechanism whose scores are random smooth functions of the columns, and whose columns are the causes.

    A score is a sum of random waves, f(x) = √(2/M) Σₘ aₘ cos(ωₘ·x + bₘ) with ωₘ normal, which tends to a Gaussian
    process with an RBF kernel as M grows. Every column has a relevance of its own; where the length scale is long,
    scores are nearly linear.

    Args:
      num_waves: M.
      length_scale: the shortest and the longest, drawn log-uniformly for each table.

    Raises:
      ValueError: if `num_waves` is not positive or `length_scale` is not a range of positive numbers.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> causes = jax.random.normal(jax.random.key(0), (50, 4))
      >>> columns, scores = random_functions()(jax.random.key(1), causes, jnp.ones(4, bool), 3)
      >>> bool((columns == causes).all()), scores.shape
      (True, (50, 3))

    Reference:
      Müller, Hollmann, Pineda Arango, Grabocka, Hutter, "Transformers Can Do Bayesian Inference", 2021,
      arXiv:2112.10510, section 5; Rahimi, Recht, "Random Features for Large-Scale Kernel Machines", 2007.
    """
    check_positive({"num_waves": num_waves})
    if not 0 < length_scale[0] <= length_scale[1] < float("inf"):
        raise ValueError(f"length_scale={length_scale}; expected (shortest, longest), both positive")
    return Partial(_RandomFunctions(num_waves, length_scale))


@dataclass(frozen=True)
class _RandomFunctions:
    num_waves: int
    length_scale: tuple[float, float]

    def __call__(
        self, key: RandomKey, causes: Float[Array, "rows features"], is_column: Bool[Array, "features"], num_scores: int
    ) -> tuple[Float[Array, "rows features"], Float[Array, "rows scores"]]:
        key_length, key_relevance, key_waves, key_phase, key_weight = jax.random.split(key, 5)
        dtype, num_features = causes.dtype, causes.shape[1]
        length = jnp.exp(jax.random.uniform(key_length, (), dtype, *jnp.log(jnp.array(self.length_scale, dtype))))
        relevance = jnp.where(is_column, jnp.exp(1.5 * jax.random.normal(key_relevance, (num_features,), dtype)), 0.0)
        relevance = relevance / jnp.sqrt(jnp.square(relevance).sum())
        waves = jax.random.normal(key_waves, (num_features, self.num_waves), dtype) * (relevance / length)[:, None]
        phases = jax.random.uniform(key_phase, (self.num_waves,), dtype, 0.0, 2 * jnp.pi)
        weights = jax.random.normal(key_weight, (self.num_waves, num_scores), dtype)
        values = jnp.cos(causes @ waves + phases[None]) @ weights
        return causes, values * jnp.sqrt(jnp.asarray(2 / self.num_waves, dtype))


def standardized(columns: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """Shift and scale every column to mean 0 and variance 1; one that is constant becomes 0.

    Example:
      >>> import jax.numpy as jnp
      >>> standardized(jnp.array([[1.0, 5.0], [3.0, 5.0]])).tolist()
      [[-1.0, 0.0], [1.0, 0.0]]
    """
    centred = columns - columns.mean(0, keepdims=True)
    deviation = jnp.sqrt(jnp.square(centred).mean(0, keepdims=True))
    is_constant = deviation < 1e-6
    return jnp.where(is_constant, 0.0, centred / jnp.where(is_constant, 1.0, deviation))

"""Inner loops: gradient descent as a pure, differentiable function of its start and its context.

This is what optimisation-based learners do inside `adapt`, and what a researcher composes to write a new one. How the
loop is differentiated is an argument (see `jmeta.adjoints`), not another loop.
"""

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import Literal

from . import adjoints
from .adjoints import Adjoint, InnerLoop, MakeOptimizer, Objective
from .losses import checked_loss, without_padding
from .models.chain import apply_and_calibrate
from .types import Aux, Batch, LossFn, Model, PyTree, RandomKey


def descend(
    objective: Objective,
    optimizer: optax.GradientTransformation | MakeOptimizer,
    *,
    num_steps: int,
    adjoint: Adjoint = adjoints.unrolled(),
) -> InnerLoop:
    """An inner loop: `num_steps` steps of `optimizer` on `objective`.

    Args:
      objective: `(params, context, step, key) -> (loss, aux)`. Whatever a meta-gradient shall flow into goes into
        `params` or `context`, not into a closure; `step` is an integer scalar that counts from 0; each step has a fresh
        `key`.
      optimizer: any optax transformation, or a function `context -> transformation` when its hyper-parameters are
        learned. One that divides by a root or a norm, such as Adam, needs `safe_at_zero`. It may ask for the loss
        (`value`, as `optax.contrib.reduce_on_plateau` does); line searches, which evaluate it anew, are not supported.
      num_steps: number of steps, at least 0.
      adjoint: how the loop is differentiated.

    Returns:
      `inner_loop(params, context, key) -> (params, aux)`; `aux["inner_losses"]` is `[num_steps]`, the objective
      *before* each step, and `aux["optimizer_state"]` what the optimizer's state was at the end.

    Raises:
      ValueError: if `num_steps` is no integer or negative; at trace time, if the objective returns anything but a
        scalar and a dictionary.

    Example:
      >>> import jax, optax
      >>> objective = lambda params, context, step, key: ((params - context) ** 2, {})
      >>> loop = descend(objective, optax.sgd(0.25), num_steps=2)
      >>> params, aux = loop(0.0, 1.0, jax.random.key(0))
      >>> float(params)
      0.75
    """
    if not isinstance(num_steps, numbers.Integral) or num_steps < 0:
        raise ValueError(f"num_steps={num_steps}; expected an integer, 0 to leave the initial model as it is, or more")
    make_optimizer = optimizer if callable(optimizer) else lambda _: optimizer

    def checked(params: PyTree, context: PyTree, step: Any, key: RandomKey) -> tuple[Any, Aux]:
        return checked_loss(objective(params, context, step, key), "what the objective of an inner loop returns")

    return adjoint(checked, make_optimizer, num_steps)


def split_params(params: PyTree, is_adapted: Callable[[str], bool]) -> tuple[PyTree, PyTree]:
    """Split parameters into those an inner loop adapts and those it leaves alone.

    Args:
      params: any pytree of parameters.
      is_adapted: says of a leaf's path, written as `"params/conv_0/kernel"`, whether the inner loop adapts it.

    Returns:
      `(adapted, rest)`: two trees like `params`, with `None` where the other one has the leaf; `merge_params` is the
      inverse.

    Raises:
      ValueError: if no leaf, or no such name, is selected.

    Example:
      >>> split_params({"body": 1.0, "head": 2.0}, lambda path: "head" in path)
      ({'body': None, 'head': 2.0}, {'body': 1.0, 'head': None})
    """
    selected = jax.tree_util.tree_map_with_path(lambda path, _: bool(is_adapted(path_name(path))), params)
    if not any(jax.tree.leaves(selected)):
        names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        raise ValueError(f"the inner loop would adapt nothing: none of the parameters {names} was selected")
    adapted = jax.tree.map(lambda leaf, chosen: leaf if chosen else None, params, selected)
    rest = jax.tree.map(lambda leaf, chosen: None if chosen else leaf, params, selected)
    return adapted, rest


def merge_params(adapted: PyTree, rest: PyTree) -> PyTree:
    """The inverse of `split_params`.

    Example:
      >>> merge_params({"body": None, "head": 2.0}, {"body": 1.0, "head": None})
      {'body': 1.0, 'head': 2.0}
    """
    return jax.tree.map(lambda a, b: b if a is None else a, adapted, rest, is_leaf=lambda leaf: leaf is None)


def path_name(path: tuple[Any, ...]) -> str:
    """A leaf's path, as `jax.tree_util` gives it, as one word.

    Example:
      >>> import jax
      >>> [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path({"params": {"head": {"bias": 0.0}}})]
      ['params/head/bias']
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def apply_to_support(model: Model, params: PyTree, support: Batch, key: RandomKey | None) -> tuple[PyTree, PyTree]:
    """`(outputs, params)` of a model on a support, the parameters holding its statistics if the model stores any.

    Learners use this wherever they look at the support. The model sees padding as zeros, so what padding holds, even
    NaN, changes nothing; but statistics over examples still count those zeros in.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta
      >>> model = jmeta.models.mlp([2])
      >>> support = jmeta.Batch(jnp.ones((3, 4)), jnp.zeros(3, int), mask=jnp.array([True, True, False]))
      >>> params = model.init(jax.random.key(0), support.x)
      >>> outputs, params = apply_to_support(model, params, support, None)
      >>> outputs.shape, bool((outputs[2] == params["params"]["head"]["bias"]).all())
      ((3, 2), True)
    """
    return apply_and_calibrate(model, params, without_padding(support).x, key)


def with_support_statistics(model: Model, params: PyTree, support: Batch, key: RandomKey | None) -> PyTree:
    """`params` with the norm layers' statistics set to the support's, if the model stores any.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta
      >>> model = jmeta.models.conv4(None, num_filters=4, norm="support")
      >>> support = jmeta.Batch(jax.random.normal(jax.random.key(0), (3, 28, 28, 1)), jnp.arange(3))
      >>> params = model.init(jax.random.key(1), support.x)
      >>> adapted = with_support_statistics(model, params, support, None)
      >>> bool((adapted["stats"]["norm_0"]["mean"] == params["stats"]["norm_0"]["mean"]).all())
      False
    """
    return params if model.calibrate is None else apply_to_support(model, params, support, key)[1]


def support_loss(model: Model, loss_fn: LossFn) -> Callable[[PyTree, Batch, RandomKey | None], tuple[Any, Aux]]:
    """`(params, support, key) -> (loss, aux)`: what an inner loop descends, in most learners.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta
      >>> model = jmeta.models.mlp([1])
      >>> support = jmeta.Batch(jnp.ones((3, 4)), jnp.ones((3, 1)))
      >>> params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0), support.x))
      >>> loss, aux = support_loss(model, jmeta.losses.squared_error)(params, support, None)
      >>> float(loss)
      1.0
    """

    def loss_on_support(params: PyTree, support: Batch, key: RandomKey | None) -> tuple[Any, Aux]:
        outputs, _ = apply_to_support(model, params, support, key)
        return loss_fn(outputs, support)

    return loss_on_support


def safe_at_zero(
    optimizer: optax.GradientTransformation, *, smallest: float = 1e-15
) -> optax.GradientTransformationExtraArgs:
    """The same optimizer, with a finite derivative where a gradient is exactly zero.

    Optimizers that divide by a root or a norm (Adam, RMSProp, LAMB, clipping by the global norm) have an infinite
    derivative inside at zero, and 0 · ∞ makes the whole meta-gradient NaN: one black pixel is enough. Here steps and
    state are the optimizer's own, to the bit, and their derivative is that at a gradient whose numbers below `smallest`
    are put at `smallest`: for Adam, the limit at zero. A root of a negative number that the optimizer computes and does
    not choose, as RAdam does in its first steps, has no part in the derivative. LAMB and LARS scale a leaf's step to
    the norm of its parameters, and have no limit where the whole gradient of a leaf is zero: the derivative there is
    finite, and very large.

    Args:
      optimizer: any optax transformation of gradients.
      smallest: positive; its square, times one minus Adam's `b2`, must not underflow: not for float16.

    Raises:
      ValueError: if `smallest` is not positive.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> def loss_after_a_step(start, optimizer):
      ...     objective = lambda weight, pixel, step, key: ((weight * pixel) ** 2, {})
      ...     return descend(objective, optimizer, num_steps=1)(start, 0.0, jax.random.key(0))[0] ** 2
      >>> gradient = jax.grad(loss_after_a_step)  # with a pixel that is black
      >>> float(gradient(0.5, optax.adam(0.1))), float(gradient(0.5, safe_at_zero(optax.adam(0.1))))
      (nan, 1.0)
    """
    if not smallest > 0:
        raise ValueError(f"smallest={smallest}; expected a positive number")
    optimizer = optax.with_extra_args_support(optimizer)

    def away_from_zero(gradient: jax.Array) -> jax.Array:
        there = jnp.where(gradient < 0, -smallest, smallest).astype(gradient.dtype)
        return gradient + jax.lax.stop_gradient(jnp.where(jnp.abs(gradient) < smallest, there - gradient, 0))

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any) -> tuple[PyTree, Any]:
        exact = jax.lax.stop_gradient(optimizer.update(updates, state, params, **extra_args))
        nearby = _with_defined_roots(optimizer.update)(
            jax.tree.map(away_from_zero, updates), state, params, **extra_args
        )
        return jax.tree.map(_with_derivative_of, exact, nearby)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def _with_defined_roots(fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The same function, but for square roots of negative numbers, which are those of 1.

    Both branches of a `jnp.where` are differentiated, and the NaN of the one that is not chosen spoils the derivative
    of the other: 0 · NaN. No result that is a number changes.
    """

    def evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
        for eqn in jaxpr.eqns:
            inputs = [var.val if isinstance(var, Literal) else values[var] for var in eqn.invars]
            if eqn.primitive.name in ("jit", "pjit"):
                outputs = evaluate(eqn.params["jaxpr"].jaxpr, eqn.params["jaxpr"].consts, inputs)
            else:
                if eqn.primitive.name in ("sqrt", "rsqrt"):
                    inputs = [jnp.where(inputs[0] < 0, jnp.ones_like(inputs[0]), inputs[0])]
                bound = eqn.primitive.get_bind_params(eqn.params)
                fns, params = bound if isinstance(bound, tuple) else ((), bound)  # a pair before JAX 0.10
                outputs = eqn.primitive.bind(*fns, *inputs, **params)
            outputs = outputs if eqn.primitive.multiple_results else [outputs]
            values.update(zip(eqn.outvars, outputs, strict=True))
        return [var.val if isinstance(var, Literal) else values[var] for var in jaxpr.outvars]

    def run(*args: Any, **kwargs: Any) -> PyTree:
        closed, shapes = jax.make_jaxpr(lambda args, kwargs: fn(*args, **kwargs), return_shape=True)(args, kwargs)
        leaves = evaluate(closed.jaxpr, closed.consts, jax.tree.leaves((args, kwargs)))
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves)

    return run


def _with_derivative_of(value: Any, other: Any) -> Any:
    """`value`, differentiated as `other`; counters have no derivative."""
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        return value
    return value + (other - jax.lax.stop_gradient(other))


def learned_rates(rates: PyTree) -> optax.GradientTransformation:
    """Gradient descent with a learning rate for each leaf, or each number, of the parameters: ∆ = −rate ⊙ gradient.

    Give it to `descend` as `lambda context: learned_rates(context.rates)`, and the rates get a meta-gradient.

    Args:
      rates: a tree like the parameters; each leaf a scalar or an array of the parameter's shape.

    Example:
      >>> optimizer = learned_rates({"w": 0.1})
      >>> updates, _ = optimizer.update({"w": 2.0}, optimizer.init({"w": 0.0}))
      >>> updates
      {'w': -0.2}
    """

    def scaled(grads: PyTree, params: PyTree) -> PyTree:
        del params
        return jax.tree.map(lambda rate, grad: -rate * grad, rates, grads)

    return optax.stateless(scaled)

"""LLAMA: MAML as empirical Bayes, with a Laplace approximation of the posterior around the adapted parameters.

MAML's adapted parameters φ are a point estimate of a task's parameters. Laplace's method adds their uncertainty, a
normal distribution whose precision Λ is the curvature of −log p(y | φ) plus that of a prior, and trains on
−log p(query | φ) + η · ½ log det Λ. The curvature is the Fisher information, which is never negative: its diagonal, or
a Kronecker product for each dense layer. With the curvature for the support, parameters are sampled from the posterior.

Reference: Grant, Finn, Levine, Darrell, Griffiths, "Recasting Gradient-Based Meta-Learning as Hierarchical Bayes",
2018, arXiv:1801.08930, section 4, subroutine 4; Martens and Grosse, "Optimizing Neural Networks with
Kronecker-factored Approximate Curvature", 2015, arXiv:1503.05671, section 3. Differs from the paper: the Fisher
information is the exact expectation over the model's predictions, where K-FAC draws one; the prior's precision is
added to the Kronecker product, so the determinant is that of the sum; and the posterior can be sampled.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float

from .. import adjoints
from ..adjoints import Adjoint
from ..bounds import is_real, is_whole
from ..distributions import Normal
from ..losses import checked_loss, real_examples, without_padding
from ..models import but_statistics
from ..params import merge, partition, path_name
from ..types import Aux, Batch, EpisodeFn, Learner, LossFn, Model, PyTree, RandomKey, Task
from ..uncertain_params import predict_with_particles
from .maml import maml

__all__ = ["DiagonalPrecision", "KroneckerPrecision", "laplace_precision", "llama"]


class DiagonalPrecision(NamedTuple):
    """Precision of a normal distribution of independent parameters.

    Attributes:
      values: positive; a tree like the parameters.
    """

    values: PyTree

    def log_det(self) -> Float[Array, ""]:
        """Return the logarithm of the determinant."""
        return jax.tree.reduce(jnp.add, jax.tree.map(lambda leaf: jnp.log(leaf).sum(), self.values))

    def sample(self, mean: PyTree, key: RandomKey) -> PyTree:
        """Draw parameters around `mean`; no gradient flows into the precision."""
        noise = optax.tree.random_like(key, mean, jax.random.normal)
        away = jax.tree.map(lambda values, leaf: leaf * jax.lax.rsqrt(values), self.values, noise)
        return jax.tree.map(jnp.add, mean, jax.lax.stop_gradient(away))


class KroneckerPrecision(NamedTuple):
    """Precision A ⊗ S + τ I of the weights of each dense layer, with layers independent of each other.

    Attributes:
      inputs: by the layer's path, A, the second moment of its inputs, `[rows, rows]`. The rows are those of the kernel,
        and the last one is the bias, whose input is 1; of a layer without one of them, those of the other.
      outputs: by the layer's path, S, the sum over examples of the Fisher information of its outputs,
        `[features, features]`.
      prior: τ, positive.
    """

    inputs: dict[str, Array]
    outputs: dict[str, Array]
    prior: Array

    def log_det(self) -> Float[Array, ""]:
        """Return the logarithm of the determinant, Σᵢⱼ log(αᵢ σⱼ + τ), with the eigenvalues of A and S."""
        inputs, outputs = _in_turn(jnp.linalg.eigvalsh, (self.inputs, self.outputs))
        of_layer = lambda a, s: jnp.log(jnp.outer(_not_negative(a), _not_negative(s)) + self.prior).sum()  # noqa: E731
        return jax.tree.reduce(jnp.add, jax.tree.map(of_layer, inputs, outputs))

    def sample(self, mean: PyTree, key: RandomKey) -> PyTree:
        """Draw parameters around `mean`; no gradient flows into the precision."""
        keys = dict(zip(self.inputs, jax.random.split(key, len(self.inputs)), strict=True))
        inputs, outputs = _in_turn(jnp.linalg.eigh, jax.lax.stop_gradient((self.inputs, self.outputs)))
        away = {path: self._noise(inputs[path], outputs[path], keys[path]) for path in self.inputs}

        def moved(path: tuple[Any, ...], leaf: Array) -> Array:
            layer, _, name = path_name(path).rpartition("/")
            return leaf + jax.lax.stop_gradient(away[layer][: leaf.shape[0]] if name == "kernel" else away[layer][-1])

        return jax.tree_util.tree_map_with_path(moved, mean)

    def _noise(self, inputs: Any, outputs: Any, key: RandomKey) -> Float[Array, "rows features"]:
        """Noise times the symmetric root of the covariance, which is unique where eigenvectors are not."""
        (in_values, in_vectors), (out_values, out_vectors) = inputs, outputs
        values = jnp.outer(_not_negative(in_values), _not_negative(out_values)) + self.prior
        noise = jax.random.normal(key, values.shape, values.dtype)
        rotated = in_vectors.T @ noise @ out_vectors
        return in_vectors @ (rotated * jax.lax.rsqrt(values)) @ out_vectors.T


def _not_negative(eigenvalues: Float[Array, " values"]) -> Float[Array, " values"]:
    return jnp.maximum(eigenvalues, 0)


def _in_turn(decompose: Callable[[Array], Any], matrices: PyTree) -> PyTree:
    """Decompose every matrix of a tree, one after another.

    On a CPU of two cores, batches of decompositions that ran at the same time were seen to wait for each other's
    threads for ever (jaxlib 0.10.2).
    """
    leaves, structure = jax.tree.flatten(matrices)
    results: list[Any] = []
    for matrix in leaves:
        if results:
            last = jax.lax.stop_gradient(jax.tree.leaves(results[-1])[0][0])
            matrix = matrix + jnp.where(jnp.isnan(last), last, jnp.zeros_like(last))  # adds 0, but not before `last`
        results.append(decompose(matrix))
    return jax.tree.unflatten(structure, results)


Precision = DiagonalPrecision | KroneckerPrecision


def llama(
    model: Model,
    loss_fn: LossFn,
    inner_optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    curvature: str = "diagonal",
    log_det_weight: float = 1e-6,
    prior_precision: float = 1.0,
    num_samples: int | None = None,
    adjoint: Adjoint = adjoints.unrolled(),
    is_adapted: Callable[[str], bool] = lambda _: True,
) -> Learner:
    """Learn an initialisation as MAML does, with a penalty on the curvature at the adapted parameters.

    Args:
      model: outputs normal distributions of numbers (`models.normal_outputs`), or logits of classes.
      loss_fn: the negative log likelihood, averaged over examples: `losses.negative_log_likelihood` or
        `losses.cross_entropy`.
      inner_optimizer, num_steps, adjoint: as in `maml`.
      curvature: `"diagonal"`, or `"kronecker"` for networks of Flax Linen whose adapted parameters are all of dense
        layers, such as `models.mlp`.
      log_det_weight: η, at least 0; the default is the paper's. Since the loss is a mean over examples, Laplace's
        method is η = 1 / examples of the query; with 0 it is MAML.
      prior_precision: τ, positive: precision of the normal prior of the adapted parameters, the same for all.
      num_samples: at least 1, samples of the posterior of a task's parameters whose predictions are averaged; `None` to
        predict with the adapted parameters alone.
      is_adapted: as in `maml`; the posterior is that of the adapted parameters.

    Returns:
      A learner whose meta-parameters are parameters of `model`. The adapted state is the same, with `num_samples`
      stacked along a first axis. The training episode predicts with the adapted parameters alone, and has `log_det` in
      its `aux`, the log determinant for the query.

    Raises:
      ValueError: if a number or `curvature` is none of these; at trace time if no parameter is adapted, if the model's
        outputs have no Fisher information here, or `"kronecker"` meets parameters that are of no dense layer.

    Example:
      >>> import jax, jmeta, optax
      >>> from jmeta import learners, losses, models
      >>> model = models.normal_outputs(models.mlp([16, 1]), scale=0.3)
      >>> learner = learners.llama(
      ...     model, losses.negative_log_likelihood, optax.sgd(0.01), num_steps=1, curvature="kronecker", num_samples=8)
      >>> task = jmeta.tasks.sinusoid(num_shots=10, num_queries=10)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> adapted = jax.jit(learner.adapt)(meta_params, task.support, jax.random.key(2))
      >>> jax.jit(learner.predict)(meta_params, adapted, task.query.x, None).variance().shape
      (10, 1)

    Reference:
      Grant et al., 2018, arXiv:1801.08930, algorithm 2, subroutine 4.
    """
    if not is_real(log_det_weight, least=0):
        raise ValueError(f"log_det_weight={log_det_weight}; expected at least 0, where 0 is MAML")
    if num_samples is not None and not is_whole(num_samples):
        raise ValueError(f"num_samples={num_samples}; expected at least 1, or None to predict with the point estimate")
    point = maml(model, loss_fn, inner_optimizer, num_steps=num_steps, adjoint=adjoint, is_adapted=is_adapted)
    precision_of = laplace_precision(model, curvature=curvature, prior_precision=prior_precision, is_adapted=is_adapted)

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> PyTree:
        if num_samples is None:
            return point.adapt(meta_params, support, key)
        key_point, key_samples = jax.random.split(key)
        params = point.adapt(meta_params, support, key_point)
        mean, rest = partition(params, but_statistics(is_adapted))
        precision = precision_of(params, support)
        draw = lambda key: merge(precision.sample(mean, key), rest)  # noqa: E731
        return jax.vmap(draw)(jax.random.split(key_samples, num_samples))

    def predict(meta_params: PyTree, adapted: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        if num_samples is None:
            return point.predict(meta_params, adapted, x, key)
        return predict_with_particles(model, adapted, x, key)

    def episode(outer_loss: LossFn) -> EpisodeFn:
        def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Array, Aux]:
            key_adapt, key_predict = jax.random.split(key)
            params = point.adapt(meta_params, task.support, key_adapt)
            outputs = point.predict(meta_params, params, task.query.x, key_predict)
            loss, aux = checked_loss(outer_loss(outputs, task.query), "what loss_fn returns")
            log_det = precision_of(params, task.query).log_det()
            return loss + 0.5 * log_det_weight * log_det, {**aux, "log_det": log_det}

        return episode_fn

    return Learner(point.init, adapt, predict, episode)


def laplace_precision(
    model: Model,
    *,
    curvature: str,
    prior_precision: float,
    is_adapted: Callable[[str], bool] = lambda _: True,
) -> Callable[[PyTree, Batch], Precision]:
    """Build `(params, batch) -> precision` of Laplace's approximation of the posterior around `params`.

    It is F + τ I. The Fisher information F = Σᵢ Jᵢᵀ Hᵢ Jᵢ is a sum over examples, with Jᵢ the derivative of the model's
    outputs and Hᵢ the Fisher information of the distribution that they define: for logits diag(p) − p pᵀ, for a normal
    distribution 1/σ² of the mean and 2/σ² of the standard deviation. For a layer x W of a linear model with fixed σ it
    is Xᵀ X / σ², as in Bayesian linear regression.

    Args:
      model, curvature, prior_precision, is_adapted: as in `llama`.

    Raises:
      ValueError: as `llama`.

    Example:
      >>> import jax, jax.numpy as jnp, jmeta
      >>> from jmeta import models
      >>> model = models.normal_outputs(models.mlp([1]), scale=0.5)
      >>> batch = jmeta.Batch(jnp.ones((3, 1)), jnp.ones((3, 1)))
      >>> params = model.init(jax.random.key(0), batch.x)
      >>> precision = laplace_precision(model, curvature="diagonal", prior_precision=1.0)(params, batch)
      >>> precision.values["params"]["head"]["bias"].tolist()  # three examples of precision 4, and the prior
      [13.0]
    """
    if not is_real(prior_precision, above=0):
        raise ValueError(f"prior_precision={prior_precision}; expected a positive number, or Λ may have no inverse")
    if curvature not in ("diagonal", "kronecker"):
        raise ValueError(f"curvature={curvature!r}; expected 'diagonal' or 'kronecker'")
    build = _diagonal if curvature == "diagonal" else _kronecker

    def precision_of(params: PyTree, batch: Batch) -> Precision:
        adapted, rest = partition(params, but_statistics(is_adapted))
        batch = without_padding(batch)
        apply = lambda params, x: model.apply(merge(params, rest), jax.tree.map(lambda leaf: leaf[None], x), None)  # noqa: E731
        return build(apply, adapted, batch, real_examples(batch), prior_precision)

    return precision_of


_Apply = Callable[[PyTree, PyTree], PyTree]  # the adapted parameters and one example's input to outputs of one row


def _diagonal(apply: _Apply, params: PyTree, batch: Batch, is_real: Array, prior_precision: float) -> DiagonalPrecision:
    def of_example(x: PyTree) -> PyTree:
        outputs, pullback = jax.vjp(lambda params: apply(params, x), params)
        (grads,) = jax.vmap(pullback)(_fisher_roots(outputs, batch))
        return jax.tree.map(lambda leaf: jnp.square(leaf).sum(0), grads)

    squares = jax.vmap(of_example)(batch.x)
    return DiagonalPrecision(jax.tree.map(lambda leaf: _if_real(leaf, is_real).sum(0) + prior_precision, squares))


def _kronecker(
    apply: _Apply, params: PyTree, batch: Batch, is_real: Array, prior_precision: float
) -> KroneckerPrecision:
    layers = _layers(params)

    def of_example(x: PyTree) -> tuple[dict[str, Array], dict[str, Array]]:
        taps = {path: jnp.zeros((1, leaf.shape[-1]), leaf.dtype) for path, leaf in layers.items()}
        outputs, pullback, rows = jax.vjp(lambda taps: _tapped(apply, params, x, taps), taps, has_aux=True)
        (grads,) = jax.vmap(pullback)(_fisher_roots(outputs, batch))
        return rows, grads

    def moment(rows: Float[Array, "examples ... features"]) -> Float[Array, "features features"]:
        flat = _if_real(rows, is_real).reshape(-1, rows.shape[-1])
        return flat.T @ flat

    inputs, outputs = jax.tree.map(moment, jax.vmap(of_example)(batch.x))
    count = jnp.maximum(is_real.sum(), 1)
    means = jax.tree.map(lambda leaf: leaf / count.astype(leaf.dtype), inputs)
    return KroneckerPrecision(means, outputs, jnp.asarray(prior_precision, jax.tree.leaves(outputs)[0].dtype))


def _tapped(
    apply: _Apply, params: PyTree, x: PyTree, taps: dict[str, Array]
) -> tuple[PyTree, dict[str, Float[Array, " rows"]]]:
    """Return the outputs with `taps` added to those of each dense layer, and the inputs of the layers."""
    rows: dict[str, Array] = {}
    adapted = {id(leaf): path_name(path) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

    def tap(layer: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        outputs = layer(*args, **kwargs)
        if not isinstance(context.module, nn.Dense) or context.method_name != "__call__":
            return outputs
        leaves = context.module.variables["params"]
        found = [adapted[id(leaves[name])] for name in ("kernel", "bias") if id(leaves.get(name)) in adapted]
        if not found:
            return outputs
        path = found[0].rpartition("/")[0]
        if path in rows or args[0].ndim != 2:
            raise ValueError(
                f"the dense layer {path!r} is applied more than once to an example (to inputs of shape "
                f"{args[0].shape}); its curvature is no Kronecker product, use curvature='diagonal'"
            )
        inputs = {"kernel": args[0][0], "bias": jnp.ones(1, args[0].dtype)}
        rows[path] = jnp.concatenate([inputs[name.rpartition("/")[2]] for name in found]).astype(taps[path].dtype)
        return outputs + taps[path].astype(outputs.dtype)

    with nn.intercept_methods(tap):
        outputs = apply(params, x)
    if others := sorted(set(taps) - set(rows)):
        raise ValueError(_not_dense(others))
    return outputs, rows


def _layers(params: PyTree) -> dict[str, Array]:
    """One leaf of each dense layer with adapted parameters, by the layer's path."""
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    names = {"kernel": 2, "bias": 1}
    if others := [path for path, leaf in leaves.items() if names.get(path.rpartition("/")[2]) != leaf.ndim]:
        raise ValueError(_not_dense(others))
    return {path.rpartition("/")[0]: leaf for path, leaf in leaves.items()}


def _not_dense(paths: list[str]) -> str:
    return (
        "curvature='kronecker' needs adapted parameters of flax.linen.Dense layers, which these are not: "
        f"{', '.join(paths)}; use curvature='diagonal', or select dense layers by is_adapted"
    )


def _fisher_roots(outputs: PyTree, batch: Batch) -> PyTree:
    """Return vectors rₖ, stacked along a first axis: Σₖ rₖ rₖᵀ is the Fisher information of one row of outputs."""
    if isinstance(outputs, Normal):
        units = jnp.eye(outputs.loc.size, dtype=outputs.loc.dtype).reshape(-1, *outputs.loc.shape) / outputs.scale[None]
        nothing = jnp.zeros_like(units)
        return Normal(
            jnp.concatenate([units, nothing]), jnp.concatenate([nothing, units * jnp.sqrt(2.0).astype(units.dtype)])
        )
    is_of_classes = isinstance(batch.y, jax.Array) and jnp.issubdtype(batch.y.dtype, jnp.integer)
    if is_of_classes and isinstance(outputs, jax.Array) and outputs.ndim == 2:
        log_probs = jax.nn.log_softmax(outputs[0])
        units = jnp.eye(log_probs.size, dtype=log_probs.dtype)
        # half of a logarithm, since a root of a probability of 0 has an infinite derivative
        return (jnp.exp(0.5 * log_probs)[:, None] * (units - jnp.exp(log_probs)[None]))[:, None]
    found = f"{outputs.dtype}{list(outputs.shape)}" if isinstance(outputs, jax.Array) else type(outputs).__name__
    raise ValueError(
        f"outputs {found} are of no distribution whose Fisher information is known; expected a Normal "
        "(models.normal_outputs), or logits [examples, classes] of integer labels"
    )


def _if_real(values: Float[Array, "examples ..."], is_real: Array) -> Float[Array, "examples ..."]:
    return jnp.where(is_real.reshape(-1, *[1] * (values.ndim - 1)), values, jnp.zeros_like(values))

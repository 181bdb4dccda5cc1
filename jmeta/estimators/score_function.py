"""The score function: meta-gradients of episodes that draw random numbers with learned probabilities.

If the loss depends on a draw a ~ p_θ, its expectation has the gradient E[∇L + (L − b) ∇ log p_θ(a)] for any baseline b
that does not depend on the draw. The "magic box" exp(x − stop_gradient(x)) is the value 1 with the derivative of x;
losses weighted with it have the right derivatives of every order, through inner policy gradients too.

Reference: Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", 1992,
Machine Learning 8. Foerster, Farquhar, Al-Shedivat, Rocktäschel, Xing, Whiteson, "DiCE: The Infinitely Differentiable
Monte-Carlo Estimator", 2018, arXiv:1802.05098, section 4.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..bounds import is_whole
from ..types import Aux, EpisodeFn, GradFn, PyTree, RandomKey

__all__ = ["magic_box", "score_function"]


def magic_box(log_prob: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return 1, with the derivatives of `exp(log_prob)` relative to its value.

    Multiply the cost at step t by the magic box of the summed log-probabilities up to t: the product's derivatives, of
    any order, are unbiased estimates of those of the expected cost.

    Args:
      log_prob: summed log-probability of the actions that a cost depends on.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> float(magic_box(jnp.array(-1.5))), float(jax.grad(lambda x: magic_box(2 * x))(0.3))
      (1.0, 2.0)

    Reference:
      Foerster et al., "DiCE", 2018, arXiv:1802.05098, eq. 4-5.
    """
    return jnp.exp(log_prob - jax.lax.stop_gradient(log_prob))


def score_function(episode_fn: EpisodeFn, *, num_samples: int = 1) -> GradFn:
    """Estimate, without bias, the gradient of the *expected* loss of an episode that draws from learned probabilities.

    Args:
      episode_fn: `(meta_params, task, key) -> (loss, aux)`, where `aux["log_prob"]` is the log-probability of all
        draws, a scalar that is differentiable in the meta-parameters.
      num_samples: episodes of the task, each with its own key. With two or more, each one's baseline is the mean loss
        of the others, which removes most of the noise and adds no bias.

    Returns:
      `(meta_params, task, key) -> ((loss, aux), grads)`, with loss and aux averaged over samples.

    Raises:
      ValueError: if `num_samples` is not positive; at trace time if `aux` has no scalar `log_prob`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> def episode_fn(logit, task, key):  # a coin that costs 1 if it shows heads
      ...     heads = jax.random.bernoulli(key, jax.nn.sigmoid(logit)).astype(float)
      ...     return heads, {"log_prob": jax.nn.log_sigmoid(jnp.where(heads > 0, logit, -logit))}
      >>> (loss, aux), gradient = score_function(episode_fn, num_samples=4000)(0.0, None, jax.random.key(0))
      >>> 0.22 < float(gradient) < 0.28  # p (1 - p)
      True

    Reference:
      Foerster et al., "DiCE", 2018, arXiv:1802.05098; the baseline is that of Kool, van Hoof, Welling, "Buy 4 REINFORCE
      Samples, Get a Baseline for Free!", 2019.
    """
    if not is_whole(num_samples):
        raise ValueError(f"num_samples={num_samples}; expected at least 1")

    def surrogate(meta_params: PyTree, task: PyTree, key: RandomKey) -> tuple[Array, tuple[Array, Aux]]:
        keys = jax.random.split(key, num_samples)
        losses, aux = jax.vmap(episode_fn, in_axes=(None, None, 0))(meta_params, task, keys)
        if "log_prob" not in aux or jnp.shape(aux["log_prob"]) != (num_samples,):
            raise ValueError(
                'the score function needs aux["log_prob"], the scalar log-probability of all that the episode drew, '
                f"but the aux has {sorted(aux)}" + (" with a log_prob that is no scalar" if "log_prob" in aux else "")
            )
        constant = jax.lax.stop_gradient(losses)
        others = (constant.sum() - constant) / (num_samples - 1) if num_samples > 1 else jnp.zeros_like(constant)
        value = losses + (constant - others) * (magic_box(aux["log_prob"]) - 1)
        return value.mean(), (losses.mean(), jax.tree.map(lambda leaf: leaf.mean(0), aux))

    def grad_fn(meta_params: PyTree, task: PyTree, key: RandomKey) -> tuple[tuple[Array, Aux], PyTree]:
        grads, (loss, aux) = jax.grad(surrogate, has_aux=True)(meta_params, task, key)
        return (loss, aux), grads

    return grad_fn

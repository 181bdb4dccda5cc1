"""An ensemble of adapted states: adapt several times, under several keys, and predict the mixture.

Any learner whose adaptation draws random numbers has, for one support, as many adapted states as keys: networks drawn
anew (`from_scratch`, whose ensemble is a deep ensemble), dropout in inner steps, batches of the support, samples of a
posterior. Their mixture p(y | x) = 1/K Σₖ p(y | x, φₖ) is as sure as they agree.

`deep_ensemble` meta-learns a start for every member, so its members differ by more than the draws of adaptation.

Source: Lakshminarayanan, Pritzel, Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep
Ensembles", 2017, arXiv:1612.01474, section 2.4. Differs from the paper: the members of `ensembled` differ by the draws
of adaptation alone, since they share their meta-parameters.
"""

import jax

from ..bounds import is_whole
from ..distributions import mix
from ..episodes import episode as episode_of
from ..types import Aux, Batch, EpisodeFn, Learner, LossFn, PyTree, RandomKey, Task

__all__ = ["deep_ensemble", "ensembled"]


def ensembled(learner: Learner, *, num_samples: int) -> Learner:
    """Adapt a learner under several keys, and predict the mixture of what its adapted states predict.

    `predict` without a key is deterministic, so dropout is drawn in adaptation alone; with a key every adapted state
    gets one of its own. Evaluation has no key there: the members of an ensemble differ if and only if their adaptation
    draws.

    Args:
      learner: predicts logits or distributions (see `distributions.mix`).
      num_samples: number of adapted states, at least 1. Time and memory are proportional to it.

    Returns:
      A learner with the meta-parameters of `learner`, whose adapted states are stacked, `[num_samples, ...]`. It is
      meta-trained by the mixture's loss, unless `learner` has an `episode` of its own, which it keeps. An ensemble of
      one predicts what the learner does: logits are normalised, a distribution is a mixture of one.

    Raises:
      ValueError: if `num_samples` is not positive; at trace time if predictions are neither logits nor distributions.

    Example:
      >>> import jax, jmeta, optax
      >>> from jmeta import learners, losses, models
      >>> one = learners.from_scratch(models.mlp([16, 5]), losses.cross_entropy, optax.sgd(0.1), num_steps=10)
      >>> learner = learners.ensembled(one, num_samples=3)
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)(jax.random.key(0))
      >>> adapted = learner.adapt({}, task.support, jax.random.key(1))
      >>> learner.predict({}, adapted, task.query.x, None).shape
      (15, 5)

    Reference:
      Lakshminarayanan, Pritzel, Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles",
      2017, arXiv:1612.01474, section 2.4.
    """
    if not is_whole(num_samples):
        raise ValueError(f"num_samples={num_samples}; expected the number of adapted states, at least 1")

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> PyTree:
        adapt_one = lambda key: learner.adapt(meta_params, support, key)  # noqa: E731
        return jax.vmap(adapt_one)(jax.random.split(key, num_samples))

    def predict(meta_params: PyTree, adapted: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        keys = None if key is None else jax.random.split(key, num_samples)
        predict_one = lambda adapted, key: learner.predict(meta_params, adapted, x, key)  # noqa: E731
        return mix(jax.vmap(predict_one)(adapted, keys))

    return learner._replace(adapt=adapt, predict=predict)


def deep_ensemble(learner: Learner, *, num_members: int) -> Learner:
    """Meta-learn several starts of a learner side by side, and predict the mixture of what they adapt to.

    Args:
      learner: predicts logits or distributions (see `distributions.mix`).
      num_members: at least 1. Time and memory are proportional to it.

    Returns:
      A learner whose meta-parameters and adapted states are those of `learner`, stacked `[num_members, ...]`. Each
      member is trained by its own objective, on the same tasks; the loss is their mean, so gradients are a
      `num_members`-th of a single learner's. Clipping by a global norm, and skipping what is not finite, see all of
      them together.

    Raises:
      ValueError: if `num_members` is not positive; at trace time if predictions are neither logits nor distributions.

    Example:
      >>> import jax, jmeta, optax
      >>> from jmeta import learners, losses, models
      >>> one = learners.maml(models.mlp([16, 5]), losses.cross_entropy, optax.sgd(0.1), num_steps=1)
      >>> learner = learners.deep_ensemble(one, num_members=3)
      >>> task = jmeta.tasks.gaussian_blobs(num_ways=5, num_shots=1, num_queries=3)(jax.random.key(0))
      >>> meta_params = learner.init(jax.random.key(1), task)
      >>> adapted = learner.adapt(meta_params, task.support, jax.random.key(2))
      >>> learner.predict(meta_params, adapted, task.query.x, None).shape
      (15, 5)

    Reference:
      Lakshminarayanan, Pritzel, Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles",
      2017, arXiv:1612.01474, section 2.4.
    """
    if not is_whole(num_members):
        raise ValueError(f"num_members={num_members}; expected the number of members, at least 1")

    def init(key: RandomKey, task: Task) -> PyTree:
        return jax.vmap(lambda key: learner.init(key, task))(jax.random.split(key, num_members))

    def adapt(meta_params: PyTree, support: Batch, key: RandomKey) -> PyTree:
        adapt_one = lambda member, key: learner.adapt(member, support, key)  # noqa: E731
        return jax.vmap(adapt_one)(meta_params, jax.random.split(key, num_members))

    def predict(meta_params: PyTree, adapted: PyTree, x: PyTree, key: RandomKey | None) -> PyTree:
        keys = None if key is None else jax.random.split(key, num_members)
        predict_one = lambda member, adapted, key: learner.predict(member, adapted, x, key)  # noqa: E731
        return mix(jax.vmap(predict_one)(meta_params, adapted, keys))

    def episode(loss_fn: LossFn) -> EpisodeFn:
        of_member = episode_of(learner, loss_fn)

        def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[jax.Array, Aux]:
            keys = jax.random.split(key, num_members)
            results = jax.vmap(of_member, in_axes=(0, None, 0))(meta_params, task, keys)
            return jax.tree.map(lambda leaf: leaf.mean(0), results)

        return episode_fn

    return Learner(init, adapt, predict, episode)

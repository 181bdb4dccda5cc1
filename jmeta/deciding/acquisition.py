"""What to ask about next: which unlabelled example would help most, if somebody labelled it.

An *acquisition* scores the examples of a pool, `(learner, meta_params, pool, is_labelled, key) -> [examples]`; the
largest is asked about. `uncertainty` and `disagreement` look at the predictions of the model adapted so far, and cost
one prediction; `expected_entropy` adapts to each example with each label that it may have, and costs as many
adaptations. `label_curve` shows what an acquisition is worth on a task: the accuracy after each label.

As long as classes lack examples, ask about what is least like those that have some: `uncertainty(novelty.energy)`. On
blobs of three classes it reaches with three labels what random ones reach with five, where the entropy among the known
classes, which cannot know of others, does worse than random.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..episodes import task_without_padding
from ..losses import cross_entropy, masked_mean, real_examples
from ..types import Batch, Learner, PyTree, RandomKey, Task

__all__ = [
    "Acquisition",
    "disagreement",
    "entropy",
    "expected_entropy",
    "label_curve",
    "margin",
    "randomly",
    "uncertainty",
]

Acquisition = Callable[[Learner, PyTree, Batch, Bool[Array, "examples"], RandomKey], Float[Array, "examples"]]
"""`(learner, meta_params, pool, is_labelled, key) -> scores`: how much a label of each example of a pool would help.
Labels of the pool where `is_labelled` is False must not be looked at."""


def entropy(logits: Float[Array, "*examples ways"]) -> Float[Array, "*examples"]:
    """Return the entropy of the predicted class, in nats.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(entropy(jnp.zeros(4))), 3)  # log 4
      1.386
    """
    log_probs = jax.nn.log_softmax(logits)
    return -jnp.where(jnp.isfinite(log_probs), jnp.exp(log_probs) * log_probs, 0.0).sum(-1)


def margin(logits: Float[Array, "*examples ways"]) -> Float[Array, "*examples"]:
    """Return minus the difference in probability between the two most probable classes, in [-1, 0].

    Example:
      >>> import jax.numpy as jnp
      >>> float(margin(jnp.log(jnp.array([0.5, 0.25, 0.25]))))
      -0.25
    """
    two = jax.lax.top_k(jax.nn.softmax(logits), 2)[0]
    return two[..., 1] - two[..., 0]


def randomly(
    learner: Learner, meta_params: PyTree, pool: Batch, is_labelled: Bool[Array, "examples"], key: RandomKey
) -> Float[Array, "examples"]:
    """Score at random: the acquisition that others are compared with."""
    del learner, meta_params, pool
    return jax.random.uniform(key, is_labelled.shape)


def uncertainty(of_logits: Callable[[Array], Array] = entropy) -> Acquisition:
    """Build the acquisition that asks about what the model is least sure of.

    Args:
      of_logits: `entropy`, `margin`, or a novelty score such as `novelty.energy`.

    Reference:
      Lewis, Gale, "A Sequential Algorithm for Training Text Classifiers", 1994, arXiv:cmp-lg/9407020; for the margin
      Scheffer, Decomain, Wrobel, "Active Hidden Markov Models for Information Extraction", 2001.
    """

    def acquisition(learner: Learner, meta_params: PyTree, pool: Batch, is_labelled: Array, key: RandomKey) -> Array:
        adapted = learner.adapt(meta_params, pool._replace(mask=is_labelled), key)
        return of_logits(learner.predict(meta_params, adapted, pool.x, None))

    return acquisition


def disagreement(num_samples: int) -> Acquisition:
    """Build the acquisition that asks about what several adapted models disagree about (BALD).

    The score is the entropy of their mean prediction minus their mean entropy, the information that the label has about
    which of them is right: noise, about which all agree, is not asked about.

    Args:
      num_samples: number of models, each adapted with a key of its own, at least 2; the learner draws in adaptation.

    Raises:
      ValueError: if `num_samples` is below 2.

    Reference:
      Houlsby, Huszár, Ghahramani, Lengyel, "Bayesian Active Learning for Classification and Preference Learning", 2011,
      arXiv:1112.5745, eq. 2.
    """
    if num_samples < 2:
        raise ValueError(f"num_samples={num_samples}; expected at least 2 models, which may disagree")

    def acquisition(learner: Learner, meta_params: PyTree, pool: Batch, is_labelled: Array, key: RandomKey) -> Array:
        def logits_of(key: RandomKey) -> Array:
            adapted = learner.adapt(meta_params, pool._replace(mask=is_labelled), key)
            return learner.predict(meta_params, adapted, pool.x, None)

        logits = jax.vmap(logits_of)(jax.random.split(key, num_samples))
        mean = jax.nn.softmax(logits).mean(0)
        return entropy(jnp.log(mean)) - entropy(logits).mean(0)

    return acquisition


def expected_entropy() -> Acquisition:
    """Build the acquisition that asks about what would leave least uncertainty in the rest of the pool.

    For each example and each label, weighted by its probability, the learner adapts to one more example and predicts
    the pool: `examples x ways` adaptations in one `vmap`.

    Reference:
      Roy, McCallum, "Toward Optimal Active Learning through Sampling Estimation of Error Reduction", 2001, eq. 3 (log
      loss).
    """

    def acquisition(learner: Learner, meta_params: PyTree, pool: Batch, is_labelled: Array, key: RandomKey) -> Array:
        def logits_of(y: Array, is_labelled: Array) -> Array:
            adapted = learner.adapt(meta_params, Batch(pool.x, y, is_labelled), key)
            return learner.predict(meta_params, adapted, pool.x, None)

        now = logits_of(pool.y, is_labelled)
        left = Batch(pool.x, pool.y, real_examples(pool) & ~is_labelled)

        def entropy_after(i: Array, label: Array) -> Array:
            after = logits_of(pool.y.at[i].set(label), is_labelled.at[i].set(True))
            return masked_mean(entropy(after), left)

        indices, labels = jnp.arange(now.shape[0]), jnp.arange(now.shape[1], dtype=pool.y.dtype)
        after = jax.vmap(jax.vmap(entropy_after, (None, 0)), (0, None))(indices, labels)
        return -(jax.nn.softmax(now) * after).sum(-1)

    return acquisition


def label_curve(
    learner: Learner, acquisition: Acquisition, *, num_labels: int
) -> Callable[[PyTree, Task, RandomKey], tuple[Array, dict[str, Any]]]:
    """Build the episode that has a task's support labelled one example after another, as an acquisition asks.

    Args:
      learner: predicts logits, and adapts to a support with a mask.
      acquisition: one of this module, or one of your own.
      num_labels: labels that are asked for, at least 1 and at most the examples of the support. The first is drawn at
        random.

    Returns:
      `(meta_params, task, key) -> (loss, aux)`, for `jmeta.evaluation.evaluate_episodes`: `aux` has the accuracy on the
      query after each label, `"accuracy_1"`, `"accuracy_2"`, ..., and `"accuracy"`, their mean; the loss is 1 minus it.

    Raises:
      ValueError: if `num_labels` is out of range, at trace time if above the number of examples.

    Example:
      >>> import jax, jmeta
      >>> from jmeta import deciding
      >>> pools = jmeta.tasks.gaussian_blobs(num_ways=3, num_shots=4, num_queries=5)
      >>> episode_fn = deciding.label_curve(
      ...     jmeta.learners.nearest_mean(num_ways=3), deciding.uncertainty(), num_labels=4)
      >>> _, aux = jax.jit(episode_fn)({}, pools(jax.random.key(0)), jax.random.key(1))
      >>> sorted(aux)
      ['accuracy', 'accuracy_1', 'accuracy_2', 'accuracy_3', 'accuracy_4']
    """
    if num_labels < 1:
        raise ValueError(f"num_labels={num_labels}; expected at least one label")

    def episode_fn(meta_params: PyTree, task: Task, key: RandomKey) -> tuple[Array, dict[str, Any]]:
        task = task_without_padding(task)
        is_real = real_examples(task.support)
        if num_labels > is_real.shape[0]:
            raise ValueError(f"num_labels={num_labels}, but the support has {is_real.shape[0]} examples to label")
        key_first, key_rest = jax.random.split(key)

        def ask(is_labelled: Array, step_and_key: tuple[Array, RandomKey]) -> tuple[Array, Array]:
            step, key = step_and_key
            key_ask, key_adapt = jax.random.split(key)
            scores = acquisition(learner, meta_params, task.support, is_labelled, key_ask)
            scores = jnp.where(step == 0, jax.random.uniform(key_first, scores.shape, scores.dtype), scores)
            asked = jnp.where(is_real & ~is_labelled, scores, -jnp.inf).argmax()
            is_labelled = is_labelled.at[asked].set(True) & is_real
            adapted = learner.adapt(meta_params, task.support._replace(mask=is_labelled), key_adapt)
            _, aux = cross_entropy(learner.predict(meta_params, adapted, task.query.x, None), task.query)
            return is_labelled, aux["accuracy"]

        steps = jnp.arange(num_labels), jax.random.split(key_rest, num_labels)
        _, accuracy = jax.lax.scan(ask, jnp.zeros_like(is_real), steps)
        each = {f"accuracy_{i + 1}": accuracy[i] for i in range(num_labels)}
        return 1 - accuracy.mean(), {**each, "accuracy": accuracy.mean()}

    return episode_fn

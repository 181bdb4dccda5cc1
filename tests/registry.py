"""Every learner and every sampler, once: what the contract tests and the golden losses run over.

A new method is one line here.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import jmeta
from jmeta import Learner, adjoints, learners, losses, models, tasks
from jmeta.episodes import reptile_episode
from jmeta.types import EpisodeFn, LossFn

WAYS, FEATURES = 3, 4
CLASSIFY, REGRESS = losses.cross_entropy, losses.squared_error
INNER = optax.sgd(0.1)

blobs = tasks.gaussian_blobs(num_ways=WAYS, num_shots=2, num_queries=3, num_features=FEATURES)
sinusoid = tasks.sinusoid(num_shots=5, num_queries=4)

network = models.mlp([8, WAYS], activation=jnp.tanh)
embedding = models.mlp([8, 6], activation=jnp.tanh)
head = models.mlp([WAYS])


class Entry(NamedTuple):
    """A learner as the contract tests see it.

    Attributes:
      learner: small.
      loss_fn: judges its predictions.
      episode_fn: its training episode.
      depends_on_order: whether the order of the support may matter.
      has_meta_params: whether anything is meta-learned.
      ignores_padding: False where adaptation draws random numbers of the support's shape.
      is_constant: says of a meta-parameter's path whether its gradient may be zero.
    """

    learner: Learner
    loss_fn: LossFn
    episode_fn: EpisodeFn
    depends_on_order: bool = False
    has_meta_params: bool = True
    ignores_padding: bool = True
    is_constant: Callable[[str], bool] = lambda path: False


def entry(learner: Learner, episode_fn: EpisodeFn | None = None, *, loss_fn: LossFn = CLASSIFY, **flags) -> Entry:
    return Entry(learner, loss_fn, episode_fn or jmeta.episode(learner, loss_fn), **flags)


_reptile = learners.reptile(network, CLASSIFY, INNER, num_steps=3, batch_size=4)
_with_state = learners.reptile(
    network, CLASSIFY, optax.rmsprop(0.01, decay=0.9), num_steps=3, batch_size=4, learns_optimizer_state=True
)

LEARNERS: dict[str, Entry] = {
    "maml": entry(learners.maml(network, CLASSIFY, INNER, num_steps=2)),
    "maml_on_sinusoids": entry(
        learners.maml(models.mlp([8, 1], activation=jnp.tanh), REGRESS, INNER, num_steps=2), loss_fn=REGRESS
    ),
    "first_order_maml": entry(learners.first_order_maml(network, CLASSIFY, INNER, num_steps=2)),
    "anil": entry(learners.anil(embedding, head, CLASSIFY, INNER, num_steps=2)),
    "boil": entry(learners.boil(embedding, head, CLASSIFY, INNER, num_steps=2)),
    "meta_sgd": entry(learners.meta_sgd(network, CLASSIFY, num_steps=2, initial_lr=0.1)),
    "cavia": entry(learners.cavia(network, CLASSIFY, INNER, num_steps=2, num_context=3)),
    "maml_plus_plus": entry(learners.maml_plus_plus(network, CLASSIFY, num_steps=2, initial_lr=0.1)),
    "imaml": entry(
        learners.imaml(network, CLASSIFY, INNER, num_steps=10, regularization=3.0),
        learners.imaml_episode(network, CLASSIFY, INNER, num_steps=10, regularization=3.0),
    ),
    "reptile_with_state": entry(
        _with_state, reptile_episode(_with_state, CLASSIFY), ignores_padding=False, depends_on_order=True
    ),
    "reptile": entry(_reptile, reptile_episode(_reptile, CLASSIFY), ignores_padding=False, depends_on_order=True),
    "proto_maml": entry(learners.proto_maml(embedding, CLASSIFY, INNER, num_ways=WAYS, num_steps=2)),
    "protonet": entry(learners.protonet(embedding, num_ways=WAYS)),
    "protonet_cosine": entry(learners.protonet(embedding, num_ways=WAYS, distance="cosine")),
    "protonet_mahalanobis": entry(learners.protonet(embedding, num_ways=WAYS, distance="mahalanobis")),
    "matching": entry(learners.matching(embedding, num_ways=WAYS), depends_on_order=True),
    "matching_without_context": entry(learners.matching(embedding, num_ways=WAYS, full_context=False)),
    "relation": entry(learners.relation(embedding, num_ways=WAYS)),
    "ridge": entry(learners.ridge(embedding, num_ways=WAYS)),
    "nearest_mean": entry(learners.nearest_mean(num_ways=WAYS), has_meta_params=False),
    "fine_tune": entry(
        learners.fine_tune(embedding, INNER, num_classes=20, num_ways=WAYS, num_steps=3),
        is_constant=lambda path: path.startswith("head"),  # trained by `pretrain_episode`, not by the plain episode
    ),
    "from_scratch": entry(learners.from_scratch(network, CLASSIFY, INNER, num_steps=3), has_meta_params=False),
}


def sample_for(entry: Entry):
    """The sampler of tasks that a learner of the registry is tried on."""
    return sinusoid if entry.loss_fn is REGRESS else blobs


_images = jax.random.randint(jax.random.key(0), (12, 6, 8, 8, 1), 0, 256).astype(jnp.uint8)

SAMPLERS = {
    "gaussian_blobs": blobs,
    "sinusoid": sinusoid,
    "few_shot": tasks.few_shot(_images, num_ways=3, num_shots=2, num_queries=2),
    "few_shot_rotated": tasks.few_shot(_images, num_ways=3, num_shots=2, num_queries=2, rotations="per_class"),
    "few_shot_rotations_as_classes": tasks.few_shot(
        _images, num_ways=3, num_shots=2, num_queries=2, rotations="as_classes"
    ),
    "ragged": tasks.ragged(blobs, num_ways=WAYS),
}

ADJOINTS = {
    "unrolled": adjoints.unrolled(),
    "first_order": adjoints.first_order(),
    "truncated": adjoints.truncated(1),
    "rematerialized": adjoints.rematerialized(block_size=2),
    "mixed_mode": adjoints.mixed_mode(),
    "implicit": adjoints.implicit(),
}

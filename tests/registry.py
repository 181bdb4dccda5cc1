"""Every learner, sampler, adjoint and network with memory, once: what the contract tests run over.

A new one is one line here; environments and policies are in `tests/domains/rl/registry.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jmeta import Batch, Learner, Task, adjoints, deciding, learners, losses, models, tasks
from jmeta.domains import rl
from jmeta.domains.rl import environments, policies, policy_gradients, rollouts
from jmeta.types import LossFn, RandomKey

WAYS, FEATURES = 3, 4
CLASSIFY, REGRESS = losses.cross_entropy, losses.squared_error
LIKELIHOOD = losses.negative_log_likelihood
INNER = optax.sgd(0.1)

blobs = tasks.gaussian_blobs(num_ways=WAYS, num_shots=2, num_queries=3, num_features=FEATURES)
sinusoid = tasks.sinusoid(num_shots=5, num_queries=4)
kernel = tasks.kernels.rbf(length_scale=(0.2, 0.8))
process = tasks.gaussian_process(kernel, num_shots=5, num_queries=4, noise=0.3)
binary_images = tasks.completion(
    np.random.default_rng(0).integers(0, 256, (6, 5, 4, 1), np.uint8), num_shots=6, num_queries=4, threshold=0.5
)

network = models.mlp([8, WAYS], activation=jnp.tanh)
embedding = models.mlp([8, 6], activation=jnp.tanh)
head = models.mlp([WAYS])
SCALE = 0.8
normal_network = models.normal_outputs(models.mlp([8, 1], activation=jnp.tanh), scale=SCALE)
encoder = models.mlp([6, 4], activation=jnp.tanh)
latents = models.normal_outputs(models.mlp([6, 4], activation=jnp.tanh), min_scale=0.1)
decoder = models.normal_outputs(models.mlp([6, 2], activation=jnp.tanh), min_scale=0.1)
transformer = models.set_transformer(width=8, num_layers=1, num_heads=2)


class Entry(NamedTuple):
    """A learner as the contract tests see it.

    Attributes:
      learner: small.
      loss_fn: judges its predictions, and trains it.
      sample: the tasks that it is tried on.
      depends_on_order: whether the order of the support may matter.
      has_meta_params: whether anything is meta-learned.
      ignores_padding: False where adaptation draws random numbers of the support's shape.
      is_stream: whether a prediction may depend on the queries before it.
    """

    learner: Learner
    loss_fn: LossFn = CLASSIFY
    sample: Callable[[RandomKey], Task] = blobs
    depends_on_order: bool = False
    has_meta_params: bool = True
    ignores_padding: bool = True
    is_stream: bool = False


def within(loss_fn: LossFn) -> LossFn:
    """Judge the plain outputs of predictions that have sets, too."""
    return lambda outputs, batch: loss_fn(getattr(outputs, "outputs", outputs), batch)


bandit, _sample_bandit = environments.bernoulli_bandit(3)
inference = rl.learners.task_inference(
    models.gru(6), models.mlp([5, 1], activation=jnp.tanh), bandit, num_latents=2, kl_weight=0.3
)
trunk = models.mlp([5, 4], activation=jnp.tanh)


@jax.jit
def _pulls(key: RandomKey) -> Task:
    """Seven pulls of a new policy, the first two as support."""
    key_init, key_task, key_collect = jax.random.split(key, 3)
    policy = rl.learners.varibad_policy(inference, trunk, bandit)
    run = rollouts.run_episode(bandit, policy, num_steps=7)
    collect = policy_gradients.collect_episode(run, discount=0.9, gae_lambda=0.5)
    query = collect(rollouts.init_policy(bandit, policy)(key_init), _sample_bandit(key_task), key_collect).query
    part = lambda steps: Batch(*jax.tree.map(lambda leaf: leaf[steps], (query.x, query.y)))
    return Task(part(slice(2)), part(slice(2, None)))


navigation, _sample_goal = environments.point_navigation()
policy = policies.memoryless(models.mlp([8, 2], activation=jnp.tanh), navigation)
by_policy_gradients = (policy, policy_gradients.likelihood_ratio, INNER)


@jax.jit
def _walks(key: RandomKey) -> Task:
    """Rollouts of a new policy, of its two inner steps, and of what they make of it."""
    key_init, key_task, key_collect = jax.random.split(key, 3)
    roll_out = policy_gradients.roll_out(navigation, policy, num_rollouts=2, num_steps=4)
    collect = rl.learners.collect_adaptation(*by_policy_gradients, roll_out, num_steps=2)
    return collect(rollouts.init_policy(navigation, policy)(key_init), _sample_goal(key_task), key_collect)


LEARNERS: dict[str, Entry] = {
    "maml": Entry(learners.maml(network, CLASSIFY, INNER, num_steps=2)),
    "maml_on_sinusoids": Entry(
        learners.maml(models.mlp([8, 1], activation=jnp.tanh), REGRESS, INNER, num_steps=2), REGRESS, sinusoid
    ),
    "first_order_maml": Entry(learners.first_order_maml(network, CLASSIFY, INNER, num_steps=2)),
    "anil": Entry(learners.anil(embedding, head, CLASSIFY, INNER, num_steps=2)),
    "boil": Entry(learners.boil(embedding, head, CLASSIFY, INNER, num_steps=2)),
    "meta_sgd": Entry(learners.meta_sgd(network, CLASSIFY, num_steps=2, initial_lr=0.1)),
    "meta_curvature": Entry(learners.meta_curvature(network, CLASSIFY, INNER, num_steps=2)),
    "t_net": Entry(learners.t_net(network, CLASSIFY, INNER, num_steps=2)),
    "mt_net": Entry(learners.mt_net(network, CLASSIFY, INNER, num_steps=2)),
    "cavia": Entry(learners.cavia(network, CLASSIFY, INNER, num_steps=2, num_context=3)),
    "maml_plus_plus": Entry(learners.maml_plus_plus(network, CLASSIFY, num_steps=2, initial_lr=0.1)),
    "imaml": Entry(learners.imaml(network, CLASSIFY, INNER, num_steps=10, regularization=3.0)),
    "bayesian_maml": Entry(
        learners.bayesian_maml(
            network, CLASSIFY, INNER, num_steps=2, num_particles=3, num_leader_steps=2, prior_precision=0.5
        )
    ),
    "llama": Entry(learners.llama(network, CLASSIFY, INNER, num_steps=2, log_det_weight=0.1, num_samples=3)),
    "llama_kronecker": Entry(
        learners.llama(
            normal_network, LIKELIHOOD, optax.sgd(0.03), num_steps=2, curvature="kronecker", log_det_weight=0.1
        ),
        LIKELIHOOD,
        sinusoid,
    ),
    "reptile_with_state": Entry(
        learners.reptile(
            network, CLASSIFY, optax.rmsprop(0.01, decay=0.9), num_steps=3, batch_size=4, learns_optimizer_state=True
        ),
        ignores_padding=False,
        depends_on_order=True,
    ),
    "reptile": Entry(
        learners.reptile(network, CLASSIFY, INNER, num_steps=3, batch_size=4),
        ignores_padding=False,
        depends_on_order=True,
    ),
    "platipus": Entry(learners.platipus(network, CLASSIFY, INNER, num_steps=2, num_samples=2, initial_lr=0.1)),
    "abml": Entry(
        learners.abml(
            normal_network,
            LIKELIHOOD,
            optax.sgd(0.01),
            num_steps=2,
            num_samples=2,
            num_inner_samples=2,
            initial_scale=0.1,
            hyperprior_weight=0.1,
        ),
        LIKELIHOOD,
        sinusoid,
    ),
    "proto_maml": Entry(learners.proto_maml(embedding, CLASSIFY, INNER, num_ways=WAYS, num_steps=2)),
    "protonet": Entry(learners.protonet(embedding, num_ways=WAYS)),
    "protonet_cosine": Entry(learners.protonet(embedding, num_ways=WAYS, distance="cosine")),
    "protonet_mahalanobis": Entry(learners.protonet(embedding, num_ways=WAYS, distance="mahalanobis")),
    "matching": Entry(learners.matching(embedding, num_ways=WAYS), depends_on_order=True),
    "matching_without_context": Entry(learners.matching(embedding, num_ways=WAYS, full_context=False)),
    "relation": Entry(learners.relation(embedding, num_ways=WAYS)),
    "ridge": Entry(learners.ridge(embedding, num_ways=WAYS)),
    "meta_opt_net": Entry(learners.meta_opt_net(embedding, num_ways=WAYS)),
    "leo": Entry(
        learners.leo(
            embedding,
            CLASSIFY,
            num_ways=WAYS,
            num_latents=3,
            num_steps=2,
            num_fine_tuning_steps=1,
            initial_weights_lr=0.1,
            encoder_weight=0.2,
        )
    ),
    "deep_kernel_transfer": Entry(learners.deep_kernel_transfer(embedding, initial_noise=0.5), LIKELIHOOD, process),
    "deep_kernel_classifier": Entry(learners.deep_kernel_classifier(embedding, num_ways=WAYS)),
    "adkf_ift": Entry(
        learners.adkf_ift(
            embedding,
            INNER,
            num_steps=6,
            adjoint=adjoints.implicit(adjoints.conjugate_gradient(num_steps=3)),
            prior_scale=0.3,
            initial_noise=0.5,
            kernel=tasks.kernels.rbf(length_scale=1.0),
        ),
        LIKELIHOOD,
        process,
    ),
    "nearest_mean": Entry(learners.nearest_mean(num_ways=WAYS), has_meta_params=False),
    "exact_gaussian_process": Entry(
        learners.exact_gaussian_process(kernel, noise=0.3, num_nodes=3),
        LIKELIHOOD,
        process,
        has_meta_params=False,
    ),
    "conditional_neural_process": Entry(learners.conditional_neural_process(encoder, decoder), LIKELIHOOD, process),
    "neural_process": Entry(
        learners.neural_process(encoder, latents, decoder, num_samples=3, num_elbo_samples=2),
        LIKELIHOOD,
        process,
    ),
    "attentive_neural_process": Entry(
        learners.attentive_neural_process(encoder, encoder, decoder, num_heads=2),
        LIKELIHOOD,
        process,
    ),
    "attentive_neural_process_with_latents": Entry(
        learners.attentive_neural_process(
            encoder, encoder, decoder, latent=learners.LatentPath(encoder, latents, num_samples=3)
        ),
        LIKELIHOOD,
        process,
    ),
    "convolutional_neural_process": Entry(
        learners.convolutional_neural_process(
            models.conv1d([4, 3], kernel_size=3, activation=jnp.tanh), decoder, inputs=(-2.5, 2.5), num_grid=15
        ),
        LIKELIHOOD,
        process,
    ),
    "grid_convolutional_neural_process": Entry(
        learners.grid_convolutional_neural_process(
            models.conv2d([4, 3], kernel_size=3, activation=jnp.tanh),
            models.bernoulli_outputs(models.mlp([4, 1], activation=jnp.tanh)),
            height=5,
            width=4,
            kernel_size=3,
        ),
        LIKELIHOOD,
        binary_images,
    ),
    "nearest_pixels": Entry(learners.nearest_pixels(height=5, width=4), LIKELIHOOD, binary_images),
    "exact_sinusoid": Entry(
        learners.exact_sinusoid(noise=0.3, num_frequencies=12, num_kept=12, num_nodes=4),
        LIKELIHOOD,
        tasks.sinusoid(num_shots=5, num_queries=4, frequency=(0.5, 2.0), phase=(0.0, 2 * jnp.pi), noise=0.3),
        has_meta_params=False,
    ),
    "exact_sinusoid_or_line": Entry(
        learners.exact_sinusoid_or_line(num_nodes=6),
        LIKELIHOOD,
        tasks.sinusoid_or_line(num_shots=3, num_queries=4),
        has_meta_params=False,
    ),
    "fine_tune": Entry(learners.fine_tune(embedding, INNER, num_classes=20, num_ways=WAYS, num_steps=3)),
    "from_scratch": Entry(learners.from_scratch(network, CLASSIFY, INNER, num_steps=3), has_meta_params=False),
    "ensembled": Entry(
        learners.ensembled(
            learners.maml(models.mlp([8, WAYS], activation=jnp.tanh, dropout_rate=0.5), CLASSIFY, INNER, num_steps=2),
            num_samples=3,
        ),
        ignores_padding=False,
        depends_on_order=True,
    ),
    "conformal": Entry(
        deciding.conformal(
            learners.protonet(embedding, num_ways=WAYS), deciding.Conformal(np.array([0.8]), np.array([1.0]))
        ),
        within(CLASSIFY),
    ),
    "rejecting": Entry(deciding.rejecting(learners.protonet(embedding, num_ways=WAYS), 1.0), within(CLASSIFY)),
    "split_conformal": Entry(
        deciding.split_conformal(learners.maml(normal_network, LIKELIHOOD, INNER, num_steps=1), score=deciding.NUMBERS),
        within(LIKELIHOOD),
        sinusoid,
        depends_on_order=True,
    ),
    "deep_ensemble": Entry(learners.deep_ensemble(learners.maml(network, CLASSIFY, INNER, num_steps=1), num_members=2)),
    "standardized": Entry(learners.standardized(learners.protonet(embedding, num_ways=WAYS))),
    "in_context": Entry(learners.in_context(embedding, transformer, max_ways=WAYS + 2, num_assignments=2)),
    "in_context_equiangular": Entry(learners.in_context(embedding, transformer, max_ways=WAYS, labels="equiangular")),
    "transformer_neural_process": Entry(
        learners.transformer_neural_process(
            embedding, transformer, models.normal_outputs(models.mlp([2])), autoregressive=True
        ),
        LIKELIHOOD,
        process,
    ),
    "prior_fitted_network": Entry(
        learners.transformer_neural_process(
            embedding, transformer, models.binned_outputs(models.mlp([6]), np.linspace(-2, 2, 7))
        ),
        LIKELIHOOD,
        process,
    ),
    "varibad": Entry(
        rl.learners.varibad(inference, trunk, bandit, elbo_weight=0.5),
        policy_gradients.ppo_loss(entropy_weight=0.1),
        jax.jit(_pulls),
        depends_on_order=True,
        is_stream=True,
    ),
    "maml_rl": Entry(
        rl.learners.maml_rl(*by_policy_gradients, num_steps=2, kl_weight=0.7, exploration_weight=0.4),
        policy_gradients.likelihood_ratio,
        jax.jit(_walks),
        depends_on_order=True,
        ignores_padding=False,
    ),
}


ADAPTED_IN_PART: dict[str, Callable[[Callable[[str], bool]], Learner]] = {
    "maml": lambda chosen: learners.maml(network, CLASSIFY, INNER, num_steps=2, is_adapted=chosen),
    "first_order_maml": lambda chosen: learners.first_order_maml(
        network, CLASSIFY, INNER, num_steps=2, is_adapted=chosen
    ),
    "meta_sgd": lambda chosen: learners.meta_sgd(network, CLASSIFY, num_steps=2, initial_lr=0.1, is_adapted=chosen),
    "meta_curvature": lambda chosen: learners.meta_curvature(network, CLASSIFY, INNER, num_steps=2, is_adapted=chosen),
    "t_net": lambda chosen: learners.t_net(network, CLASSIFY, INNER, num_steps=2, is_adapted=chosen),
    "maml_plus_plus": lambda chosen: learners.maml_plus_plus(
        network, CLASSIFY, num_steps=2, initial_lr=0.1, is_adapted=chosen
    ),
    "imaml": lambda chosen: learners.imaml(
        network, CLASSIFY, INNER, num_steps=10, regularization=3.0, is_adapted=chosen
    ),
    "bayesian_maml": lambda chosen: learners.bayesian_maml(
        network, CLASSIFY, INNER, num_steps=2, num_particles=2, is_adapted=chosen
    ),
    "llama": lambda chosen: learners.llama(network, CLASSIFY, INNER, num_steps=2, is_adapted=chosen),
    "reptile": lambda chosen: learners.reptile(network, CLASSIFY, INNER, num_steps=2, is_adapted=chosen),
    "reptile_with_state": lambda chosen: learners.reptile(
        network, CLASSIFY, optax.rmsprop(0.01), num_steps=2, learns_optimizer_state=True, is_adapted=chosen
    ),
    "proto_maml": lambda chosen: learners.proto_maml(
        embedding, CLASSIFY, INNER, num_ways=WAYS, num_steps=2, is_adapted=chosen
    ),
    "fine_tune": lambda chosen: learners.fine_tune(
        embedding, INNER, num_classes=20, num_ways=WAYS, num_steps=2, is_adapted=chosen
    ),
}
"""Learners that adapt the parameters whose path is chosen, of a network of one hidden layer and a head."""


_images = jax.random.randint(jax.random.key(0), (12, 6, 8, 8, 1), 0, 256).astype(jnp.uint8)

OF_NUMBERS = (
    "sinusoid",
    "sinusoid_of_any_frequency",
    "sinusoid_or_line",
    "gaussian_process",
    "gaussian_process_ragged",
    "completion",
    "completion_ragged",
    "mixture",
    "sawtooth",
)
"""Samplers of regression tasks."""
SAMPLERS = {
    "gaussian_blobs": blobs,
    "sinusoid": sinusoid,
    "sinusoid_of_any_frequency": tasks.finite(
        tasks.sinusoid(num_shots=5, num_queries=4, frequency=(0.5, 2.0), noise=0.01), 10, jax.random.key(0)
    ),
    "sinusoid_or_line": tasks.sinusoid_or_line(num_shots=(2, 5), num_queries=4),
    "gaussian_process": process,
    "gaussian_process_ragged": tasks.gaussian_process(
        kernel, num_shots=(2, 5), num_queries=(1, 4), noise=0.3, max_points=6
    ),
    "completion": binary_images,
    "completion_ragged": tasks.completion(_images[0], num_shots=(2, 9)),
    "mixture": tasks.mixture(process, tasks.sawtooth(num_shots=5, num_queries=4, noise=0.3)),
    "sawtooth": tasks.sawtooth(num_shots=(2, 5), num_queries=(1, 4), noise=0.3, max_points=6),
    "few_shot": tasks.few_shot(_images, num_ways=3, num_shots=2, num_queries=2),
    "few_shot_rotated": tasks.few_shot(_images, num_ways=3, num_shots=2, num_queries=2, rotations="per_class"),
    "few_shot_rotations_as_classes": tasks.few_shot(
        _images, num_ways=3, num_shots=2, num_queries=2, rotations="as_classes"
    ),
    "few_shot_pytree": tasks.few_shot(
        {
            "image": _images,
            "tokens": np.arange(72, dtype=np.int32).reshape(12, 6),
            "is_odd": np.arange(72).reshape(12, 6) % 2 == 1,
        },
        num_ways=3,
        num_shots=2,
        num_queries=2,
    ),
    "few_shot_flat": tasks.few_shot(
        tasks.ClassArrays(np.arange(90.0)[:, None], np.arange(2, 14)), num_ways=3, num_shots=1, num_queries=1
    ),
    "ragged": tasks.ragged(blobs, num_ways=WAYS),
    "tables": jax.jit(  # else each of its many operations is compiled apart
        tasks.tables(
            [tasks.mechanisms.causal_network(num_layers=2, width=6), tasks.mechanisms.random_functions(num_waves=8)],
            num_support=(4, 12),
            num_queries=5,
            num_features=(2, FEATURES),
            num_ways=(2, WAYS),
        )
    ),
}

ADJOINTS = {
    "unrolled": adjoints.unrolled(),
    "first_order": adjoints.first_order(),
    "truncated": adjoints.truncated(1),
    "rematerialized": adjoints.rematerialized(block_size=2),
    "mixed_mode": adjoints.mixed_mode(),
    "implicit": adjoints.implicit(),
}

SEQUENCE_MODELS = {
    "gru": models.gru(5),
    "lstm": models.lstm(5),
    "causal_transformer": models.causal_transformer(width=8, num_layers=2, num_heads=2, max_steps=6),
    "snail": models.snail(width=6, num_blocks=2, num_filters=3, key_width=4, value_width=4, max_steps=6),
    "forgetful": models.forgetful(models.mlp([4]), num_features=2),
}

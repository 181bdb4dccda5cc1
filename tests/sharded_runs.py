"""Fifty meta-steps of several methods on the devices that this process, or the job that it joins, has.

`python -m tests.sharded_runs BLOCKS METHOD... [--divided]` prints one JSON object: by method, a digest of the
parameters' bits and the parameters themselves, which are few. The tests compare what different numbers of devices and
processes print. BLOCKS is a number, or `none` for sums in no fixed order; `--divided` divides parameters among two
devices each.
"""

import hashlib
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jmeta
from jmeta import estimators, evaluation, learners, losses, models, sharding, tasks, training
from jmeta.domains import rl
from jmeta.domains.rl import environments, policies, policy_gradients, rollouts
from jmeta.domains.rl.on_policy import on_policy_trainer
from jmeta.runs import processes
from jmeta.sharding import placing

NUM_TASKS, NUM_STEPS = 16, 50


def maml(optimizer=None):
    learner = learners.maml(models.mlp([40, 40, 1]), losses.squared_error, optax.sgd(0.01), num_steps=2)
    sample = tasks.sinusoid(num_shots=10, num_queries=10)
    grad_fn = jax.value_and_grad(jmeta.episode(learner, losses.squared_error), has_aux=True)
    return _trained(learner, sample, grad_fn, optimizer)


def by_sgd():
    return maml(optax.sgd(0.01))


def protonet():
    images = np.random.default_rng(0).random((12, 8, 16, 16, 1), np.float32)
    sample = tasks.few_shot(images, num_ways=5, num_shots=1, num_queries=2)
    learner = learners.protonet(models.conv4(None, num_filters=8), num_ways=5)
    grad_fn = jax.value_and_grad(jmeta.episode(learner, losses.cross_entropy), has_aux=True)
    return _trained(learner, sample, grad_fn)


def evolution():
    learner = learners.maml(models.mlp([16, 1]), losses.squared_error, optax.sgd(0.01), num_steps=1)
    sample = tasks.sinusoid(num_shots=10, num_queries=10)
    grad_fn = estimators.evolution_strategies(jmeta.episode(learner, losses.squared_error), num_pairs=8, sigma=0.1)
    return _trained(learner, sample, grad_fn)


def rl2():
    bandit, sample = environments.bernoulli_bandit(3)
    policy = policies.actor_critic(models.gru(16), bandit)
    run = rollouts.run_episode(bandit, policy, num_steps=6)
    collect = policy_gradients.collect_episode(run, discount=0.99, gae_lambda=0.3)
    episode_fn = jmeta.episode(rl.learners.rl2(policy), policy_gradients.ppo_loss(entropy_weight=0.01))
    mean_grad = jax.value_and_grad(jmeta.over_tasks(episode_fn, "vmap"), has_aux=True)
    trainer = on_policy_trainer(
        jmeta.meta_trainer(mean_grad, optax.adam(1e-2)),
        collect,
        num_epochs=2,
        num_minibatches=2,
        prepare=policy_gradients.with_normalized_advantages,
    )
    return trainer, rollouts.init_policy(bandit, policy)(jax.random.key(0)), sample


def _trained(learner, sample, grad_fn, optimizer=None):
    clipped = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-3))  # a norm is a sum, too
    trainer = jmeta.meta_trainer(jmeta.over_tasks(grad_fn), optimizer or clipped)
    return trainer, learner.init(jax.random.key(0), sample(jax.random.key(1))), sample


def scores_of(method, state, sample, shared):
    """Scores of 150 tasks, seven at a time: one device does them in two dispatches, eight in one."""
    name = "loss"
    if method == "rl2":
        bandit, _ = environments.bernoulli_bandit(3)
        policy = policies.actor_critic(models.gru(16), bandit)
        episode_fn, name = rollouts.return_episode(rollouts.run_episode(bandit, policy, num_steps=6)), "return"
    elif method == "protonet":
        learner = learners.protonet(models.conv4(None, num_filters=8), num_ways=5)
        episode_fn = evaluation.evaluation_episode(learner, losses.cross_entropy)
    else:
        widths = [16, 1] if method == "evolution" else [40, 40, 1]
        learner = learners.maml(models.mlp(widths), losses.squared_error, optax.sgd(0.01), num_steps=2)
        episode_fn = evaluation.evaluation_episode(learner, losses.squared_error)
    measure = evaluation.per_task_values(episode_fn, chunk_map=shared.chunk_map)
    return measure(state.meta_params, sample, jax.random.key(3), num_tasks=150, tasks_at_once=7)[name]


METHODS = {function.__name__: function for function in (maml, by_sgd, protonet, evolution, rl2)}


def run(method, shared, num_steps=NUM_STEPS, num_tasks=NUM_TASKS):
    """`(state, aux, sampler of one task)` after the meta-steps of a method."""
    trainer, meta_params, sample_one = METHODS[method]()
    trainer = shared.trainer(trainer)
    state = shared.place(trainer.init(meta_params))
    sample, key = shared.replicate((shared.stacked(sample_one, num_tasks), jax.random.key(2)))
    return *training.sampled_steps(trainer, num_steps=num_steps)(state, sample, key), sample_one


def main(arguments):
    num_blocks, *methods = arguments
    processes.join(detect=False)
    num_model = 2 if "--divided" in methods else 1
    placing.LEAST_TO_DIVIDE = 32 if num_model > 1 else placing.LEAST_TO_DIVIDE
    axes = {"tasks": jax.device_count() // num_model, "model": num_model}
    mesh = sharding.make_mesh(axes if num_model > 1 else {"tasks": axes["tasks"]})
    shared = sharding.Sharing(mesh, None if num_blocks == "none" else int(num_blocks))
    results = {}
    for method in methods:
        if method.startswith("--"):
            continue
        state, aux, sample = run(method, shared)
        is_divided = any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
        numbers = [np.asarray(leaf) for leaf in jax.tree.leaves(sharding.to_local_device(state.meta_params))]
        digest = hashlib.sha256(b"".join(leaf.tobytes() for leaf in numbers)).hexdigest()
        _, start, _ = METHODS[method]()
        results[method] = {
            "digest": digest,
            "scores": scores_of(method, state, sample, shared).tolist(),
            "loss": float(np.asarray(aux["loss"])[-1]),
            "step": int(jnp.asarray(np.asarray(state.step))),
            "is_divided": is_divided,
            "start": np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(start)]).astype(float).tolist(),
            "parameters": np.concatenate([leaf.reshape(-1) for leaf in numbers]).astype(float).tolist(),
        }
    if processes.is_main():
        print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(processes.run(main, sys.argv[1:]))

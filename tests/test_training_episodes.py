"""Every learner is trained by its method's own objective, written out here, or by the plain episode if it has none."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jmeta
from jmeta.domains.rl import policies

from .registry import LEARNERS, bandit, embedding, inference, network, normal_network, policy


def cross_entropy(logits, labels):
    return -(jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, logits.shape[1])).sum(1).mean()


def loss_of_network(params, batch):
    return cross_entropy(network.apply(params, batch.x, None), batch.y)


def reptile(name):
    def way_to_adapted(meta_params, task, key):
        """θ − φ."""
        adapted = LEARNERS[name].learner.adapt(meta_params, task.support, jax.random.split(key)[0])
        return jax.tree.map(jnp.subtract, meta_params, adapted)

    return way_to_adapted


def multi_step_loss(meta_params, task, key):
    """Σₜ wₜ L(φₜ; query): a quarter of the way from equal weights to the last step alone."""
    params, total = meta_params["params"], 0.0
    for step, weight in enumerate([0.375, 0.625]):
        grads = jax.grad(loss_of_network)(params, task.support)
        params = jax.tree.map(lambda leaf, grad, lr: leaf - lr[step] * grad, params, grads, meta_params["lr"])
        total += weight * loss_of_network(params, task.query)
    return total


def implicit_gradient(meta_params, task, key):
    """(I + H / λ)⁻¹ ∇L(φ; query), with H the Hessian of the support loss at φ."""
    adapted, unravel = ravel_pytree(LEARNERS["imaml"].learner.adapt(meta_params, task.support, key))
    loss = lambda flat, batch: loss_of_network(unravel(flat), batch)
    hessian = jax.hessian(loss)(adapted, task.support)
    return unravel(jnp.linalg.solve(jnp.eye(adapted.size) + hessian / 3.0, jax.grad(loss)(adapted, task.query)))


def loss_of_all_classes(meta_params, task, key):
    """The cross-entropy of 10 cos(f(x), wₖ)."""
    unit = lambda rows: rows / jnp.sqrt((rows**2).sum(1, keepdims=True))
    features = embedding.apply(meta_params["body"], task.query.x, None)
    return cross_entropy(10.0 * unit(features) @ unit(meta_params["head"]["weights"]).T, task.query.y)


def policy_loss_and_bound(meta_params, task, key):
    """The policy's loss − ½ ELBO; the bound with 0.3 KL, as a mean over the steps whose belief is decoded."""
    learner, loss_fn, *_ = LEARNERS["varibad"]
    key_adapt, key_predict, key_elbo = jax.random.split(key, 3)
    key_embeddings, _ = jax.random.split(key_elbo)
    belief = learner.adapt(meta_params, task.support, key_adapt)
    decisions = learner.predict(meta_params, belief, task.query.x, key_predict)
    params, batch = meta_params["memory"]["inference"], task.query
    features = policies.features(batch.x, bandit.observation_space(None), bandit.action_space(None))
    means, log_stds = inference.unroll(params, belief, features)[1]
    embeddings = means + jnp.exp(log_stds) * jax.random.normal(key_embeddings, means.shape)
    hidden, head = params["decoder"]["params"]["hidden_0"], params["decoder"]["params"]["head"]
    before, bound = belief.posterior, 0.0
    for mean, log_std, embedded in zip(means, log_stds, embeddings, strict=True):
        ratio = (jnp.exp(2 * log_std) + (mean - before.mean) ** 2) / (2 * jnp.exp(2 * before.log_std))
        bound -= 0.3 * (before.log_std - log_std + ratio - 0.5).sum()
        before = policies.Normal(mean, log_std)
        for observation, action, reward in zip(batch.x.observation, batch.y.action, batch.y.reward, strict=True):
            given = jnp.concatenate([embedded, observation, jax.nn.one_hot(action, 3)])
            predicted = jnp.tanh(given @ hidden["kernel"] + hidden["bias"]) @ head["kernel"] + head["bias"]
            bound -= 0.5 * (reward - predicted[0]) ** 2
    return loss_fn(decisions, batch)[0] - 0.5 * bound / len(means)


def outer_surrogate_with_terms(meta_params, task, key):
    """The surrogate of the adapted policy, 0.7 KL of the policies that rolled out, −0.4 J Σ log π of their actions."""

    def log_prob(params, batch):
        return policy.unroll(params, (), batch.x, None)[1].distribution.log_prob(batch.y.action)

    def mean(values, batch):
        return (values * batch.mask).sum() / batch.mask.sum()

    def surrogate(params, batch):
        return mean(-jnp.exp(log_prob(params, batch) - batch.y.log_prob) * batch.y.advantage, batch)

    params, terms = meta_params, 0.0
    for step in range(2):
        batch = jax.tree.map(lambda leaf: leaf[step], task.support)
        log_ratio = log_prob(params, batch) - batch.y.log_prob
        terms += 0.7 * mean(jnp.exp(log_ratio) - 1 - log_ratio, batch)
        terms -= 0.4 * mean(task.query.y.reward, task.query) * (log_prob(params, batch) * batch.mask).sum()
        params = jax.tree.map(lambda leaf, grad: leaf - 0.1 * grad, params, jax.grad(surrogate)(params, batch))
    return surrogate(params, task.query) + terms


def chaser_loss(meta_params, task, key):
    """Σ ‖chaser − leader‖², after two steps of SVGD on the support, and two more on all examples."""
    unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], meta_params))[1]
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), task.support, task.query)

    def log_posterior(theta, batch):
        return -len(batch.y) * loss_of_network(unravel(theta), batch) - 0.25 * theta @ theta

    def step(thetas, batch):
        distances = jnp.array([jnp.sum((thetas[i] - thetas[j]) ** 2) for i, j in ((0, 1), (0, 2), (1, 2))])
        bandwidth = jax.lax.stop_gradient(jnp.median(distances)) / jnp.log(4.0)
        kernel = lambda theta, other: jnp.exp(-jnp.sum((theta - other) ** 2) / bandwidth)
        scores = jax.vmap(jax.grad(log_posterior), (0, None))(thetas, batch)
        towards = lambda theta: sum(
            kernel(other, theta) * score + jax.grad(kernel)(other, theta)
            for other, score in zip(thetas, scores, strict=True)
        )
        return jnp.stack([theta + 0.1 / len(batch.y) * towards(theta) / 3 for theta in thetas])

    thetas = jax.vmap(lambda params: ravel_pytree(params)[0])(meta_params)
    chaser = step(step(thetas, task.support), task.support)
    leader = step(step(jax.lax.stop_gradient(chaser), joined), joined)
    return jnp.sum((chaser - jax.lax.stop_gradient(leader)) ** 2)


def adapted_by_descent(loss, params, support, lr):
    for _ in range(2):
        params = jax.tree.map(lambda leaf, grad: leaf - lr * grad, params, jax.grad(loss)(params, support))
    return params


def loss_and_diagonal_log_det(meta_params, task, key):
    """The query's cross-entropy + 0.05 Σ log(F + 1), with F the diagonal of Σ Jᵀ (diag(p) − p pᵀ) J."""
    flat, unravel = ravel_pytree(adapted_by_descent(loss_of_network, meta_params, task.support, 0.1))
    logits = lambda flat, x: network.apply(unravel(flat), x[None], None)[0]
    diagonal = 1.0
    for x in task.query.x:
        jacobian, probs = jax.jacobian(logits)(flat, x), jax.nn.softmax(logits(flat, x))
        diagonal += jnp.einsum("op,oq,qp->p", jacobian, jnp.diag(probs) - jnp.outer(probs, probs), jacobian)
    return loss_of_network(unravel(flat), task.query) + 0.05 * jnp.log(diagonal).sum()


def loss_and_kronecker_log_det(meta_params, task, key):
    """The query's −log N(y; f(x), 0.8²) + 0.05 log det (A ⊗ S + I) of both layers."""

    def loss(params, batch):
        return -jax.scipy.stats.norm.logpdf(batch.y, normal_network.apply(params, batch.x, None).loc, 0.8).mean()

    params = adapted_by_descent(loss, meta_params, task.support, 0.03)
    (hidden, head), x = (params["params"][name] for name in ("hidden_0", "head")), task.query.x
    after = jnp.tanh(x @ hidden["kernel"] + hidden["bias"][None])
    back = (1 - after**2) * head["kernel"].T / 0.8
    total = loss(params, task.query)
    for rows, slopes in ((x, back), (after, jnp.full((len(x), 1), 1 / 0.8))):
        rows = jnp.concatenate([rows, jnp.ones((len(x), 1))], 1)
        block = jnp.kron(rows.T @ rows / len(x), slopes.T @ slopes)
        total += 0.05 * jnp.linalg.slogdet(block + jnp.eye(len(block)))[1]
    return total


OBJECTIVE_GRADIENTS = {
    "maml_plus_plus": jax.grad(multi_step_loss),
    "imaml": implicit_gradient,
    "reptile": reptile("reptile"),
    "reptile_with_state": reptile("reptile_with_state"),
    "fine_tune": jax.grad(loss_of_all_classes),
    "varibad": jax.grad(policy_loss_and_bound),
    "maml_rl": jax.grad(outer_surrogate_with_terms),
    "bayesian_maml": jax.grad(chaser_loss),
    "llama": jax.grad(loss_and_diagonal_log_det),
    "llama_kronecker": jax.grad(loss_and_kronecker_log_det),
}
"""Of every learner with a training episode of its own: `(meta_params, task, key) -> grads`."""


def in_double(tree):
    """Floating-point numbers of single precision, in double precision: what rounds them again changes nothing."""
    is_floating = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)
    return jax.tree.map(lambda leaf: leaf.astype("float32").astype("float64") if is_floating(leaf) else leaf, tree)


def setting(name, key):
    """Meta-parameters away from zeros, a task in a young training, and a key."""
    entry = LEARNERS[name]
    task = in_double(entry.sample(key))._replace(progress=jnp.float64(0.025))
    start, unravel = ravel_pytree(in_double(entry.learner.init(jax.random.key(1), task)))
    return unravel(start + 0.1 * jax.random.uniform(jax.random.key(2), start.shape)), task, jax.random.key(3)


def test_every_training_episode_has_its_objective_written_out():
    assert {name for name, entry in LEARNERS.items() if entry.learner.episode is not None} == set(OBJECTIVE_GRADIENTS)


@pytest.mark.parametrize("name", OBJECTIVE_GRADIENTS)
def test_the_training_gradient_is_that_of_the_written_out_objective(float64, name, key):
    learner, loss_fn, *_ = LEARNERS[name]
    got, _ = jax.jit(jax.grad(jmeta.episode(learner, loss_fn), has_aux=True))(*setting(name, key))
    expected = jax.jit(OBJECTIVE_GRADIENTS[name])(*setting(name, key))
    scale = float(jnp.abs(ravel_pytree(expected)[0]).max())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10 * scale), got, expected)


@pytest.mark.parametrize("name", [name for name, entry in LEARNERS.items() if entry.learner.episode is None])
def test_without_one_of_its_own_a_learner_is_trained_to_adapt_predict_and_be_judged(float64, name, key):
    """By the same program, hence with the same gradient."""
    learner, loss_fn, *_ = LEARNERS[name]

    def adapt_predict_judge(meta_params, task, key):
        key_adapt, key_predict = jax.random.split(key)
        adapted = learner.adapt(meta_params, task.support, key_adapt)
        return loss_fn(learner.predict(meta_params, adapted, task.query.x, key_predict), task.query)

    def program(episode_fn):
        return re.sub(r" at 0x\w+", "", str(jax.make_jaxpr(episode_fn)(*setting(name, key))))

    assert program(jmeta.episode(learner, loss_fn)) == program(adapt_predict_judge)

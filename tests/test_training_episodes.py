"""Every learner is trained by its method's own objective, written out here, or by the plain episode if it has none."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jmeta
from jmeta.domains.rl import policies
from jmeta.learners.autoregressive import random_ranks

from .registry import (
    CLASSIFY,
    LEARNERS,
    SCALE,
    bandit,
    decoder,
    embedding,
    encoder,
    inference,
    latents,
    network,
    normal_network,
    policy,
)


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


def log_density(name, params, batch):
    """Of all targets of a batch."""
    if LEARNERS[name].loss_fn is CLASSIFY:
        return -len(batch.y) * loss_of_network(params, batch)
    return jax.scipy.stats.norm.logpdf(batch.y, normal_network.apply(params, batch.x, None).loc, SCALE).sum()


def drawn(mean, log_scale, key):
    (mean, unravel), (log_scale, _) = ravel_pytree(mean), ravel_pytree(log_scale)
    return unravel(mean + jnp.exp(log_scale) * jax.random.normal(key, mean.shape))


def divergence(mean, log_scale, of_mean, of_log_scale):
    """KL of two trees of normal distributions."""
    m, s, n, t = (ravel_pytree(tree)[0] for tree in (mean, log_scale, of_mean, of_log_scale))
    return (t - s + (jnp.exp(2 * s) + (m - n) ** 2) / (2 * jnp.exp(2 * t)) - 0.5).sum()


def query_loss_and_divergence(name, lr):
    """−log p(query | φ) + KL(q ‖ p), as a mean over queries, for one φ that two steps reach from θ ~ q."""

    def objective(meta_params, task, key):
        _, _, key_particle, _ = jax.random.split(key, 4)
        gradient = lambda params, batch: jax.grad(lambda params: -log_density(name, params, batch) / len(batch.y))(
            params
        )
        mean, prior, inference = meta_params["params"], meta_params["prior"], meta_params["inference"]
        move = lambda log_lr, batch: jax.tree.map(
            lambda leaf, log_lr, grad: leaf - jnp.exp(log_lr) * grad, mean, log_lr, gradient(mean, batch)
        )
        q = move(inference["log_lr"], task.query), inference["log_scale"]
        params = drawn(*q, jax.random.split(key_particle, 3)[0])
        for _ in range(2):
            params = jax.tree.map(lambda leaf, grad: leaf - lr * grad, params, gradient(params, task.support))
        kl = divergence(*q, move(prior["log_lr"], task.support), prior["log_scale"])
        return (kl - log_density(name, params, task.query)) / len(task.query.y)

    return objective


def bound_of_support_and_query(name, lr, num_inner_samples, hyperprior_weight):
    """−E_q[log p(support, query | φ)] + KL(q ‖ p) − w log p(μ, σ), as a mean over examples, for q after two steps."""

    def objective(meta_params, task, key):
        prior = posterior = meta_params["params"], meta_params["log_scale"]
        key_descend, key_particles = jax.random.split(jax.random.split(key)[0])

        def bound(posterior, batches, keys):
            draws = jax.vmap(lambda key: drawn(*posterior, jax.random.split(key)[0]))(keys)
            fit = sum(jax.vmap(lambda params: log_density(name, params, batch))(draws).mean() for batch in batches)
            return divergence(*posterior, *prior) - fit

        def bound_of_support(posterior, key):
            return bound(posterior, [task.support], jax.random.split(key, num_inner_samples)) / len(task.support.y)

        for key_step in jax.random.split(key_descend, 2):
            grads = jax.grad(bound_of_support)(posterior, key_step)
            posterior = jax.tree.map(lambda leaf, grad: leaf - lr * grad, posterior, grads)
        means, log_scales = (ravel_pytree(tree)[0] for tree in prior)
        hyperprior = jax.scipy.stats.norm.logpdf(means).sum()  # and an exponential distribution of 1 / σ²
        hyperprior += (jnp.log(0.01) - 0.01 * jnp.exp(-2 * log_scales)).sum()
        total = (
            bound(posterior, [task.support, task.query], jax.random.split(key_particles, 2))
            - hyperprior_weight * hyperprior
        )
        return total / (len(task.support.y) + len(task.query.y))

    return objective


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
    """The query's −log N(y; f(x), σ²) + 0.05 log det (A ⊗ S + I) of both layers."""

    def loss(params, batch):
        return -jax.scipy.stats.norm.logpdf(batch.y, normal_network.apply(params, batch.x, None).loc, SCALE).mean()

    params = adapted_by_descent(loss, meta_params, task.support, 0.03)
    (hidden, head), x = (params["params"][name] for name in ("hidden_0", "head")), task.query.x
    after = jnp.tanh(x @ hidden["kernel"] + hidden["bias"][None])
    back = (1 - after**2) * head["kernel"].T / SCALE
    total = loss(params, task.query)
    for rows, slopes in ((x, back), (after, jnp.full((len(x), 1), 1 / SCALE))):
        rows = jnp.concatenate([rows, jnp.ones((len(x), 1))], 1)
        block = jnp.kron(rows.T @ rows / len(x), slopes.T @ slopes)
        total += 0.05 * jnp.linalg.slogdet(block + jnp.eye(len(block)))[1]
    return total


def latent_bound(params, task, key, num_samples, decode):
    """−ELBO / queries: the query's mean loss under q(z | support and query), and KL from q(z | support)."""
    *_, key_samples, _ = jax.random.split(key, 6)
    rows = jnp.concatenate([jnp.concatenate(batch[:2], 1) for batch in (task.support, task.query)])
    encoded, num_shots = encoder.apply(params["encoder"], rows, None), len(task.support.x)
    (p, p_std), (q, q_std) = (
        jax.tree.map(jnp.ravel, latents.apply(params["posterior"], points.mean(0, keepdims=True), None))
        for points in (encoded[:num_shots], encoded)
    )
    kl = (jnp.log(p_std / q_std) + (q_std**2 + (q - p) ** 2) / (2 * p_std**2) - 0.5).sum()
    total = kl
    for noise in jax.random.normal(key_samples, (num_samples, len(q))):
        normal = decode(q + q_std * noise)
        log_prob = -0.5 * ((task.query.y - normal.loc) / normal.scale) ** 2 - jnp.log(normal.scale)
        total -= (log_prob - 0.5 * jnp.log(2 * jnp.pi)).sum() / num_samples
    return total / len(task.query.x)


def bound_of_neural_process(meta_params, task, key):
    def decode(latent):
        return decoder.apply(meta_params["decoder"], jnp.stack([jnp.append(latent, x) for x in task.query.x]), None)

    return latent_bound(meta_params["latent"], task, key, 2, decode)


def bound_of_attentive_neural_process(meta_params, task, key):
    """The same, with r(x) = Σ softmax(e(x) · e(xᵢ) / √4)ᵢ h(xᵢ, yᵢ) beside z."""
    keys, queries = (encoder.apply(meta_params["embedding"], batch.x, None) for batch in (task.support, task.query))
    values = encoder.apply(meta_params["encoder"], jnp.concatenate(task.support[:2], 1), None)
    attended = jax.nn.softmax(queries @ keys.T / 2) @ values

    def decode(latent):
        rows = [jnp.concatenate([latent, r, x]) for r, x in zip(attended, task.query.x, strict=True)]
        return decoder.apply(meta_params["decoder"], jnp.stack(rows), None)

    return latent_bound(meta_params["latent"], task, jax.random.split(key, 3)[2], 1, decode)


def kernel_matrix(logs, features):
    """Covariances of noisy targets under an RBF kernel on features."""
    squares = ((features[:, None] - features[None]) ** 2).sum(-1)
    variance, noise = (
        jnp.exp(2 * logs["log_scale"]),
        jnp.exp(2 * logs["log_noise"]) + 1e-4 * jnp.exp(2 * logs["log_scale"]),
    )
    return variance * jnp.exp(-squares / 2 / jnp.exp(2 * logs["log_length_scale"])) + noise * jnp.eye(len(features))


def negative_log_density(covariance, away):
    """Of a multivariate normal distribution."""
    return (away @ jnp.linalg.solve(covariance, away) + jnp.linalg.slogdet(2 * jnp.pi * covariance)[1]) / 2


def marginal_likelihood(meta_params, task, key):
    """−log p(y | x) of support and query, over their number."""
    x, y = (jnp.concatenate(pair) for pair in zip(task.support[:2], task.query[:2], strict=True))
    covariance = kernel_matrix(meta_params["logs"], embedding.apply(meta_params["params"], x, None))
    return negative_log_density(covariance, y[:, 0] - meta_params["mean"][0]) / len(x)


def gradient_of_fitted_kernel(meta_params, task, key):
    """∂L/∂ψ − ∂L/∂θ (∂²T/∂θ²)⁻¹ ∂²T/∂θ∂ψ, L of the query given the support, T of the support and the prior."""
    logs = LEARNERS["adkf_ift"].learner.adapt(meta_params, task.support, key).process.logs
    (adapted, of_logs), (flat, unravel) = ravel_pytree(logs), ravel_pytree(meta_params)
    num_support = len(task.support.x)

    def density(theta, psi, x, y):
        covariance = kernel_matrix(of_logs(theta), embedding.apply(unravel(psi)["params"], x, None))
        return negative_log_density(covariance, y[:, 0] - unravel(psi)["mean"][0])

    def of_support(theta, psi):
        away = theta - ravel_pytree(unravel(psi)["logs"])[0]
        return (density(theta, psi, *task.support[:2]) + (away**2).sum() / 2 / 0.3**2) / num_support

    def of_query(theta, psi):
        both = [jnp.concatenate(pair) for pair in zip(task.support[:2], task.query[:2], strict=True)]
        return (density(theta, psi, *both) - density(theta, psi, *task.support[:2])) / len(task.query.x)

    hessian, mixed = jax.jacobian(jax.grad(of_support), (0, 1))(adapted, flat)
    along, direct = jax.grad(of_query, (0, 1))(adapted, flat)
    return unravel(direct - mixed.T @ jnp.linalg.solve(hessian, along))


def joint_density_token_by_token(meta_params, task, key):
    """−1/n Σᵢ log p(yᵢ | support, targets before it): a token's attention is a sum over lists of keys and values."""
    layers = [params for name, params in meta_params["transformer"].items() if name.startswith("block")]
    linear = lambda params, x: x @ params["kernel"] + params["bias"]

    def norm(params, x):
        return (x - x.mean()) / jnp.sqrt(x.var() + 1e-6) * params["scale"] + params["bias"]

    def token(x, y=None):
        hidden = linear(meta_params["x"], embedding.apply(meta_params["embedding"], x[None], None)[0])
        hidden = hidden if y is None else hidden + linear(meta_params["y"], y)
        return linear(meta_params["token"], jax.nn.gelu(hidden))

    def through(tokens, memory, is_remembered):
        """Outputs of tokens that see the memory and, if they are remembered, each other; and the memory after them."""
        after = []
        for block, seen in zip(layers, memory, strict=True):
            rows = [norm(block["norm_attention"], h) @ block["attention"]["kernel"] for h in tokens]
            seen = seen + [row[8:] for row in rows] if is_remembered else seen
            after.append(seen)
            for i, row in enumerate(rows):
                read = []
                for head in (slice(0, 4), slice(4, 8)):
                    weights = [jnp.exp(row[head] @ other[:8][head] / 2) for other in seen]
                    total = sum(weight * other[8:][head] for weight, other in zip(weights, seen, strict=True))
                    read.append(total / sum(weights))
                h = tokens[i] + linear(block["read"], jnp.concatenate(read))
                hidden = jax.nn.gelu(linear(block["hidden"], norm(block["norm_mlp"], h)))
                tokens = [*tokens[:i], h + linear(block["output"], hidden), *tokens[i + 1 :]]
        return tokens, after

    _, memory = through([meta_params["transformer"]["start"]], [[] for _ in layers], True)
    _, memory = through([token(x, y) for x, y in zip(*task.support[:2], strict=True)], memory, True)
    total = 0.0
    for i in jnp.argsort(random_ranks(jax.random.split(key, 4)[2], jnp.ones(len(task.query.y), bool))):
        (output,), _ = through([token(task.query.x[i])], memory, False)
        output = norm(meta_params["transformer"]["norm"], output)
        mean, raw = linear(meta_params["head"]["params"]["head"], output)
        scale = 1e-3 + jnp.log1p(jnp.exp(raw))
        total += jnp.log(scale) + 0.5 * jnp.log(2 * jnp.pi) + 0.5 * ((task.query.y[i, 0] - mean) / scale) ** 2
        _, memory = through([token(task.query.x[i], task.query.y[i])], memory, True)
    return total / len(task.query.y)


def mean_loss_of_members(meta_params, task, key):
    """Each member makes a step of its own."""
    del key

    def of_member(params):
        grads = jax.grad(loss_of_network)(params, task.support)
        return loss_of_network(jax.tree.map(lambda leaf, grad: leaf - 0.1 * grad, params, grads), task.query)

    first, second = (jax.tree.map(lambda leaf, i=i: leaf[i], meta_params) for i in range(2))
    return (of_member(first) + of_member(second)) / 2


def loss_and_terms_of_codes(meta_params, task, key):
    """The query's loss of drawn weights + 10⁻³ KL + 0.2 ‖z′ − z‖² + 10⁻³ ‖C − I‖², as means over entries."""
    key_infer, _ = jax.random.split(key)
    _, key_codes, key_descend, key_weights, _ = jax.random.split(key_infer, 5)
    embedded = embedding.apply(meta_params["embedding"], task.support.x, None)
    encoded = embedded @ meta_params["encoder"]
    relate = lambda one, other: functools.reduce(
        lambda hidden, matrix: jax.nn.relu(hidden) @ matrix,
        meta_params["relation"][1:],
        jnp.concatenate([one, other]) @ meta_params["relation"][0],
    )
    relations = jnp.stack([jnp.stack([relate(one, other) for other in encoded]).mean(0) for one in encoded])
    members = jax.nn.one_hot(task.support.y, 3)
    scale_of = lambda raw: 1e-3 + 0.999 * jnp.log(1 + jnp.exp(raw)) / jnp.log(2.0)
    mean, raw = jnp.split(members.T @ relations / members.sum(0)[:, None], 2, axis=1)
    normal = lambda key, mean, scale: mean + scale * jax.random.normal(key, mean.shape)

    def decoded(codes, key):
        mean, raw = jnp.split(codes @ meta_params["decoder"], 2, axis=1)
        return normal(key, mean, scale_of(raw) * jnp.sqrt(2 / (mean.shape[0] + mean.shape[1])))

    on_support = lambda weights: cross_entropy(embedded @ weights.T, task.support.y)
    start = codes = normal(key_codes, mean, scale_of(raw))
    for key_step in jax.random.split(key_descend, 2):
        slope = jax.grad(lambda codes, key=key_step: on_support(decoded(codes, key)))(codes)
        codes = codes - meta_params["lr"]["codes"][None] * slope
    weights = decoded(codes, key_weights)
    weights = weights - meta_params["lr"]["weights"][None] * jax.grad(on_support)(weights)
    rows = meta_params["decoder"] / jnp.sqrt((meta_params["decoder"] ** 2).sum(1, keepdims=True))
    loss = cross_entropy(embedding.apply(meta_params["embedding"], task.query.x, None) @ weights.T, task.query.y)
    kl = divergence(mean, jnp.log(scale_of(raw)), jnp.zeros_like(mean), jnp.zeros_like(mean)) / mean.size
    distance = ((jax.lax.stop_gradient(codes) - start) ** 2).mean()
    return loss + 1e-3 * kl + 0.2 * distance + 1e-3 * ((rows @ rows.T - jnp.eye(3)) ** 2).mean()


def loss_of_prototypes(meta_params, task, key):
    """Sets and rejections are made of logits, which are trained as ever."""
    del key
    support, query = (embedding.apply(meta_params["params"], batch.x, None) for batch in (task.support, task.query))
    members = jax.nn.one_hot(task.support.y, 3)
    prototypes = members.T @ support / members.sum(0)[:, None]
    squares = jnp.square(query[:, None] - prototypes[None]).sum(-1)
    return cross_entropy(-squares, task.query.y)


def loss_after_a_step_on_all_of_the_support(meta_params, task, key):
    """Nothing is held out of the support in training."""
    del key

    def loss(params, batch):
        return -normal_network.apply(params, batch.x, None).log_prob(batch.y).mean()

    grads = jax.grad(loss)(meta_params, task.support)
    return loss(jax.tree.map(lambda leaf, grad: leaf - 0.1 * grad, meta_params, grads), task.query)


OBJECTIVE_GRADIENTS = {
    "conformal": jax.grad(loss_of_prototypes),
    "rejecting": jax.grad(loss_of_prototypes),
    "split_conformal": jax.grad(loss_after_a_step_on_all_of_the_support),
    "leo": jax.grad(loss_and_terms_of_codes),
    "platipus": jax.grad(query_loss_and_divergence("platipus", 0.1)),
    "abml": jax.grad(bound_of_support_and_query("abml", 0.01, 2, 0.1)),
    "deep_ensemble": jax.grad(mean_loss_of_members),
    "maml_plus_plus": jax.grad(multi_step_loss),
    "imaml": implicit_gradient,
    "reptile": reptile("reptile"),
    "reptile_with_state": reptile("reptile_with_state"),
    "fine_tune": jax.grad(loss_of_all_classes),
    "neural_process": jax.grad(bound_of_neural_process),
    "attentive_neural_process_with_latents": jax.grad(bound_of_attentive_neural_process),
    "deep_kernel_transfer": jax.grad(marginal_likelihood),
    "adkf_ift": gradient_of_fitted_kernel,
    "varibad": jax.grad(policy_loss_and_bound),
    "maml_rl": jax.grad(outer_surrogate_with_terms),
    "bayesian_maml": jax.grad(chaser_loss),
    "llama": jax.grad(loss_and_diagonal_log_det),
    "llama_kronecker": jax.grad(loss_and_kronecker_log_det),
    "transformer_neural_process": jax.grad(joint_density_token_by_token),
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

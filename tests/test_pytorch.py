"""Losses and meta-gradients against PyTorch: the same episodes, written with `torch.func`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import Batch, Task, adjoints, learners, losses, models

from .slow import slow

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'jmeta[peers]'")
functional = torch.nn.functional

pytestmark = [pytest.mark.peers, pytest.mark.optimized]  # compiled as users compile
NUM_WAYS, NUM_STEPS = 5, 3


def to_torch(tree):
    """Nested dictionaries of tensors, in one flat dictionary."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tensor(leaf) for path, leaf in leaves}


def tensor(leaf):
    array = np.array(leaf)
    return torch.from_numpy(array.astype(np.int64) if array.dtype == np.int32 else array)


def mlp(params, x):
    hidden = torch.tanh(x @ params["params/hidden_0/kernel"] + params["params/hidden_0/bias"])
    return hidden @ params["params/head/kernel"] + params["params/head/bias"]


def conv4(params, x):
    """Images `[examples, height, width, channels]`, as ours; convolution, batch norm, maximum, ReLU."""
    x = x.permute(0, 3, 1, 2)
    for i in range(4):
        x = functional.conv2d(x, params[f"params/conv_{i}/kernel"].permute(3, 2, 0, 1), padding="same")
        scale, bias = params[f"params/norm_{i}/scale"], params[f"params/norm_{i}/bias"]
        x = functional.batch_norm(x, None, None, scale, bias, training=True, eps=1e-3)
        x = torch.relu(functional.max_pool2d(x, 2))
    features = x.flatten(1)
    if "params/head/kernel" not in params:
        return features
    return features @ params["params/head/kernel"] + params["params/head/bias"]


def squared_error(outputs, y):
    return ((outputs - y) ** 2).mean()


def gradient_descent(lr):
    return lambda state, grads: (state, {name: -lr * grad for name, grad in grads.items()})


def momentum(lr, decay):
    def update(velocity, grads):
        velocity = {name: grad + decay * velocity.get(name, 0.0) for name, grad in grads.items()}
        return velocity, {name: -lr * leaf for name, leaf in velocity.items()}

    return update


def adam(lr, eps_root, decays=(0.9, 0.999)):
    def update(state, grads):
        count = state.get("count", 0) + 1
        first, second = state.get("first", {}), state.get("second", {})
        first = {name: decays[0] * first.get(name, 0.0) + (1 - decays[0]) * g for name, g in grads.items()}
        second = {name: decays[1] * second.get(name, 0.0) + (1 - decays[1]) * g**2 for name, g in grads.items()}
        unbiased = lambda moments, decay: {name: leaf / (1 - decay**count) for name, leaf in moments.items()}
        means, squares = unbiased(first, decays[0]), unbiased(second, decays[1])
        steps = {name: -lr * means[name] / (torch.sqrt(squares[name] + eps_root) + 1e-8) for name in grads}
        return {"count": count, "first": first, "second": second}, steps

    return update


def maml(forward, loss_fn, update, *, is_first_order=False):
    """The mean loss over stacked tasks after some inner steps."""

    def of_task(params, support_x, support_y, query_x, query_y):
        state, loss = {}, lambda params: loss_fn(forward(params, support_x), support_y)
        for _ in range(NUM_STEPS):
            grads = torch.func.grad(loss)(params)
            if is_first_order:
                grads = {name: grad.detach() for name, grad in grads.items()}
            state, steps = update(state, grads)
            params = {name: leaf + steps[name] for name, leaf in params.items()}
        return loss_fn(forward(params, query_x), query_y)

    return of_task


def protonet(params, support_x, support_y, query_x, query_y):
    params = {name.removeprefix("params/"): leaf for name, leaf in params.items()}
    embedded, queries = conv4(params, support_x), conv4(params, query_x)
    prototypes = torch.stack([embedded[support_y == way].mean(0) for way in range(NUM_WAYS)])
    squared = ((queries[:, None] - prototypes[None]) ** 2).sum(-1)
    return functional.cross_entropy(-squared, query_y)


def in_torch(of_task, meta_params, tasks):
    """Loss and meta-gradient, averaged over tasks one by one."""
    params, num_tasks = to_torch(meta_params), tasks.support.y.shape[0]
    arrays = [tensor(leaf) for leaf in (tasks.support.x, tasks.support.y, tasks.query.x, tasks.query.y)]

    def mean_loss(params):
        return torch.stack([of_task(params, *(array[i] for array in arrays)) for i in range(num_tasks)]).mean()

    grads, loss = torch.func.grad_and_value(mean_loss)(params)
    return float(loss), {name: grad.numpy() for name, grad in grads.items()}


def regression_tasks(key, num_tasks=4):
    def task(key):
        key_weights, *keys = jax.random.split(key, 3)
        weights = jax.random.normal(key_weights, (3, 1))
        batches = [jax.random.normal(key, (10, 3)) for key in keys]
        return Task(*(Batch(x, jnp.sin(x @ weights)) for x in batches))

    return jax.vmap(task)(jax.random.split(key, num_tasks))


def image_tasks(key, num_tasks=2):
    """28x28 noise around a pattern for each way, 1 shot and 3 queries."""

    def task(key):
        key_patterns, *keys = jax.random.split(key, 3)
        patterns = jax.random.uniform(key_patterns, (NUM_WAYS, 28, 28, 1))

        def batch(key, shots):
            y = jnp.tile(jnp.arange(NUM_WAYS), shots)
            return Batch(patterns[y] + 0.3 * jax.random.normal(key, (len(y), 28, 28, 1)), y)

        return Task(batch(keys[0], 1), batch(keys[1], 3))

    return jax.vmap(task)(jax.random.split(key, num_tasks))


def assert_same(learner, loss_fn, of_task, tasks, *, tolerance=1e-5):
    meta_params = learner.init(jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], tasks))
    grad_fn = jmeta.over_tasks(jax.value_and_grad(jmeta.episode(learner, loss_fn), has_aux=True))
    (loss, _), grads = jax.jit(grad_fn)(meta_params, tasks, jax.random.key(1))
    expected_loss, expected = in_torch(of_task, meta_params, tasks)
    np.testing.assert_allclose(loss, expected_loss, rtol=tolerance)
    grads = {name: leaf.numpy() for name, leaf in to_torch(grads).items()}
    assert grads.keys() == expected.keys()
    difference = optax.tree.norm(jax.tree.map(np.subtract, grads, expected))
    assert difference / optax.tree.norm(expected) < tolerance


OPTIMIZERS = {
    "sgd": (optax.sgd(0.1), gradient_descent(0.1)),
    "momentum": (optax.sgd(0.1, momentum=0.9), momentum(0.1, 0.9)),
    # with a small eps_root, the second derivative of the root at gradients near zero takes digits from float32
    "adam": (optax.adam(0.02, eps_root=1e-3), adam(0.02, 1e-3)),
}


@pytest.mark.parametrize("adjoint", ["unrolled", "rematerialized", "mixed_mode", "first_order"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_maml_on_regression(optimizer, adjoint):
    ours, theirs = OPTIMIZERS[optimizer]
    model = models.mlp([16, 1], activation=jnp.tanh)
    learner = learners.maml(
        model, losses.squared_error, ours, num_steps=NUM_STEPS, adjoint=getattr(adjoints, adjoint)()
    )
    of_task = maml(mlp, squared_error, theirs, is_first_order=adjoint == "first_order")
    assert_same(learner, losses.squared_error, of_task, regression_tasks(jax.random.key(2)))


@pytest.mark.parametrize("adjoint", ["unrolled", *slow("mixed_mode", "first_order")])
def test_maml_with_convolutions_batch_norm_and_pooling(adjoint):
    learner = learners.maml(
        models.conv4(NUM_WAYS, num_filters=16),
        losses.cross_entropy,
        optax.sgd(0.1),
        num_steps=NUM_STEPS,
        adjoint=getattr(adjoints, adjoint)(),
    )
    of_task = maml(conv4, functional.cross_entropy, gradient_descent(0.1), is_first_order=adjoint == "first_order")
    assert_same(learner, losses.cross_entropy, of_task, image_tasks(jax.random.key(2)))


def test_prototypical_networks():
    learner = learners.protonet(models.conv4(None, num_filters=16), num_ways=NUM_WAYS)
    assert_same(learner, losses.cross_entropy, protonet, image_tasks(jax.random.key(2)))

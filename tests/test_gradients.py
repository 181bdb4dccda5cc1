"""One meta-gradient by every route: the matrix of learners, adjoints, estimators and inner optimizers, in float64."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import adaptation, adjoints, learners
from jmeta.optimizers import safe_at_zero

from . import gradient_matrix as matrix
from .networks import regression_task, smooth_mlp

COVER = matrix.pairwise_cover(matrix.all_cases(), seed=0)


@pytest.mark.parametrize("case", COVER, ids=str)
def test_a_meta_gradient_is_of_the_kind_that_the_documentation_says(float64, case):
    """Exact ones agree to 1e-9 with reverse mode through the unrolled loop; what has no meaning is refused."""
    kind = matrix.kind(*case[:3])
    if kind == "refused":
        with pytest.raises(ValueError, match=matrix.refusal(*case[:3])):
            matrix.gradient(case)
        return
    grads, exact = matrix.gradient(case), matrix.reference(case.learner, case.optimizer)
    error, cosine = matrix.relative_error(grads, exact), matrix.cosine(grads, exact)
    assert np.isfinite(error)
    if kind == "exact":
        assert error < 1e-9
    elif kind == "noisy":
        assert 0.5 < cosine < 1
    elif kind == "biased":
        assert 1e-6 < error < 2


def test_the_cover_shows_every_pair():
    def pairs(cases):
        return {((i, case[i]), (j, case[j])) for case in cases for i in range(4) for j in range(i + 1, 4)}

    assert pairs(COVER) == pairs(matrix.all_cases())
    assert len(COVER) < len(matrix.all_cases()) / 4


@pytest.mark.parametrize("optimizer", matrix.OPTIMIZERS)
def test_the_reference_is_the_central_difference(float64, optimizer):
    """Along three random directions, for every inner optimizer."""
    episode_fn, meta_params, task, key = matrix.setting(matrix.Case("maml", "unrolled", "reverse", optimizer))
    grads = matrix.reference("maml", optimizer)
    loss = jax.jit(lambda params: episode_fn(params, task, key)[0])
    for key_direction in jax.random.split(jax.random.key(7), 3):
        direction = optax.tree.random_like(key_direction, meta_params)
        step = 1e-5
        ends = [loss(optax.tree.add_scale(meta_params, scale, direction)) for scale in (step, -step)]
        np.testing.assert_allclose((ends[0] - ends[1]) / (2 * step), optax.tree.vdot(grads, direction), rtol=1e-6)


@pytest.mark.parametrize("name", ["first_order", "truncated, last step"])
def test_the_bias_grows_with_the_number_of_inner_steps(float64, name, capsys):
    measured = matrix.bias(matrix.ADJOINTS[name], (1, 2, 5, 10))
    with capsys.disabled():
        for num_steps, (error, cosine) in measured.items():
            print(f"\n  {name}, {num_steps} inner steps: error {error:.1e}, cosine {cosine:.4f}", end="")
    errors = [error for error, _ in measured.values()]
    assert errors == sorted(errors)
    assert errors[0] < 1e-12 if name == "truncated, last step" else errors[0] > 1e-3
    assert all(cosine > 0.5 for _, cosine in measured.values())


def test_truncation_goes_from_first_order_to_exact(float64):
    errors = [matrix.bias(adjoints.truncated(last), (6,))[6][0] for last in range(7)]
    assert errors[-1] < 1e-12
    assert errors[0] == matrix.bias(adjoints.first_order(), (6,))[6][0]
    assert errors == sorted(errors, reverse=True)


def test_the_tables_of_the_documentation_are_those_of_the_tests():
    page = matrix.PAGE.read_text()
    assert matrix.tables_of_kinds() in page, "run `python -m tests.gradient_matrix`"


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "lamb", "clipped"])
def test_safe_optimizers_have_finite_derivatives_at_zero_gradient(key, optimizer):
    """An input that is always zero: plain Adam, RMSProp, LAMB and global-norm clipping give NaN."""
    unsafe = {
        "adam": optax.adam(0.1),
        "rmsprop": optax.rmsprop(0.1, eps=1e-8, eps_in_sqrt=False),
        "lamb": optax.lamb(0.1),
        "clipped": optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1)),
    }[optimizer]
    task = regression_task(key)
    task = jax.tree.map(lambda leaf: 0.0 * leaf, task) if optimizer == "clipped" else blackened(task)

    def gradient(inner):
        learner = learners.maml(smooth_mlp(), matrix.LOSS, inner, num_steps=2)
        meta_params = learner.init(jax.random.key(1), task)
        return jax.jit(jax.grad(jmeta.episode(learner, matrix.LOSS), has_aux=True))(meta_params, task, key)[0]

    assert not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient(unsafe)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient(safe_at_zero(unsafe))))


def blackened(task):
    """The first of the features is zero in every example."""
    black = lambda batch: batch._replace(x=batch.x.at[:, 0].set(0.0))
    return task._replace(support=black(task.support), query=black(task.query))


@pytest.mark.parametrize("name", ["adam", "lamb"])
def test_a_safe_optimizer_is_the_same_optimizer_where_gradients_are_not_zero(float64, name):
    """And its meta-gradient that of the plain one."""
    plain = {"adam": optax.adam(0.1), "lamb": optax.lamb(0.1)}[name]
    task = regression_task(jax.random.key(3))

    def adapted_and_gradient(inner):
        learner = learners.maml(smooth_mlp(), matrix.LOSS, inner, num_steps=2)
        start = learner.init(jax.random.key(1), task)
        start = optax.tree.add_scale(start, 0.1, optax.tree.random_like(jax.random.key(4), start))
        grad_fn = jax.jit(jax.grad(jmeta.episode(learner, matrix.LOSS), has_aux=True))
        grads, _ = grad_fn(start, task, jax.random.key(0))
        return jax.jit(learner.adapt)(start, task.support, jax.random.key(0)), grads

    expected, got = adapted_and_gradient(plain), adapted_and_gradient(safe_at_zero(plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), got, expected)


def test_a_safe_optimizer_takes_the_steps_of_the_plain_one_at_zero_too():
    """LAMB scales every step of a leaf to the leaf's norm: one that is not zero would be a large one."""
    params = {"dead": jnp.ones(3), "half": jnp.ones(2)}
    gradient = {"dead": jnp.zeros(3), "half": jnp.array([0.0, 0.5])}
    for plain in (optax.lamb(0.1), optax.adam(0.1), optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1))):
        results = [each.update(gradient, each.init(params), params) for each in (plain, safe_at_zero(plain))]
        jax.tree.map(np.testing.assert_array_equal, *results)


def test_an_inner_optimizer_may_look_at_the_loss(float64):
    """And a meta-gradient flows through what it makes of it."""

    def update(grads, state, params=None, *, value, **extra_args):
        return optax.tree.scale(-0.1 * value, grads), state

    step_size = optax.GradientTransformationExtraArgs(lambda params: (), update)
    objective = lambda params, context, step, key: (0.5 * params**2, {})
    for adjoint in (adjoints.unrolled(), adjoints.mixed_mode()):
        loop = adaptation.descend(objective, safe_at_zero(step_size), num_steps=1, adjoint=adjoint)
        end, slope = jax.value_and_grad(lambda start: loop(start, None, jax.random.key(0))[0])(2.0)
        np.testing.assert_allclose(end, 2 - 0.1 * 0.5 * 2**3)
        np.testing.assert_allclose(slope, 1 - 0.1 * 0.5 * 3 * 2**2)


@pytest.mark.parametrize("adjoint", [adjoints.mixed_mode(), adjoints.implicit()], ids=["mixed_mode", "implicit"])
def test_an_objective_may_have_a_derivative_rule_of_its_own(float64, adjoint):
    """Such as a fused kernel's: forward mode goes through its gradient, not through it."""

    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, bar: (2 * x * bar,))
    objective = lambda params, context, step, key: (square(params) + (params - context) ** 2, {})
    loop = adaptation.descend(objective, optax.sgd(0.2), num_steps=50, adjoint=adjoint)
    slope = jax.grad(lambda context: loop(0.5, context, jax.random.key(0))[0])(1.0)
    np.testing.assert_allclose(slope, 0.5, rtol=1e-6)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.adam(0.1, eps_root=1e-8)], ids=["sgd", "adam"])
def test_blocks_of_mixed_mode_compute_a_step_once_more_and_not_twice(optimizer):
    """Products of matrices in the program: forwards, again in a block, and in the derivative along a direction."""
    model = smooth_mlp()
    task = regression_task(jax.random.key(0))

    def num_products(adjoint):
        learner = learners.maml(model, matrix.LOSS, optimizer, num_steps=4, adjoint=adjoint)
        params = learner.init(jax.random.key(1), task)
        grad_fn = jax.grad(jmeta.episode(learner, matrix.LOSS), has_aux=True)
        return str(jax.make_jaxpr(grad_fn)(params, task, jax.random.key(2))).count("dot_general")

    plain, in_blocks = num_products(adjoints.mixed_mode()), num_products(adjoints.mixed_mode(block_size=2))
    loss = lambda params: matrix.LOSS(model.apply(params, task.support.x, None), task.support)[0]
    start = model.init(jax.random.key(1), task.support.x)
    of_a_gradient = str(jax.make_jaxpr(jax.grad(loss))(start)).count("dot_general")
    assert plain < in_blocks <= plain + of_a_gradient


def test_a_branch_that_radam_does_not_choose_has_no_part_in_its_derivative(float64):
    """In its third and fourth step RAdam takes the root of a negative number, and throws it away."""
    objective = lambda params, context, step, key: ((params - 1) ** 2, {})

    def loss(start, optimizer, num_steps):
        loop = adaptation.descend(objective, optimizer, num_steps=num_steps)
        return loop(start, None, jax.random.key(0))[0] ** 2

    plain, safe = optax.radam(0.1), safe_at_zero(optax.radam(0.1))
    assert np.isnan(jax.grad(loss)(0.3, plain, 3))
    for num_steps in (3, 8):
        np.testing.assert_allclose(loss(0.3, safe, num_steps), loss(0.3, plain, num_steps), rtol=1e-12)
        slope = (loss(0.3 + 1e-5, plain, num_steps) - loss(0.3 - 1e-5, plain, num_steps)) / 2e-5
        for gradient in (jax.grad(loss), jax.jit(jax.grad(loss), static_argnums=(1, 2)), jax.jacfwd(loss)):
            np.testing.assert_allclose(gradient(0.3, safe, num_steps), slope, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optax.sgd, "an inner optimizer must be an optax transformation, but it is a function; call it"),
        (lambda: optax.lookahead(optax.sgd(0.1), 5, 0.5), "an inner optimizer does not work on these parameters"),
        (optax.lbfgs, "an inner optimizer does not work on these parameters"),
    ],
    ids=["uncalled", "lookahead", "lbfgs"],
)
@pytest.mark.parametrize("name", ["maml", "imaml", "reptile"])
def test_what_cannot_be_an_inner_optimizer_is_refused_in_a_sentence(name, make, message, key):
    task, options = regression_task(key), {"num_steps": 2}

    def adapt():
        learner = inspect.unwrap(getattr(learners, name))(smooth_mlp(), matrix.LOSS, make(), **options)
        return learner.adapt(learner.init(key, task), task.support, key)

    with pytest.raises(ValueError, match=message):
        adapt()


def test_an_inner_loop_refuses_to_move_an_integer(key):
    loop = adaptation.descend(lambda params, *_: (params["w"] ** 2, {}), optax.sgd(0.1), num_steps=1)
    with pytest.raises(ValueError, match="an inner optimizer cannot move the parameter 'count' of dtype int32"):
        loop({"w": jnp.array(1.0), "count": jnp.array(1)}, None, key)

"""From a recipe's method to its learner, as it is trained and as it is tested, and to the episode that trains it."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import jmeta
from configs import parts
from jmeta import Learner, Task, adjoints, learners, models
from jmeta.types import EpisodeFn, LossFn, PyTree, RandomKey

from .networks import Network
from .sources import HostTasks, SampleBatch, Source


class Built(NamedTuple):
    """A method, ready to be trained and tested.

    Attributes:
      init: `key -> meta_params`.
      episode_fn: what a meta-step descends.
      tested: the learner, as it is tested.
      source: where its tasks come from; `meta_train` draws what `episode_fn` takes.
      make_learner: the learner with another number of inner steps; `None` if it has none.
      num_test_steps: inner steps that `tested` takes; `None` if it has none.
      training_names: what metrics of `episode_fn` are called that are not those that `tested` is judged by.
    """

    init: Callable[[RandomKey], PyTree]
    episode_fn: EpisodeFn
    tested: Learner
    source: Source
    make_learner: Callable[[int], Learner] | None = None
    num_test_steps: int | None = None
    training_names: Mapping[str, str] = MappingProxyType({})


def build_method(
    method: parts.Method, network: Network, loss_fn: LossFn, source: Source, *, is_classification: bool
) -> Built:
    """The method on this network and these tasks.

    Raises:
      ValueError: if they do not fit together.
    """
    if isinstance(method, parts.Comparing | parts.ProtoMaml | parts.FineTune) and not is_classification:
        raise ValueError(f"{type(method).__name__} tells classes apart, but these tasks are regression; choose others")
    match method:
        case parts.Protonet() | parts.Matching() | parts.Relation() | parts.Ridge():
            learner = _comparing(method, network, source.train_ways)
            tested = _comparing(method, network, source.test_ways)
            if isinstance(method, parts.Relation):
                episode_fn = jmeta.episode(learner, learners.relation_loss)
                return Built(_init(learner, source), episode_fn, tested, source, training_names={"loss": "objective"})
            return Built(_init(learner, source), jmeta.episode(learner, loss_fn), tested, source)
        case parts.FineTune():
            return _fine_tune(method, network, loss_fn, source)
        case parts.Reptile():
            return _reptile(method, network, loss_fn, source)
        case parts.Rl2() | parts.Varibad() | parts.MamlRl():
            raise ValueError(
                f"{type(method).__name__} acts in environments, and these data are examples; choose others"
            )
        case _:
            return _descending(method, network, loss_fn, source)


def _comparing(method: parts.Comparing, network: Network, num_ways: int) -> Learner:
    """Learners that compare embeddings, which any number of ways may be tested with."""
    embedding = network.embedding()
    match method:
        case parts.Protonet(distance):
            return learners.protonet(embedding, num_ways=num_ways, distance=distance)
        case parts.Matching(full_context, num_process_steps):
            return learners.matching(
                embedding, num_ways=num_ways, full_context=full_context, num_process_steps=num_process_steps
            )
        case parts.Relation(hidden):
            return learners.relation(embedding, models.mlp((*hidden, 1)), num_ways=num_ways)
        case parts.Ridge():
            return learners.ridge(embedding, num_ways=num_ways)


def _descending(method: parts.Descending, network: Network, loss_fn: LossFn, source: Source) -> Built:
    """Learners that adapt by gradient steps, which may be tested with another number of them."""
    _check_same_ways(source)
    num_ways = source.test_ways
    model, embedding, head = network.with_head(num_ways), network.embedding(), models.mlp([num_ways])

    def make(num_steps: int, *, is_trained: bool = False) -> Learner:
        match method:
            case parts.Maml(_, lr, _, adjoint):
                return learners.maml(model, loss_fn, optax.sgd(lr), num_steps=num_steps, adjoint=_adjoint(adjoint))
            case parts.Anil(_, lr, _, adjoint):
                inner = optax.sgd(lr)
                return learners.anil(embedding, head, loss_fn, inner, num_steps=num_steps, adjoint=_adjoint(adjoint))
            case parts.Boil(_, lr, _, adjoint):
                inner = optax.sgd(lr)
                return learners.boil(embedding, head, loss_fn, inner, num_steps=num_steps, adjoint=_adjoint(adjoint))
            case parts.Cavia(_, lr, num_context, _, adjoint):
                return learners.cavia(
                    network.with_head(num_ways, num_context=num_context),
                    loss_fn,
                    optax.sgd(lr),
                    num_steps=num_steps,
                    num_context=num_context,
                    adjoint=_adjoint(adjoint),
                )
            case parts.MetaSgd(_, lr, _, name):
                return learners.meta_sgd(model, loss_fn, num_steps=num_steps, initial_lr=lr, adjoint=_adjoint(name))
            case parts.MamlPlusPlus(_, lr, _, annealed_until, name):
                return learners.maml_plus_plus(
                    model,
                    loss_fn,
                    num_steps=num_steps,
                    initial_lr=lr,
                    annealed_until=annealed_until,
                    adjoint=_adjoint(name),
                )
            case parts.ProtoMaml(_, lr, _, name):
                return learners.proto_maml(
                    embedding,
                    loss_fn,
                    optax.sgd(lr),
                    num_ways=num_ways,
                    num_steps=num_steps,
                    adjoint=_adjoint(name),
                )
            case parts.Imaml(_, lr, weight, num_cg_steps):
                inner, adjoint = optax.sgd(lr), adjoints.unrolled()  # nobody differentiates the learner that is tested
                if is_trained:
                    adjoint = adjoints.implicit(adjoints.conjugate_gradient(num_steps=num_cg_steps))
                return learners.imaml(
                    model, loss_fn, inner, num_steps=num_steps, regularization=weight, adjoint=adjoint
                )

    learner = make(method.num_steps, is_trained=True)
    names = {"loss": "objective"} if isinstance(method, parts.MamlPlusPlus) else {}  # a weighted sum over steps
    test_steps = _num_test_steps(method, source)
    episode_fn = jmeta.episode(learner, loss_fn)
    return Built(_init(learner, source), episode_fn, make(test_steps), source, make, test_steps, names)


def _reptile(method: parts.Reptile, network: Network, loss_fn: LossFn, source: Source) -> Built:
    _check_same_ways(source)
    model, learns_state = network.with_head(source.test_ways), method.learns_optimizer_state
    warm = optax.rmsprop(method.inner_lr, decay=0.999, initial_scale=1e-4, eps_in_sqrt=False)
    inner = warm if learns_state else optax.adam(method.inner_lr, b1=0.0)

    def make(num_steps: int, batch_size: int = method.test_batch_size) -> Learner:
        return learners.reptile(
            model, loss_fn, inner, num_steps=num_steps, batch_size=batch_size, learns_optimizer_state=learns_state
        )

    learner = make(method.num_steps, method.batch_size)
    test_steps = _num_test_steps(method, source)
    episode_fn = jmeta.episode(learner, loss_fn)
    names = {"loss": "objective"}  # half the squared distance to where a task's training arrives
    return Built(_init(learner, source), episode_fn, make(test_steps), source, make, test_steps, names)


def _fine_tune(method: parts.FineTune, network: Network, loss_fn: LossFn, source: Source) -> Built:
    """Trained on batches of all classes, each the support and the query of one task; tested on real tasks."""
    if source.supervised is None:
        raise ValueError(
            "FineTune trains on all classes of meta_train at once, which these data do not offer: use images that are "
            "drawn on the device (data.protocol, or a folder without data.host_fed)"
        )
    sample_batch, num_classes = source.supervised(method.batch_size)
    body, head, scale = network.embedding(), method.head, method.scale

    def make(num_steps: int) -> Learner:
        return learners.fine_tune(
            body,
            optax.adam(method.inner_lr, eps_root=1e-8),
            num_classes=num_classes,
            num_ways=source.test_ways,
            num_steps=num_steps,
            head=head,
            scale=scale,
        )

    learner = make(method.num_steps)
    episode_fn = jmeta.episode(learner, loss_fn)

    def sample(draw: SampleBatch, key: RandomKey) -> Task:
        batch = draw(key)
        return Task(batch, batch)

    trained_on = source._replace(meta_train=jax.tree_util.Partial(sample, sample_batch))
    names = {"loss": "objective", "accuracy": "accuracy_of_all_classes"}
    return Built(_init(learner, source), episode_fn, learner, trained_on, make, method.num_steps, names)


def _init(learner: Learner, source: Source) -> Callable[[RandomKey], PyTree]:
    """`key -> meta_params` for tasks of the source's shapes, which is all that a learner's `init` looks at."""
    return jax.jit(lambda key: learner.init(key, _zeros_like_one(source)))


def _zeros_like_one(source: Source) -> Task:
    if isinstance(source.meta_train, HostTasks):
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), next(iter(source.meta_train.tasks)))
    shapes = jax.eval_shape(source.meta_train, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _adjoint(name: parts.AdjointName) -> adjoints.Adjoint:
    match name:
        case "unrolled":
            return adjoints.unrolled()
        case "rematerialized":
            return adjoints.rematerialized()
        case "rematerialized_but_products":
            return adjoints.rematerialized(jax.checkpoint_policies.dots_saveable)
        case "rematerialized_in_blocks":
            return adjoints.rematerialized(block_size="sqrt")
        case "mixed_mode":
            return adjoints.mixed_mode()
        case "mixed_mode_in_blocks":
            return adjoints.mixed_mode(block_size="sqrt")
        case "first_order":
            return adjoints.first_order()


def _num_test_steps(method: parts.Descending | parts.Reptile, source: Source) -> int:
    """Those of the recipe, or else those of the protocol, or else as many as in training."""
    candidates = (method.num_test_steps, source.test_steps, method.num_steps)
    return next(steps for steps in candidates if steps is not None)


def _check_same_ways(source: Source) -> None:
    if source.train_ways != source.test_ways:
        raise ValueError(
            f"training tasks have {source.train_ways} ways and test tasks {source.test_ways}, but this method has an "
            "output for each way; let data.train_ways and testing.num_ways be the same"
        )

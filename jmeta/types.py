"""The vocabulary of jmeta: the few types that all other modules share.

Everything here is a `NamedTuple` (a pytree, so it crosses `jit`, `vmap` and `scan`) or the signature of a function;
there is no logic. Functions are written for **one task**; `jmeta.over_tasks` batches them.

Every `init` takes its random key first; every other function takes its key last. A key of `None` asks for
deterministic behaviour (no dropout), as evaluation does.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Bool, Float, Key

__all__ = [
    "PyTree",
    "RandomKey",
    "Aux",
    "Batch",
    "Task",
    "Model",
    "SequenceModel",
    "LossFn",
    "EpisodeFn",
    "Learner",
    "GradFn",
    "MetaTrainer",
    "ChunkMap",
]

PyTree = Any
RandomKey = Key[Array, ""]
Aux = dict[str, Any]  # named scalars that a loss or an episode reports with its value


class Batch(NamedTuple):
    """Some examples of one task.

    Attributes:
      x: inputs; a pytree whose leaves have the examples on their first axis.
      y: targets; likewise. For classification an int32 array of labels in `0..num_ways-1`.
      mask: `[examples]`, True for a real example and False for padding; `None` when all are real. Tasks of unequal size
        are padded to one shape and masked. A masked example changes no loss and no adapted state, but norm layers with
        statistics over examples include it, as zeros: for unequal tasks use a norm of single examples.
    """

    x: PyTree
    y: PyTree
    mask: Bool[Array, "examples"] | None = None


class Task(NamedTuple):
    """One draw from the task distribution.

    Attributes:
      support: the examples to adapt to.
      query: the examples to be evaluated on.
      progress: share of meta-training done, in [0, 1]; `None` where nothing depends on it. It is a leaf of the task, so
        that schedules (MAML++'s loss weights) need neither a second compilation nor a global counter.
    """

    support: Batch
    query: Batch
    progress: Float[Array, ""] | None = None


class Model(NamedTuple):
    """A network as a pair of pure functions, and a third one if its normalisation stores statistics.

    Attributes:
      init: `(key, x) -> params`, from a batch of inputs.
      apply: `(params, x, key | None) -> outputs`; `x` and `outputs` have the examples on their first axis.
      calibrate: `(params, x, key | None) -> (outputs, params)`: one pass in which every norm layer uses the statistics
        of `x` and stores them in the returned `params`, for later calls of `apply`. `None` if the model stores no
        statistics.
    """

    init: Callable[[RandomKey, PyTree], PyTree]
    apply: Callable[[PyTree, PyTree, RandomKey | None], PyTree]
    calibrate: Callable[[PyTree, PyTree, RandomKey | None], tuple[PyTree, PyTree]] | None = None


class SequenceModel(NamedTuple):
    """A network with memory, as four pure functions: the memory is a value that is passed from call to call.

    Attributes:
      init: `(key, x) -> params`, from a sequence `[steps, features]`; only its shape and dtype matter.
      start: `params -> memory`, the memory before the first step.
      step: `(params, memory, x) -> (memory, output)`, one step of `[features]`.
      unroll: `(params, memory, x) -> (memory, outputs)`, the same over a sequence `[steps, features]`.
    """

    init: Callable[[RandomKey, Array], PyTree]
    start: Callable[[PyTree], PyTree]
    step: Callable[[PyTree, PyTree, Array], tuple[PyTree, Array]]
    unroll: Callable[[PyTree, PyTree, Array], tuple[PyTree, Array]]


LossFn = Callable[[PyTree, Batch], tuple[Array, Aux]]
"""`(outputs, batch) -> (loss, aux)`: the loss averaged over `batch.mask`, and scalars to report."""

EpisodeFn = Callable[[PyTree, PyTree, RandomKey], tuple[Array, Aux]]
"""`(meta_params, task, key) -> (loss, aux)`: adapt to a task and evaluate on it."""


class Learner(NamedTuple):
    """A way to learn from a few examples: three pure functions, and a fourth where training needs more than those.

    `adapt` returns whatever the method infers from a task: fast weights (MAML), prototypes, ridge weights, a recurrent
    state. Adapt once, predict often.

    Attributes:
      init: `(key, task) -> meta_params`; only the shapes and dtypes of `task` matter.
      adapt: `(meta_params, support, key) -> adapted`; it never sees the query.
      predict: `(meta_params, adapted, x, key | None) -> outputs`, one output for each example of `x`.
      episode: `loss_fn -> episode_fn`, the method's own meta-training objective; `None` for `jmeta.plain_episode`. Call
        `jmeta.episode(learner, loss_fn)`, which chooses between the two. The field closes over the method's own
        functions, so a wrapper that replaces `adapt` or `predict` has to decide whether to keep it.
    """

    init: Callable[[RandomKey, Task], PyTree]
    adapt: Callable[[PyTree, Batch, RandomKey], PyTree]
    predict: Callable[[PyTree, PyTree, PyTree, RandomKey | None], PyTree]
    episode: Callable[[LossFn], EpisodeFn] | None = None


GradFn = Callable[[PyTree, PyTree, RandomKey], tuple[tuple[Array, Aux], PyTree]]
"""`(meta_params, task, key) -> ((loss, aux), grads)`, as `jax.value_and_grad(episode_fn, has_aux=True)` returns."""


class MetaTrainer(NamedTuple):
    """Meta-optimisation as a pair of pure functions.

    Attributes:
      init: `meta_params -> state`.
      update: `(state, tasks, key) -> (state, aux)`, one meta-step on stacked tasks.
      share: `sharing -> MetaTrainer`, the same trainer on tasks that devices share, built of what a
        `jmeta.sharding.Sharing` makes of its functions of stacked tasks; `None` if it computes on one device only. Call
        `sharing.trainer(trainer)`, which keeps the state in its place, too.
    """

    init: Callable[[PyTree], PyTree]
    update: Callable[[PyTree, PyTree, RandomKey], tuple[PyTree, Aux]]
    share: "Callable[[Any], MetaTrainer] | None" = None


class ChunkMap(NamedTuple):
    """How an evaluation computes chunks of tasks: one after another, unless `jmeta.sharding` has devices share them.

    Attributes:
      map: `fn -> run`. From `fn(meta_params, tasks, keys)`, on the stacked tasks of one chunk, it makes
        `run(meta_params, sample, keys_of, dispatch)`, which draws and computes all chunks of a dispatch.
        `keys_of(dispatch)` are `[chunks, tasks, 2]`, a key to draw each task and one to compute with it. Results have
        the tasks in the order of the keys.
      num_at_once: chunks that are computed at the same time; the chunks of a dispatch are a multiple.
      to_local: `tree -> tree`, the same arrays where a single device can compute with them.
    """

    map: Callable[[Callable[..., PyTree]], Callable[..., PyTree]]
    num_at_once: int
    to_local: Callable[[PyTree], PyTree]

"""How the meta-gradient of an episode is computed: functions `EpisodeFn -> GradFn`.

A `GradFn` has the signature of `jax.value_and_grad(episode_fn, has_aux=True)`, so plain reverse mode is the default and
needs no name of its own; `jmeta.over_tasks` and `jmeta.meta_trainer` take any other in its place.

| estimator | meta-gradient | requirement on the episode |
|---|---|---|
| `jax.value_and_grad(..., has_aux=True)` | exact | reverse mode |
| `forward_mode` | exact, one forward pass for each meta-parameter | forward mode: no `custom_vjp` inside |
| `evolution_strategies` | that of a smoothed loss, with noise | none: it is only evaluated |
| `score_function` | unbiased where the episode draws random numbers, with noise | `aux["log_prob"]` |
| `persistent_evolution_strategies` | that of a smoothed loss over a long inner loop, no truncation bias | an unroll |

An estimator returns gradients of floating-point leaves and refuses meta-parameters of any other kind.
"""

from .evolution import evolution_strategies
from .forward_mode import forward_mode
from .persistent_evolution import ParticlesState, PersistentEstimator, persistent_evolution_strategies
from .score_function import magic_box, score_function

__all__ = [
    "ParticlesState",
    "PersistentEstimator",
    "evolution_strategies",
    "forward_mode",
    "magic_box",
    "persistent_evolution_strategies",
    "score_function",
]

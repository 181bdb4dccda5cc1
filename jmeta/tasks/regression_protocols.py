"""Two published protocols of regression in one dimension, by which neural processes are compared.

*TNP*: Gaussian processes whose hyper-parameters are drawn. Learners train on one kernel and are tested on others, too:
there they are judged by how they take a wrong prior. *neuralprocesses*: processes with fixed hyper-parameters, a
sawtooth and a mixture of all; tests lie where training was, beyond it, or ask to extrapolate from the one to the other.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from jax.tree_util import Partial

from . import kernels
from .gaussian_process import gaussian_process
from .kernels import Kernel
from .mixture import mixture
from .sawtooth import sawtooth
from .source import Source

__all__ = ["Process", "Region", "RegressionProtocol", "regression_protocol"]

Process = Literal[
    "tnp_rbf",
    "tnp_matern52",
    "tnp_periodic",
    "np_eq",
    "np_matern52",
    "np_weakly_periodic",
    "np_sawtooth",
    "np_mixture",
]
"""A process of one of the protocols: of TNP, or of the library neuralprocesses."""

Region = Literal["interpolation", "beyond", "extrapolation"]
"""Where test points lie: all where training points do, all beyond, or the queries beyond and the support not."""

_INSIDE, _BEYOND = (-2.0, 2.0), (2.0, 6.0)
_REGIONS = {
    "interpolation": (_INSIDE, _INSIDE),
    "beyond": (_BEYOND, _BEYOND),
    "extrapolation": (_INSIDE, _BEYOND),
}
_KERNELS: dict[str, Kernel] = {
    "tnp_rbf": kernels.rbf(length_scale=(0.1, 0.6), scale=(0.1, 1.0)),
    "tnp_matern52": kernels.matern52(length_scale=(0.1, 0.6), scale=(0.1, 1.0)),
    "tnp_periodic": kernels.periodic(period=(0.1, 0.5), length_scale=(0.1, 0.6), scale=(0.1, 1.0)),
    "np_eq": kernels.rbf(length_scale=0.25),
    "np_matern52": kernels.matern52(length_scale=0.25),
    "np_weakly_periodic": kernels.multiply(kernels.rbf(length_scale=0.5), kernels.periodic(period=0.25)),
}
_NAMES = {
    "tnp_rbf": "RBF",
    "tnp_matern52": "Matérn-5/2",
    "tnp_periodic": "periodic",
    "np_eq": "EQ",
    "np_matern52": "Matérn-5/2",
    "np_weakly_periodic": "weakly periodic",
    "np_sawtooth": "sawtooth",
    "np_mixture": "mixture",
}


class RegressionProtocol(NamedTuple):
    """The tasks of a protocol, and what an exact posterior needs to know of them.

    Attributes:
      source: the tasks of an experiment.
      noise: standard deviation of the noise.
      trained_kernel: covariance of the processes in training, for their exact posterior; `None` where they are not
        Gaussian, and where a quadrature of few nodes fails: the posterior of a drawn period has many narrow peaks.
      tested_kernel: covariance of the processes at test, likewise.
      is_joint: whether the query's targets are judged together.
    """

    source: Source
    noise: float
    trained_kernel: Kernel | None
    tested_kernel: Kernel | None
    is_joint: bool


def regression_protocol(
    trained_on: Process, *, tested_on: Process | None = None, region: Region = "interpolation", is_joint: bool = False
) -> RegressionProtocol:
    """Return the tasks of a protocol.

    | | TNP | neuralprocesses |
    |---|---|---|
    | shots | 3 to 46 | 0 to 30 |
    | queries | 3 to 46, as long as there are at most 49 points | 50 |
    | noise | standard deviation 0.02 | variance 0.05 |

    Args:
      trained_on: process of the tasks in training and validation.
      tested_on: process of the tasks at test, of the same protocol; that of training if not given.
      region: where the points of test tasks lie; those of training tasks are in [-2, 2], and beyond is [2, 6].
      is_joint: whether results are of the joint density of a query; only the protocol's name says so.

    Raises:
      ValueError: if a name is unknown, or the two processes are of different protocols.

    Example:
      >>> protocol = regression_protocol("tnp_rbf", tested_on="tnp_matern52")
      >>> protocol.source.describe(1000)
      'TNP regression/Matérn-5/2, 3 to 46 shots, 49 points at most, 1000 tasks'
      >>> regression_protocol("np_eq", region="beyond").source.describe(1000)
      'neuralprocesses regression/EQ, beyond, 0 to 30 shots, 50 queries, 1000 tasks'

    Reference:
      Nguyen, Grover, "Transformer Neural Processes", 2022, arXiv:2207.04179, and its code, where the numbers of points
      are the same for all tasks of a batch; here every task draws its own. Bruinsma et al., "Autoregressive Conditional
      Neural Processes", 2023, arXiv:2303.14468, and the library neuralprocesses.
    """
    tested_on = trained_on if tested_on is None else tested_on
    unknown = {trained_on, tested_on} - set(_NAMES)
    if unknown or region not in _REGIONS:
        raise ValueError(
            f"there is no process {trained_on!r} or {tested_on!r}, or no region {region!r}; processes: "
            f"{', '.join(_NAMES)}; regions: {', '.join(_REGIONS)}"
        )
    is_tnp = trained_on.startswith("tnp")
    if is_tnp != tested_on.startswith("tnp"):
        raise ValueError(f"{trained_on} and {tested_on} are of different protocols; test on one of the same protocol")
    noise = 0.02 if is_tnp else 0.05**0.5
    sizes: dict[str, Any] = (
        {"num_shots": (3, 46), "num_queries": (3, 46), "max_points": 49}
        if is_tnp
        else {"num_shots": (0, 30), "num_queries": 50}
    )
    trained = _sampler(trained_on, _REGIONS["interpolation"], **sizes, noise=noise)
    points = "3 to 46 shots, 49 points at most" if is_tnp else "0 to 30 shots, 50 queries"

    def described(process: Process, region: Region) -> Callable[[int], str]:
        words = [_NAMES[process], *([] if is_tnp and region == "interpolation" else [region])]
        words += ["joint density"] if is_joint else []
        prefix = "TNP" if is_tnp else "neuralprocesses"
        return lambda num_tasks: f"{prefix} regression/{', '.join(words)}, {points}, {num_tasks} tasks"

    source = Source(
        meta_train=lambda: trained,
        meta_valid=trained,
        meta_test=_sampler(tested_on, _REGIONS[region], **sizes, noise=noise),
        name=f"{_NAMES[tested_on]}, {region}",
        describe=described(tested_on, region),
        describe_valid=described(trained_on, "interpolation"),
    )
    known = {name: kernel for name, kernel in _KERNELS.items() if name != "tnp_periodic"}
    return RegressionProtocol(source, noise, known.get(trained_on), known.get(tested_on), is_joint)


def _sampler(process: str, region: tuple[tuple[float, float], tuple[float, float]], **sizes: Any) -> Partial:
    places = {"inputs": region[0], "query_inputs": region[1]}
    if process == "np_mixture":
        names = ("np_eq", "np_matern52", "np_weakly_periodic", "np_sawtooth")
        return mixture(*(_sampler(name, region, **sizes) for name in names))
    if process == "np_sawtooth":
        return sawtooth(**places, **sizes)
    return gaussian_process(_KERNELS[process], **places, **sizes)

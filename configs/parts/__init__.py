"""The pieces that recipes are composed of: plain typed values, of five kinds.

    data        which tasks to meta-train on             Sinusoid, Blobs, Images, Folder, Bandit, Robot, ...
    model       which network                            Mlp, Conv4, Resnet12, Recurrent, Transformer, Snail, Forgetful
    method      how to learn from a task                 Maml, Reptile, Protonet, Rl2, ...
    training    how long, how fast, what to watch        Training
    testing     which tasks to choose and judge by       Testing

`experiments.build` turns them into functions, and checks that they fit together.
"""

from typing import Protocol

from .acting import MamlRl as MamlRl
from .acting import Rl2 as Rl2
from .acting import Varibad as Varibad
from .data import Bandit as Bandit
from .data import Blobs as Blobs
from .data import Data as Data
from .data import Environments as Environments
from .data import Folder as Folder
from .data import Images as Images
from .data import Navigation as Navigation
from .data import ProtocolName as ProtocolName
from .data import Robot as Robot
from .data import Sinusoid as Sinusoid
from .data import TabularMdp as TabularMdp
from .data import TestedOn as TestedOn
from .learning import AdjointName as AdjointName
from .learning import Anil as Anil
from .learning import Boil as Boil
from .learning import Cavia as Cavia
from .learning import FineTune as FineTune
from .learning import Imaml as Imaml
from .learning import Maml as Maml
from .learning import MamlPlusPlus as MamlPlusPlus
from .learning import Matching as Matching
from .learning import MetaSgd as MetaSgd
from .learning import ProtoMaml as ProtoMaml
from .learning import Protonet as Protonet
from .learning import Relation as Relation
from .learning import Reptile as Reptile
from .learning import Ridge as Ridge
from .networks import Conv4 as Conv4
from .networks import Dtype as Dtype
from .networks import Forgetful as Forgetful
from .networks import Memory as Memory
from .networks import Mlp as Mlp
from .networks import Network as Network
from .networks import Recurrent as Recurrent
from .networks import Resnet12 as Resnet12
from .networks import Snail as Snail
from .networks import Transformer as Transformer
from .running import Testing as Testing
from .running import Training as Training

Acting = Rl2 | Varibad | MamlRl
"""Methods that act in environments."""
Descending = Maml | Anil | Boil | Cavia | MetaSgd | MamlPlusPlus | ProtoMaml | Imaml
"""Methods that adapt by gradient steps from a meta-learned start."""
Comparing = Protonet | Matching | Relation | Ridge
"""Methods that compare embeddings, for any number of ways."""
Method = Descending | Comparing | Reptile | FineTune | Acting


class Recipe(Protocol):
    """What every recipe has; its own class says which data, model and method these are."""

    @property
    def data(self) -> Data: ...
    @property
    def model(self) -> Network: ...
    @property
    def method(self) -> Method: ...
    @property
    def training(self) -> Training: ...
    @property
    def testing(self) -> Testing: ...

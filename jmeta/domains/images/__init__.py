"""Few-shot images: data sets by class, random distortions, and named protocols for drawing tasks.

A data set (`datasets`) provides images by class, split into meta_train, meta_valid and meta_test; a *protocol*
(`protocols`) defines how tasks are drawn from them, under a name that every reported number carries.
"""

from . import datasets, protocols
from .augment import distort
from .baselines import baselines
from .completion import completion
from .own_images import own_images

__all__ = ["datasets", "protocols", "completion", "distort", "own_images", "baselines"]

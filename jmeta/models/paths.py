"""What a parameter is for, told from its path: the predicates that learners choose leaves by.

A path is the leaf's place in the tree, written as `"params/norm_0/scale"` (see `jmeta.adaptation.path_name`).
"""


def is_statistic(path: str) -> bool:
    """Whether a leaf is a stored statistic of a norm layer, which no gradient step should change.

    Example:
      >>> is_statistic("stats/norm_0/mean"), is_statistic("params/norm_0/scale")
      (True, False)
    """
    return any(word in ("stats", "batch_stats") for word in path.split("/"))


def is_norm(path: str) -> bool:
    """Whether a leaf is a learned scale or bias of a norm layer.

    Example:
      >>> is_norm("params/norm_0/scale"), is_norm("params/BatchNorm_1/bias"), is_norm("params/conv_0/bias")
      (True, True, False)
    """
    return not is_statistic(path) and any("norm" in word.lower() for word in path.split("/"))


def is_head(path: str) -> bool:
    """Whether a leaf belongs to the last, linear layer.

    Example:
      >>> is_head("params/head/kernel"), is_head("params/conv_0/kernel")
      (True, False)
    """
    return "head" in path.split("/")

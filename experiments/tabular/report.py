"""What came out, as a table in Markdown."""

from typing import Any

import numpy as np

from jmeta.evaluation import Estimate, estimate, paired_difference

__all__ = ["OURS", "FOREST", "table"]

OURS, FOREST = "prior-fitted", "random forest"


def table(record: dict[str, Any]) -> str:
    """Return the areas under the ROC curve of a record, in percent, in Markdown."""
    methods = list(record["tables"][0]["areas"])
    names = ["table", "rows, columns, classes", *methods, f"{OURS} − {FOREST}"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for is_bundled in (True, False):
        of_kind = [each for each in record["tables"] if each["is_bundled"] == is_bundled]
        for each in of_kind:
            sizes = f"{each['rows']}, {each['columns']}, {each['classes']}"
            lines.append(_line(each["name"], sizes, each["areas"]))
        if is_bundled:
            means = {name: np.mean([each["areas"][name] for each in of_kind], 0) for name in methods}
            lines.append(_line(f"**mean of these {len(of_kind)}**", "", means))
    return "\n".join(lines)


def _line(name: str, sizes: str, areas: dict[str, Any]) -> str:
    estimates = {method: estimate(100 * np.asarray(values)) for method, values in areas.items()}
    cells = map(_shown, [*estimates.values(), paired_difference(estimates[OURS], estimates[FOREST])])
    return f"| {' | '.join([name, sizes, *cells])} |"


def _shown(value: Estimate) -> str:
    return f"{value.mean:.1f} ± {value.half_width:.1f}"

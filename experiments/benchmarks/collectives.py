"""Bytes that a compiled program sends between devices, read from its text (`compiled.as_text()`, XLA's HLO).

    text ──► collective operations, and how often each runs ──► bytes that one device sends

An operation in the body of a loop counts once for each iteration; the compiler notes their number where it knows it.
Programs of accelerators may start and finish an exchange with two operations. These are refused, since their shapes
have another meaning.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(rf" ({'|'.join(KINDS)})(-start)?\(")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"\b(?:body|condition|calls|to_apply|true_computation|false_computation|branch_computations|called_computations)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Collective(NamedTuple):
    """An exchange between devices.

    Attributes:
      kind: one of `KINDS`.
      num_bytes: size of the result on one device.
      group: number of devices that exchange with each other.
      times: number of times that it happens in one run of the program.
      source: the JAX functions that it comes from, as far as the compiler has noted them.
    """

    kind: str
    num_bytes: int
    group: int
    times: int
    source: str

    @property
    def sent(self) -> float:
        """Bytes that one device sends in all, with the usual algorithms: around a ring, or to each other device.

        With N devices and results of B bytes: 2 (N-1)/N B for an all-reduce, (N-1)/N B for an all-gather or
        all-to-all, (N-1) B for a reduce-scatter, and B for a permutation.
        """
        others = (self.group - 1) / self.group
        factor = {
            "all-reduce": 2 * others,
            "all-gather": others,
            "all-to-all": others,
            "reduce-scatter": self.group - 1,
            "collective-permute": 1,
        }[self.kind]
        return self.times * factor * self.num_bytes


def collectives(text: str) -> list[Collective]:
    """Return the exchanges of a program, in the order of its text.

    Raises:
      ValueError: if one is in a loop whose length the compiler has not noted, or consists of two operations.
    """
    lines = dict(_computations(text))
    times = _how_often(text, lines)
    found = []
    for name, own in lines.items():
        for line in own:
            if match := _COLLECTIVE.search(line):
                if match[2]:
                    raise ValueError(f"cannot read an exchange that is started and finished separately: {line}")
                if name in times and times[name] is None:
                    raise ValueError(f"an exchange in a loop of unknown length: {line}")
                source = re.search(r'op_name="([^"]*)"', line)
                num_bytes = sum(
                    _num_bytes(*shape) for shape in _SHAPE.findall(line[: match.start()].split(" = ", 1)[1])
                )
                found.append(
                    Collective(
                        match[1], num_bytes, _group(line, text), times.get(name) or 0, source[1] if source else ""
                    )
                )
    return found


def total_sent(found: list[Collective]) -> float:
    """Return the bytes that one device sends in one run."""
    return sum(each.sent for each in found)


def _computations(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield `(name, lines)` of each computation."""
    name, lines = None, []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            name, lines = match[2], []
        elif line.startswith("}") and name is not None:
            yield name, lines
            name = None
        elif name is not None:
            lines.append(line.strip())


def _how_often(text: str, lines: dict[str, list[str]]) -> dict[str, int | None]:
    """Return how often each computation runs, by name; `None` if unknown."""
    entry = re.search(r"^ENTRY %?([\w.\-]+) ", text, re.MULTILINE)
    if entry is None:
        raise ValueError("this is not the text of a compiled program: it has no ENTRY")
    times: dict[str, int | None] = {}

    def visit(name: str, count: int | None) -> None:
        before = times.get(name, 0)
        times[name] = None if before is None or count is None else before + count
        for line in lines[name]:
            turns = _TURNS.search(line)
            for called in _CALLED.findall(line):
                factor = 1 if " while(" not in line else int(turns[1]) if turns else None
                for each in re.findall(r"[\w.\-]+", called):
                    visit(each, None if count is None or factor is None else count * factor)

    visit(entry[1], 1)
    return times


def _num_bytes(dtype: str, dimensions: str) -> int:
    digits = re.search(r"\d+", dtype)
    bits = int(digits[0]) if digits else 8  # f32, bf16, f8e4m3fn; pred
    return math.prod(int(size) for size in dimensions.split(",") if size) * bits // 8


def _group(line: str, text: str) -> int:
    """Return the number of devices that exchange with each other.

    Groups are listed, as in {{0,1},{2,3}}, where an empty list means all devices; or counted, as in [2,2]<=[4]; or
    given as axes of a mesh, as in mesh['a'=2,'b'=4], ... {'b'}.

    Raises:
      ValueError: if groups are written in another way.
    """
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(counted[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(listed[1].split(","))
    if along := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{((?:'\w+',? ?)+)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", along[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"\w+", along[2]))
    everywhere = re.search(r"num_partitions=(\d+)", text)
    if everywhere and ("replica_groups={}" in line or "source_target_pairs=" in line):
        return int(everywhere[1])
    raise ValueError(f"cannot read which devices exchange: {line}")

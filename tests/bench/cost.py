"""What captions cost at Google's list price, by the size of the instance."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from infra.cost import GIB_S, REQUEST, VCPU_S  # what is free each month is left out


@dataclass(frozen=True, slots=True)
class Size:
    """An instance: vCPUs and memory in GiB."""

    vcpus: float
    gib: float

    def __str__(self) -> str:
        return f"{self.gib:g} GiB, {self.vcpus:g} vCPU"


SIZES = (Size(0.333, 0.5), Size(1, 0.5), Size(1, 1), Size(1, 2))


def seconds(size: Size, warm: float, cpu: float) -> float:
    """Of one picture that takes `warm` s on one vCPU, and computes for `cpu` s of them."""
    return max(warm, warm - cpu + cpu / size.vcpus)


def per_thousand(size: Size, each: float) -> float:
    """US$ for 1,000 pictures of `each` s, of which every begun tenth is paid."""
    paid = ceil(each * 10) / 10
    return 1000 * (paid * (size.vcpus * VCPU_S + size.gib * GIB_S) + REQUEST)

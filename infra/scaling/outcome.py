"""What a run of the simulation showed."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean

import numpy as np


@dataclass(slots=True)
class Outcome:
    """Of the `seconds` between the settling of a run and its last upload.

    Latencies are from upload to done, also where that came later.
    """

    rate: float
    seconds: float
    uploads: int = 0
    refused: int = 0  # deliveries: no instance in time, 429
    failed: int = 0  # deliveries: the database
    described: int = 0
    finished: int = 0
    last_s: float = 0.0  # when the last picture was done
    worked_s: float = 0.0
    billed_s: float = 0.0
    starts: int = 0
    instances_peak: int = 0
    connections: int = 0
    database_vcpus_busy: float = 0.0
    latencies: list[float] = field(default_factory=list, repr=False)
    sampled_instances: list[int] = field(default_factory=list, repr=False)

    def done(self, now: float, arrived: float, described: bool) -> None:
        self.latencies.append(now - arrived)
        self.described += described
        self.last_s = now

    @property
    def throughput(self) -> float:
        """Pictures done a second."""
        return self.finished / self.seconds

    @property
    def left(self) -> int:
        """Uploads that were not done when the run ended."""
        return self.uploads - len(self.latencies)

    @property
    def keeps_up(self) -> bool:
        """Whether no backlog grows."""
        return self.left <= max(20, 0.01 * self.uploads)

    @property
    def mean_s(self) -> float:
        return fmean(self.latencies) if self.latencies else float("nan")

    def percentile(self, share: float) -> float:
        """Seconds within which this share of the uploads that were done was done."""
        return float(np.quantile(self.latencies, share)) if self.latencies else float("nan")

    @property
    def instances(self) -> float:
        """Mean number."""
        return fmean(self.sampled_instances) if self.sampled_instances else 0.0

"""What one observer's looks and the accounting prove about a job that the queue does not list.

An answer without permission (Slurm: ``PrivateData=jobs``, slurm.conf(5)) lists nothing and is no
error. So absence alone proves little: the observer must have seen this very job before, the
accounting must not say that it lives, and an answer that lists *nothing* of what was asked counts
only when it stays so for long: the observer may have lost its sight.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.values.jobs import JobState, JobStatus

CONFIRMING_LOOKS: Final = 3
CONFIRMING_TIME: Final = timedelta(seconds=30)
# Of an observer that sees nothing at all any more.
BLIND_CONFIRMING_TIME: Final = timedelta(minutes=15)
# How often the accounting is asked about an absent job: at first, and after a minute.
END_INTERVALS: Final = (timedelta(seconds=5), timedelta(seconds=60))
# Clocks of hub and cluster may differ by this much.
CLOCK_SKEW: Final = timedelta(minutes=10)
# A record says "running" for ever when its end was lost: not believed so long after its walltime.
STALE_RECORD: Final = timedelta(days=1)

_LIVE: Final = frozenset({JobState.PENDING, JobState.RUNNING, JobState.SUSPENDED, JobState.ENDING})


@dataclass(slots=True)
class Evidence:
    """What is remembered of one job; ``float`` times are those of a monotonic clock."""

    seen: bool
    submitted_after: datetime | None
    absent_looks: int = 0
    absent_since: float = 0.0
    blind: bool = False
    lives: bool = False
    accounting_asked: float = float("-inf")
    estimate: datetime | None = None

    def note_listed(self) -> None:
        """An answer listed the job."""
        self.seen = True
        self.absent_looks = 0
        self.blind = self.lives = False

    def note_absent(self, now: float) -> None:
        """An answer did not list the job."""
        if not self.absent_looks:
            self.absent_since = now
        self.absent_looks += 1

    def note_record(self, record: JobStatus | None) -> None:
        """The accounting answered; ``None`` when it knows nothing of this very job."""
        stale = (
            record is not None
            and record.ends_at is not None
            and datetime.now(UTC) - record.ends_at > STALE_RECORD
        )
        self.lives = record is not None and record.state in _LIVE and not stale

    def confirmed_missing(self, now: float) -> bool:
        """Tell whether "not listed" has become "not there"."""
        enough = BLIND_CONFIRMING_TIME if self.blind else CONFIRMING_TIME
        return (
            self.seen
            and not self.lives
            and self.absent_looks >= CONFIRMING_LOOKS
            and now - self.absent_since >= enough.total_seconds()
            and self.accounting_asked >= self.absent_since
        )

    def may_ask_accounting(self, now: float) -> bool:
        """Tell whether it is time to ask (again) how the job ended."""
        early = now - self.absent_since < END_INTERVALS[1].total_seconds()
        interval = END_INTERVALS[0] if early else END_INTERVALS[1]
        return now - self.accounting_asked >= interval.total_seconds()

    def is_of_this_job(self, record: JobStatus) -> bool:
        """Ids are used again after a cluster has lost its state: an older record is of another."""
        if self.submitted_after is None or record.submitted_at is None:
            return True
        return record.submitted_at >= self.submitted_after - CLOCK_SKEW

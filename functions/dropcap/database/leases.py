# ruff: noqa: S608  what is put into the SQL is this project's own; values are parameters
"""Claims: a lease on an upload, and the crashes of earlier holders.

Each stage sends a heartbeat that renews the lease. Holders release the lease on success and on transient
errors. If a lease expires in one of HEAVY_STAGES, which decode, caption or encode, its holder crashed, or
hung and was ended: the next holder adds that to `deaths`. In any other stage a holder waits for the database
or the network, so the picture is not the cause.

A holder that can't release its lease because the database is unreachable does so before its next claim
(repository.py). One case remains: an instance that hits an outage in a heavy stage, and claims no other
upload before its lease expires and another worker takes over, is counted as one death.

Each function works in the caller's transaction (transactions.py), through the `run` that it is given.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from dropcap import logs
from dropcap.domain.records import read
from dropcap.domain.upload import Upload
from dropcap.errors import Rejected, TransientError

Run = Callable[..., list[list[Any]]]

HEAVY_STAGES = ("open", "resize", "describe and caption", "publish")  # each may crash an instance
_HEAVY = ", ".join(f"'{stage}'" for stage in HEAVY_STAGES)
# For a row `u` whose lease has expired: whether its holder counts as crashed.
DIED = f"(u.holder IS NOT NULL AND u.stage IN ({_HEAVY}))"
# For the row of a posted picture: nobody works on it, and only a client that posts it again has its bytes.
ABANDONED = "(state = 'claimed' AND bucket = '' AND lease_until <= now())"


@dataclass(frozen=True, slots=True)
class Death:
    """The last that is known of a holder: the stage that it began, when (ISO 8601), and resident MB then."""

    stage: str
    at: str
    rss_mb: int

    def __str__(self) -> str:
        return f"{self.stage} ({self.rss_mb} MB, {self.at})"


@dataclass(frozen=True, slots=True)
class Claim:
    """How an upload stands. `state` is one of

    claimed     ours now, with `holder` as our token: process it; it was held before if it has a `reason`
    busy        another's, whose lease has not run out: come back later
    recorded    the result is stored: dispose of the source
    rejected    the rejection is stored, with its `reason`: dispose of the source
    held        without a verdict on its safety, for the `reason`: leave the source; see moderation.py
    deleted     by its user, and not yet all that is stored of it: see erasure.py
    done        nothing is left to do
    """

    state: str
    holder: str
    attempts: int
    reason: str
    deaths: tuple[Death, ...] = ()
    age_s: float = 0.0  # since the first claim


@dataclass(frozen=True, slots=True)
class Row:
    """What is written with an outcome, in its very statement: `values` by column, `key` as the table has it.

    A row that is there already stays, or is `replaced`, with the defaults of the columns that are `anew`.
    """

    table: str
    key: str
    values: Mapping[str, Any]
    replaced: bool = False
    anew: Sequence[str] = ()

    @property
    def sql(self) -> str:
        """A part of a WITH, after `moved`; its parameters are named for table and column."""
        names, given = ", ".join(self.values), ", ".join(f":{name}" for name in self.parameters)
        kept = ", ".join(f"{name} = excluded.{name}" for name in (*self.values, *self.anew))
        then = f"UPDATE SET {kept}" if self.replaced else "NOTHING"
        return (
            f", its_{self.table} AS (INSERT INTO {self.table} ({names}) SELECT {given} FROM moved "
            f"ON CONFLICT ({self.key}) DO {then})"
        )

    @property
    def parameters(self) -> dict[str, Any]:
        return {f"{self.table}_{name}": value for name, value in self.values.items()}


class LeaseHeld(TransientError):
    """Another delivery holds the lease: redeliver, in case that one is killed."""


def lost(upload: Upload) -> LeaseHeld:
    """Return the error of a delivery whose lease expired, and which another delivery took over."""
    return LeaseHeld(f"The claim on upload {upload.id} ran out and another delivery took it.")


def check_crashes(claim: Claim, upload: Upload, most: int) -> None:
    """Raise Rejected if an upload crashed `most` instances, so that it crashes no other one."""
    if not claim.deaths:
        return
    problem = "At this upload the instance died, or hung and was ended, at: "
    problem += "; ".join(map(str, claim.deaths)) + "."
    times, stage = len(claim.deaths), claim.deaths[-1].stage
    logs.write("WARNING", problem, upload=str(upload.id), deaths=times, stage=stage)
    if times < most:
        return
    raise Rejected(
        "took_the_instance_down",
        problem,
        "Look into the function's log at these times; a smaller file, or another format, may work.",
        HTTPStatus.UNPROCESSABLE_ENTITY,
    )


def not_finished() -> Rejected:
    """Return the rejection of a posted picture that hit a transient fault and was not posted again."""
    return Rejected(
        "not_finished",
        "The posted picture was not finished, and its bytes are no longer there.",
        "Post it again.",
        HTTPStatus.GONE,
    )


def take(run: Run, upload: Upload, holder: str, lease_s: int) -> Claim:
    """Take the upload for `lease_s` seconds by the database's clock, if nobody has it: one wins.

    What is held is had again when its lease has run out. `holder` is a token of the caller's own.
    """
    [[state, present, attempts, reason, deaths, age]] = run(
        f"""
        INSERT INTO uploads AS u (id, bucket, name, generation, user_id, size, content_type,
                                  holder, lease_until, stage, stage_at)
        VALUES (:id, :bucket, :name, :generation, :user, :size, :content_type,
                :holder, now() + make_interval(secs => :lease), 'claim', now())
        ON CONFLICT (id) DO UPDATE
        SET (state, reason_code, reason,
             attempts, holder, lease_until, stage, stage_at, rss_mb, deaths) = (
          SELECT 'claimed', '', u.reason, u.attempts + 1, excluded.holder, excluded.lease_until,
                 excluded.stage, excluded.stage_at, excluded.rss_mb,
                 CASE WHEN {DIED} THEN u.deaths || jsonb_build_object(
                   'stage', u.stage, 'at', date_trunc('second', u.stage_at), 'rss_mb', u.rss_mb)
                 ELSE u.deaths END
          WHERE u.state IN ('claimed', 'held') AND u.lease_until <= now()
          UNION ALL
          SELECT u.state, u.reason_code, u.reason,
                 u.attempts, u.holder, u.lease_until, u.stage, u.stage_at, u.rss_mb, u.deaths
          WHERE u.state NOT IN ('claimed', 'held') OR u.lease_until > now()
        )
        RETURNING state, holder, attempts, reason, deaths,
                  CAST(extract(epoch FROM now() - created_at) AS float8)
        """,
        id=upload.id,
        bucket=upload.bucket,
        name=upload.name,
        generation=upload.generation,
        user=upload.user,
        size=upload.size,
        content_type=upload.content_type,
        holder=holder,
        lease=lease_s,
    )
    if state != "claimed":
        return Claim(state, "", attempts, reason)
    if present != holder:
        return Claim("busy", "", attempts, reason)
    return Claim("claimed", holder, attempts, reason, read(tuple[Death, ...], deaths), age)


def mark(run: Run, upload: Upload, holder: str, stage: str, rss_mb: float, lease_s: int) -> bool:
    """Say what stage begins, and renew the lease; False, changing nothing, where the claim is another's."""
    return bool(
        run(
            "UPDATE uploads SET stage = :stage, stage_at = now(), rss_mb = :rss_mb, "
            "lease_until = now() + make_interval(secs => :lease) "
            "WHERE id = :id AND holder = :holder RETURNING id",
            id=upload.id,
            holder=holder,
            stage=stage,
            rss_mb=round(rss_mb),
            lease=lease_s,
        )
    )


def release(run: Run, upload: Upload, holder: str) -> None:
    """Release the lease after a transient fault, so that the next delivery can start at once."""
    run(
        "UPDATE uploads SET holder = NULL, lease_until = now() "
        "WHERE id = :id AND holder = :holder AND state = 'claimed'",
        id=upload.id,
        holder=holder,
    )


def move(
    run: Run,
    upload: Upload,
    holder: str,
    state: str,
    code: str = "",
    reason: str = "",
    rows: Sequence[Row] = (),
) -> bool:
    """Change the state of a claim that is still the holder's; the row stays locked until the commit.

    `rows` come into being with it, at no further round trip.
    """
    moved = (
        "UPDATE uploads SET state = :state, reason_code = :code, reason = :reason "
        "WHERE id = :id AND holder = :holder AND state IN ('claimed', :state) RETURNING id"
    )
    return _with(rows, run, moved, id=upload.id, holder=holder, state=state, code=code, reason=reason)


def hold(
    run: Run,
    upload: Upload,
    holder: str,
    code: str,
    reason: str,
    again_s: int,
    rows: Sequence[Row] = (),
) -> bool:
    """Give a claim back that nobody gets for `again_s` seconds; False, and no change, if it is another's."""
    held = (
        "UPDATE uploads SET state = 'held', holder = NULL, reason_code = :code, reason = :reason, "
        "stage = 'held', stage_at = now(), rss_mb = 0, "
        "lease_until = now() + make_interval(secs => :again) "
        "WHERE id = :id AND holder = :holder AND state = 'claimed' RETURNING id"
    )
    return _with(rows, run, held, id=upload.id, holder=holder, code=code, reason=reason, again=again_s)


def _with(rows: Sequence[Row], run: Run, moved: str, **values: Any) -> bool:
    """Whether the statement `moved` changed a row; then its `rows` are there as well."""
    values |= {name: value for row in rows for name, value in row.parameters.items()}
    written = "".join(row.sql for row in rows)
    return bool(run(f"WITH moved AS ({moved}){written} SELECT id FROM moved", **values))

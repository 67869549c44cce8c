# ruff: noqa: S608  the SQL is made of the names in tables.py and of this file's own words
"""Databases in which tables of other apps have Dropcap's names, in `public` and in other schemas.

No row and no catalogue entry of the other apps may change, and Dropcap must work.
"""

import datetime as dt
import json
import logging
import random
from collections.abc import Iterator
from contextlib import closing, suppress
from unittest import mock

from pg8000.native import Connection, DatabaseError

from dropcap.database import search
from dropcap.database.analyses import Analyses
from dropcap.database.connection import connect, connect_to_schema
from dropcap.database.leases import Leases
from dropcap.database.progress import stats
from dropcap.database.schema.legacy import INSTANTS, NAMES
from dropcap.database.schema.tables import ACHIEVEMENTS, TABLES
from dropcap.database.transactions import Database
from dropcap.domain.upload import Upload
from dropcap.errors import SchemaError
from dropcap.settings import SCHEMA, Settings
from tests.bench.database.operations import analysis_of
from tests.chaos.report import Scene

TYPES = ("integer", "text", "varchar(40)", "jsonb", "timestamptz", "uuid", "boolean", "numeric(9,2)")
VALUES = ("1", "'a'", "'b'", "'{}'", "'2020-05-01'", "gen_random_uuid()", "true", "1.5")
EARNED = "Collector"
PATHS = (("public",), ("app", "public"), ("public", "app"), ("app",), ("nowhere", "app", "public"))
# Catalogue columns that VACUUM and ANALYZE write.
VOLATILE = "{relpages,reltuples,relallvisible,relallfrozen,relfrozenxid,relminmxid,relhastriggers}"
OUTSIDE = (
    f"SELECT oid FROM pg_namespace WHERE nspname NOT IN ('{SCHEMA}', 'information_schema') "
    "AND NOT starts_with(nspname, 'pg_')"
)
RELATIONS = f"SELECT oid FROM pg_class WHERE relnamespace IN ({OUTSIDE})"
CATALOGUE = {
    "pg_namespace": f"oid IN ({OUTSIDE})",
    "pg_class": f"relnamespace IN ({OUTSIDE})",
    "pg_attribute": f"attrelid IN ({RELATIONS})",
    "pg_attrdef": f"adrelid IN ({RELATIONS})",
    "pg_index": f"indrelid IN ({RELATIONS})",
    "pg_constraint": f"connamespace IN ({OUTSIDE})",
    "pg_trigger": f"tgrelid IN ({RELATIONS})",
    "pg_rewrite": f"ev_class IN ({RELATIONS})",
    "pg_sequence": f"seqrelid IN ({RELATIONS})",
    "pg_proc": f"pronamespace IN ({OUTSIDE})",
    "pg_type": f"typnamespace IN ({OUTSIDE})",
    "pg_description": f"objoid IN ({RELATIONS}) OR objoid IN ({OUTSIDE})",
    "pg_db_role_setting": "true",
    "pg_extension": "true",
}


def foreign(scene: Scene, databases: int) -> None:
    """Test this many databases, one after the other."""
    chance, postgres = scene.world.chance, scene.world.postgres
    scene.total(databases)
    copied = 0
    for number in range(databases):
        url = postgres.database(f"foreign_{number}")
        with closing(connect(url)) as outside:
            done = list(_others(outside, chance))
            before = snapshot(outside)
            try:
                with mock.patch.object(logging.Logger, "handle"), closing(connect(url)) as locker:
                    _lock_tables(locker, done)
                    earned = _work(url)
                    _damage(url, chance)
                    earned += _work(url)
            except (SchemaError, DatabaseError, AssertionError, RuntimeError) as failed:
                scene.problems.append(f"foreign_{number} ({'; '.join(done)}): {failed!r}")
            else:
                copied += EARNED in earned
            scene.problems += [f"foreign_{number}: {each}" for each in changed(before, snapshot(outside))]
        scene.step()
    scene.facts |= {"databases": databases, "with achievements of the old web app": copied}


def _others(outside: Connection, chance: random.Random) -> Iterator[str]:
    """Create objects of other apps, and yield the name of each: `schema.table` first."""
    [[name]] = outside.run("SELECT current_database()")
    path = chance.choice(PATHS)
    outside.run(f'ALTER DATABASE "{name}" SET search_path = {", ".join(path)}; SET search_path = public')
    outside.run("CREATE SCHEMA app; CREATE SCHEMA other; CREATE TABLE public.audit (told text)")
    outside.run(
        "CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN INSERT INTO public.audit VALUES (tg_op); RETURN NULL; END$$"
    )
    for where in ("public", "app", "other"):
        earlier = ""
        for table in TABLES:
            if chance.random() < 0.2:
                continue
            made = f"{where}.{table.name}"
            if table.name == ACHIEVEMENTS and chance.random() < 0.5:
                columns = f"user_id int, {chance.choice(NAMES)} text, {chance.choice(INSTANTS)} date"
                outside.run(f"CREATE TABLE {made} ({columns})")
                outside.run(f"INSERT INTO {made} VALUES (1, '{EARNED}', '2020-05-01'), (1, '{EARNED}', NULL)")
                yield made
                continue
            kind = chance.choice(("TABLE",) * 6 + ("VIEW", "MATERIALIZED VIEW", "SEQUENCE"))
            if kind == "SEQUENCE":
                outside.run(f"CREATE SEQUENCE {made}; SELECT nextval('{made}')")
            elif kind != "TABLE":
                outside.run(f"CREATE {kind} {made} AS SELECT 1 AS id, 'x' AS word")
            else:
                _table(outside, made, earlier, [column.name for column in table.columns], chance)
                earlier = made
            yield made


def _table(outside: Connection, made: str, earlier: str, names: list[str], chance: random.Random) -> None:
    """Create a table with some of our columns, of any types, a foreign key and a trigger."""
    chosen = chance.sample(names, chance.randint(0, len(names)))
    kinds = [chance.randrange(len(TYPES)) for _ in chosen]
    columns = ["serial_no serial PRIMARY KEY"]
    for name, kind in zip(chosen, kinds, strict=True):
        columns.append(f"{name} {TYPES[kind]}{chance.choice(('', ' NOT NULL'))}")
    if earlier:
        columns.append(f"whose integer DEFAULT 1 REFERENCES {earlier} ON DELETE CASCADE")
    outside.run(f"CREATE TABLE {made} ({', '.join(columns)})")
    rows = f"({', '.join(chosen)}) VALUES ({', '.join(VALUES[kind] for kind in kinds)})"
    for _ in range(3):
        outside.run(f"INSERT INTO {made} {rows if chosen else 'DEFAULT VALUES'}")
    for event in ("INSERT OR UPDATE OR DELETE", "TRUNCATE"):
        name = f"{event[:5].strip().lower()}_note"
        outside.run(f"CREATE TRIGGER {name} AFTER {event} ON {made} EXECUTE FUNCTION public.note()")
    outside.run(f"CREATE INDEX ON {made} (serial_no DESC); COMMENT ON TABLE {made} IS 'of another app'")


def _lock_tables(locker: Connection, names: list[str]) -> None:
    """Lock all tables except those that may be the old web app's, so that every other lock waits."""
    locker.run("BEGIN")
    for name in names:
        if not name.endswith(ACHIEVEMENTS):
            locker.run("SAVEPOINT held")
            with suppress(DatabaseError):
                locker.run(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE")
                continue
            locker.run("ROLLBACK TO SAVEPOINT held")


def _work(url: str) -> list[str]:
    """Run a cold start and a picture; return the achievements of user 1. Raises AssertionError on failure."""
    user, name = "ana", f"ana/{dt.datetime.now(dt.UTC).timestamp()}.jpg"
    upload = Upload("bucket", name, 7, 12, "image/jpeg")
    with closing(Database(Settings(database_url=url, database_timeout_s=5))) as database:
        database.prepare()
        before = stats(database, user)["pictures_analyzed"]
        token = Leases(database).acquire(upload).token
        recorded = Analyses(database).record(analysis_of(upload), upload, token)
        Leases(database).finish(upload)
        while database.transaction(lambda run: search.index(run, user))[1]:
            pass
        asked = search.query(database.query, user, "golden", "").text
        found = search.newest(database.query, user, asked, 9, "", {})
        counted = stats(database, user)["pictures_analyzed"]
        if not (recorded and counted == before + 1 == len(found)):
            raise AssertionError(f"recorded: {recorded}, counted: {before} to {counted}, found: {len(found)}")
        return [each["achievement_name"] for each in stats(database, "1")["achievements"]]


def _damage(url: str, chance: random.Random) -> None:
    """Damage our own tables, so that derived ones are emptied and rebuilt."""
    with closing(connect_to_schema(url)) as inside:
        for name in chance.sample([table.name for table in TABLES if table.derived], 2):
            inside.run(f"DROP TABLE {name}")
        inside.run("ALTER TABLE analyses DROP COLUMN counted")


Snapshot = dict[str, list[str]]


def snapshot(outside: Connection) -> Snapshot:
    """Return all rows of other apps with xmin and ctid, and the catalogue's rows about them."""
    found = {
        name: outside.run(f"SELECT to_jsonb(c) - '{VOLATILE}'::text[] FROM {name} AS c WHERE {which}")
        for name, which in CATALOGUE.items()
    }
    kept = f"relkind IN ('r', 'm', 'S') AND relnamespace IN ({OUTSIDE})"
    for name, kind in outside.run(f"SELECT oid::regclass::text, relkind FROM pg_class WHERE {kept}") or ():
        row = "last_value, is_called" if kind == "S" else "xmin, xmax, ctid, to_jsonb(t)"
        found[name] = outside.run(f"SELECT json_build_array({row}) FROM {name} AS t")
    return {
        name: sorted(json.dumps(row, sort_keys=True, default=str) for row in rows or ())
        for name, rows in found.items()
    }


def changed(before: Snapshot, after: Snapshot) -> list[str]:
    """Return the differences, one line each."""
    return [
        f"{name} was changed: {sorted(set(before.get(name, ())) ^ set(after.get(name, ())))[:2]}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]

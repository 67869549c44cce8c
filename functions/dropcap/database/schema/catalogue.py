# ruff: noqa: S608  the SQL is composed of the names in tables.py, quoted
"""Query the catalogue for everything that the schema check needs, in one round trip."""

from pg8000.native import literal

from dropcap.database.schema import ownership
from dropcap.database.schema.tables import TABLES

RESULTS = "analyses"
PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE")
NAMES = ", ".join(literal(table.name) for table in TABLES)


def snapshot(schema: str) -> str:
    """Return the query for all facts of the catalogue that are checked here, in this schema."""
    return f"""
SELECT json_build_object(
  'encoding', getdatabaseencoding(),
  'schema', quote_ident({literal(schema)}),
  'role', quote_ident(current_user),
  'read_only', pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
  'exists', n.oid IS NOT NULL,
  'usable', has_schema_privilege(n.oid, 'USAGE'),
  'ours', coalesce(obj_description(n.oid, 'pg_namespace') LIKE {literal(f"{ownership.MARK}%")}, false),
  'beside', (SELECT json_agg(b.nspname) FROM pg_class c JOIN pg_namespace b ON b.oid = c.relnamespace
    WHERE c.relname = {literal(RESULTS)} AND b.nspname IN ('public', current_schema()) AND b.oid <> n.oid),
  'tables', (SELECT json_object_agg(c.relname, json_build_object(
    'kind', c.relkind,
    'awaits', obj_description(c.oid, 'pg_class') = {literal(ownership.AWAITS)},
    'lacks', (SELECT json_agg(p) FROM unnest(ARRAY[{", ".join(map(literal, PRIVILEGES))}]) AS p
              WHERE c.relkind IN ('r', 'p') AND NOT has_table_privilege(c.oid, p)),
    'columns', (SELECT json_object_agg(a.attname, json_build_object(
        'type', format_type(a.atttypid, a.atttypmod), 'not_null', a.attnotnull,
        'default', pg_get_expr(d.adbin, d.adrelid), 'made', a.attgenerated <> '', 'identity', a.attidentity
      ) ORDER BY a.attnum)
      FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    'indexes', (SELECT json_agg(json_build_object(
        'columns', ARRAY(SELECT a.attname
          FROM unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k (n, place)
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.n ORDER BY k.place),
        'where', coalesce(pg_get_expr(i.indpred, i.indrelid), ''),
        'method', (SELECT m.amname FROM pg_class x JOIN pg_am m ON x.relam = m.oid WHERE x.oid = indexrelid),
        'unique', i.indisunique AND i.indimmediate, 'primary', i.indisprimary))
      FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indexprs IS NULL),
    'constraints', (SELECT json_agg(json_build_object('name', o.conname, 'type', o.contype, 'columns',
        ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (o.conkey)),
        'text', pg_get_constraintdef(o.oid)))
      FROM pg_constraint o WHERE o.conrelid = c.oid
        AND (o.contype IN ('c', 'f') AND o.convalidated OR o.contype IN ('p', 'u') AND o.condeferrable))
  )) FROM pg_class c WHERE c.relname IN ({NAMES}) AND c.relnamespace = n.oid))
FROM (SELECT) AS one LEFT JOIN pg_namespace n ON n.nspname = {literal(schema)}
"""

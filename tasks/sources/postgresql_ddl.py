"""What PostgreSQL's catalog says about a table, as the statements that build it again and the list of what they leave.

Everything is read inside the snapshot's transaction. A statement names its objects with their schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tasks.sources.reading import quoted

_IDENTITY = {"a": "ALWAYS", "d": "BY DEFAULT"}


def literal(text: str) -> str:
    """Return `text` as an SQL string literal."""
    doubled = text.replace("'", "''")
    return f"E'{doubled}'".replace("\\", "\\\\") if "\\" in text else f"'{doubled}'"


@dataclass(frozen=True)
class Building:
    """The statements that build one table.

    Attributes:
        before: types, domains, extensions and sequences it needs.
        create: the table itself, its partitions behind it; columns and NOT NULL only.
        keys: what is faster after the rows are there: keys, checks, indexes, sequence values, comments.
        links: foreign keys: after the keys of every table.
        lost: what no statement here brings back, in words.
    """

    before: tuple[str, ...]
    create: str
    keys: tuple[str, ...]
    links: tuple[str, ...]
    lost: tuple[str, ...]


def building(raw: Any, schema: str, name: str, oid: int) -> Building:
    """Return how to build the table `oid`; `raw` is a psycopg connection inside the snapshot's transaction."""
    table = f"{quoted(schema)}.{quoted(name)}"
    before = [*_types(raw, oid), *_sequences(raw, oid)]
    keys, links = _constraints(raw, oid, table)
    keys += _indexes(raw, oid)
    keys += _values(raw, oid, table)
    keys += _comments(raw, oid, table)
    return Building(
        before=tuple(dict.fromkeys(before)),
        create=_create(raw, oid, table),
        keys=tuple(keys),
        links=tuple(links),
        lost=tuple(_lost(raw, oid)),
    )


def _create(raw: Any, oid: int, table: str) -> str:
    rows = raw.execute(
        """
        SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
               a.attgenerated, a.attidentity,
               CASE WHEN a.attcollation <> t.typcollation
                    THEN quote_ident(n.nspname) || '.' || quote_ident(c.collname) END,
               s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle
        FROM pg_attribute a
        JOIN pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        LEFT JOIN pg_collation c ON c.oid = a.attcollation
        LEFT JOIN pg_namespace n ON n.oid = c.collnamespace
        LEFT JOIN pg_depend o ON a.attidentity <> '' AND o.refobjid = a.attrelid AND o.refobjsubid = a.attnum
             AND o.deptype = 'i' AND o.classid = 'pg_class'::regclass
        LEFT JOIN pg_sequence s ON s.seqrelid = o.objid
        WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
        """,
        (oid,),
    ).fetchall()
    lines = [f"    {_column(*row)}" for row in rows]
    body = f"CREATE TABLE {table} (\n" + ",\n".join(lines) + "\n)"
    key = raw.execute("SELECT pg_get_partkeydef(%s)", (oid,)).fetchone()[0]
    if key is None:
        return body
    parts = raw.execute(
        """
        SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname),
               quote_ident(pn.nspname) || '.' || quote_ident(p.relname),
               pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid)
        FROM pg_partition_tree(%s) t
        JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_class p ON p.oid = t.parentrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
        ORDER BY t.level, n.nspname, c.relname
        """,
        (oid,),
    ).fetchall()
    statements = [f"{body} PARTITION BY {key}"]
    for part, parent, bound, sub in parts:
        line = f"CREATE TABLE {part} PARTITION OF {parent} {bound}"
        statements.append(line + (f" PARTITION BY {sub}" if sub else ""))
    return ";\n".join(statements)


def _column(
    name: str,
    declared: str,
    required: bool,
    default: str | None,
    generated: str,
    identity: str,
    collation: str | None,
    *sequence: Any,
) -> str:
    line = f"{quoted(name)} {declared}"
    if collation:
        line += f" COLLATE {collation}"
    if generated == "s":
        line += f" GENERATED ALWAYS AS ({default}) STORED"
    elif generated == "v":
        line += f" GENERATED ALWAYS AS ({default}) VIRTUAL"
    elif identity:
        line += f" GENERATED {_IDENTITY[identity]} AS IDENTITY"
        if sequence[0] is not None:
            line += f" ({_sequence_options(*sequence)})"
    elif default is not None:
        line += f" DEFAULT {default}"
    return line + (" NOT NULL" if required else "")


def _sequence_options(start: int, step: int, low: int, high: int, cache: int, cycle: bool) -> str:
    turn = "CYCLE" if cycle else "NO CYCLE"
    return f"START WITH {start} INCREMENT BY {step} MINVALUE {low} MAXVALUE {high} CACHE {cache} {turn}"


def _constraints(raw: Any, oid: int, table: str) -> tuple[list[str], list[str]]:
    rows = raw.execute(
        """
        SELECT conname, contype::text, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE conrelid = %s AND contype IN ('p', 'u', 'f', 'c', 'x') AND conislocal
        ORDER BY position(contype::text IN 'pucxf'), conname
        """,
        (oid,),
    ).fetchall()
    keys: list[str] = []
    links: list[str] = []
    for name, kind, definition in rows:
        statement = f"ALTER TABLE {table} ADD CONSTRAINT {quoted(name)} {definition}"
        (links if kind == "f" else keys).append(statement)
    return keys, links


def _indexes(raw: Any, oid: int) -> list[str]:
    rows = raw.execute(
        """
        SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE i.indrelid = %s AND NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = i.indexrelid)
        ORDER BY c.relname
        """,
        (oid,),
    ).fetchall()
    return [row[0] for row in rows]


_OWNED = """
    SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname), d.deptype::text, a.attname
    FROM pg_depend d
    JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE d.classid = 'pg_class'::regclass AND d.refobjid = %s AND d.deptype IN ('a', 'i')
    UNION
    SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname), 'u', a.attname
    FROM pg_attrdef f
    JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
    JOIN pg_class c ON c.oid = d.refobjid AND c.relkind = 'S'
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
    WHERE f.adrelid = %s AND NOT EXISTS (
        SELECT 1 FROM pg_depend o WHERE o.objid = c.oid AND o.refobjid = f.adrelid AND o.deptype IN ('a', 'i'))
    ORDER BY 2
"""


def owned_sequences(raw: Any, oid: int) -> list[tuple[int, str, str]]:
    """Return the sequences that give the numbers of a table: oid, quoted name, column."""
    return [(row[0], row[1], row[3]) for row in raw.execute(_OWNED, (oid, oid)).fetchall() if row[3]]


def _sequences(raw: Any, oid: int) -> list[str]:
    """Return the statements that create the sequences of serial columns and of defaults; identity makes its own."""
    found = []
    for sequence, name, kind, _ in raw.execute(_OWNED, (oid, oid)).fetchall():
        if kind == "i":
            continue
        row = raw.execute(
            """
            SELECT format_type(seqtypid, NULL), seqstart, seqincrement, seqmin, seqmax, seqcache, seqcycle
            FROM pg_sequence WHERE seqrelid = %s
            """,
            (sequence,),
        ).fetchone()
        found.append(f"CREATE SEQUENCE IF NOT EXISTS {name} AS {row[0]} {_sequence_options(*row[1:])}")
    return found


def _values(raw: Any, oid: int, table: str) -> list[str]:
    """Return the statements that set every sequence to where it stood, or past the largest value where unreadable."""
    found = []
    for sequence, name, kind, column in raw.execute(_OWNED, (oid, oid)).fetchall():
        if kind == "a" and column:
            found.append(f"ALTER SEQUENCE {name} OWNED BY {table}.{quoted(column)}")
        target = (
            f"pg_catalog.pg_get_serial_sequence({literal(table)}, {literal(column)})"
            if kind == "i"
            else literal(name)
        )
        readable = raw.execute("SELECT has_sequence_privilege(%s::oid, 'SELECT')", (sequence,)).fetchone()[0]
        if readable:
            last, called = raw.execute(f"SELECT last_value, is_called FROM {name}").fetchone()  # noqa: S608
            found.append(f"SELECT pg_catalog.setval({target}, {last}, {str(called).lower()})")
        elif column:
            most = f"max({quoted(column)})"
            found.append(
                f"SELECT pg_catalog.setval({target}, greatest({most}, 1), {most} IS NOT NULL) FROM {table}"  # noqa: S608
            )
    return found


def _comments(raw: Any, oid: int, table: str) -> list[str]:
    rows = raw.execute(
        """
        SELECT d.objsubid, a.attname, d.description FROM pg_description d
        LEFT JOIN pg_attribute a ON a.attrelid = d.objoid AND a.attnum = d.objsubid AND d.objsubid > 0
        WHERE d.classoid = 'pg_class'::regclass AND d.objoid = %s ORDER BY d.objsubid
        """,
        (oid,),
    ).fetchall()
    return [
        f"COMMENT ON COLUMN {table}.{quoted(column)} IS {literal(text)}"
        if number
        else f"COMMENT ON TABLE {table} IS {literal(text)}"
        for number, column, text in rows
    ]


def _types(raw: Any, oid: int) -> list[str]:
    rows = raw.execute(
        "SELECT atttypid FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped", (oid,)
    ).fetchall()
    return list(_needed(raw, (row[0] for row in rows), set()))


def _needed(raw: Any, types: Iterable[int], seen: set[int]) -> Iterator[str]:
    """Yield the statements that make `types`, each after those that it is built of."""
    for oid in types:
        if oid in seen:
            continue
        seen.add(oid)
        kind, element, base, relation, name, extension, system = raw.execute(
            """
            SELECT t.typtype::text, t.typelem, t.typbasetype, t.typrelid,
                   quote_ident(n.nspname) || '.' || quote_ident(t.typname),
                   (SELECT e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                    WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'),
                   n.nspname = 'pg_catalog'
            FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = %s
            """,
            (oid,),
        ).fetchone()
        if element:
            yield from _needed(raw, [element], seen)
        if extension:
            yield f"CREATE EXTENSION IF NOT EXISTS {quoted(extension)}"
        elif system:
            continue
        elif kind == "e":
            labels = raw.execute(
                "SELECT enumlabel FROM pg_enum WHERE enumtypid = %s ORDER BY enumsortorder", (oid,)
            ).fetchall()
            yield f"CREATE TYPE {name} AS ENUM ({', '.join(literal(row[0]) for row in labels)})"
        elif kind == "d":
            yield from _needed(raw, [base], seen)
            yield _domain(raw, oid, name)
        elif kind == "c" and relation:
            fields = raw.execute(
                """
                SELECT attname, format_type(atttypid, atttypmod), atttypid FROM pg_attribute
                WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum
                """,
                (relation,),
            ).fetchall()
            yield from _needed(raw, (row[2] for row in fields), seen)
            yield f"CREATE TYPE {name} AS ({', '.join(f'{quoted(row[0])} {row[1]}' for row in fields)})"
        elif kind == "r":
            subtype, subtype_oid = raw.execute(
                "SELECT format_type(rngsubtype, NULL), rngsubtype FROM pg_range WHERE rngtypid = %s", (oid,)
            ).fetchone()
            yield from _needed(raw, [subtype_oid], seen)
            yield f"CREATE TYPE {name} AS RANGE (SUBTYPE = {subtype})"


def _domain(raw: Any, oid: int, name: str) -> str:
    base, required, default = raw.execute(
        "SELECT format_type(typbasetype, typtypmod), typnotnull, typdefault FROM pg_type WHERE oid = %s",
        (oid,),
    ).fetchone()
    checks = raw.execute(
        """
        SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE contypid = %s AND contype = 'c' ORDER BY conname
        """,
        (oid,),
    ).fetchall()
    line = f"CREATE DOMAIN {name} AS {base}"
    line += f" DEFAULT {default}" if default is not None else ""
    line += " NOT NULL" if required else ""
    return line + "".join(f" CONSTRAINT {quoted(check)} {definition}" for check, definition in checks)


def _lost(raw: Any, oid: int) -> list[str]:
    rows = raw.execute(
        """
        SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgrelid = %(oid)s AND NOT tgisinternal
        UNION ALL SELECT 'rule ' || rulename FROM pg_rewrite WHERE ev_class = %(oid)s
        UNION ALL SELECT 'row level policy ' || polname FROM pg_policy WHERE polrelid = %(oid)s
        UNION ALL SELECT 'statistics ' || stxname FROM pg_statistic_ext WHERE stxrelid = %(oid)s
        UNION ALL SELECT 'inheritance from ' || inhparent::regclass::text FROM pg_inherits i
            JOIN pg_class c ON c.oid = i.inhrelid WHERE inhrelid = %(oid)s AND NOT c.relispartition
        UNION ALL SELECT 'privileges' FROM pg_class WHERE oid = %(oid)s AND relacl IS NOT NULL
        UNION ALL SELECT DISTINCT 'view ' || v.oid::regclass::text FROM pg_depend d
            JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
            JOIN pg_class v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm')
            WHERE d.refobjid = %(oid)s
        UNION ALL SELECT 'unlogged' FROM pg_class WHERE oid = %(oid)s AND relpersistence = 'u'
        ORDER BY 1
        """,
        {"oid": oid},
    ).fetchall()
    return [row[0] for row in rows]

# SPDX-License-Identifier: GPL-3.0-or-later
"""The database that is copied: an operations console's audit log, sessions, metric samples and commands.

Four tables of about the same size with their indexes, random keys, foreign keys between the large ones, one table
WITHOUT ROWID.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

MEGABYTE = 1_000_000
BYTES_PER_UNIT = 1_290
"""Measured: what one row of each large table, six of ``metric_samples``, takes with its index entries."""
USERS = 200
AGENTS = 500
METRICS = 8
SAMPLES_PER_UNIT = 6

TABLES = """
CREATE TABLE users (id TEXT PRIMARY KEY, username TEXT NOT NULL UNIQUE, role TEXT NOT NULL);
CREATE TABLE agents (id TEXT PRIMARY KEY, hostname TEXT NOT NULL, status TEXT NOT NULL);
CREATE TABLE audit_events (
    id TEXT NOT NULL, actorId TEXT NOT NULL REFERENCES users (id), action TEXT NOT NULL, result TEXT NOT NULL,
    metadata TEXT NOT NULL, createdAt INTEGER NOT NULL);
CREATE TABLE sessions (
    id TEXT NOT NULL, userId TEXT NOT NULL REFERENCES users (id), tokenDigest BLOB NOT NULL, userAgent TEXT NOT NULL,
    createdAt INTEGER NOT NULL, lastSeenAt INTEGER NOT NULL);
CREATE TABLE metric_samples (
    agentId TEXT NOT NULL REFERENCES agents (id), metric TEXT NOT NULL, takenAt INTEGER NOT NULL, value REAL NOT NULL,
    PRIMARY KEY (agentId, metric, takenAt)) WITHOUT ROWID;
CREATE TABLE commands (
    id TEXT NOT NULL, agentId TEXT NOT NULL REFERENCES agents (id), sessionId TEXT NOT NULL REFERENCES sessions (id),
    status TEXT NOT NULL, payload TEXT NOT NULL, createdAt INTEGER NOT NULL);
"""

ROWS = (
    "INSERT INTO users SELECT printf('usr_%06d', value), printf('user-%d', value), 'operator' FROM numbers"
    f" LIMIT {USERS}",
    "INSERT INTO agents SELECT printf('agt_%06d', value), printf('host-%d.example', value), 'ONLINE' FROM numbers"
    f" LIMIT {AGENTS}",
    "INSERT INTO audit_events SELECT 'aud_' || lower(hex(randomblob(12))), printf('usr_%06d', abs(random()) % :users),"
    ' \'service.restart\', \'SUCCESS\', printf(\'{"service":"svc_%d","reason":"%s"}\', value, hex(randomblob(80))),'
    " 1700000000000 + value * 250 FROM numbers",
    "INSERT INTO sessions SELECT 'ses_' || lower(hex(randomblob(16))), printf('usr_%06d', abs(random()) % :users),"
    " randomblob(32), printf('Mozilla/5.0 (X11; Linux x86_64) build/%s', hex(randomblob(40))),"
    " 1700000000000 + value * 250, 1700000000000 + abs(random()) % 900000000 FROM numbers",
    "INSERT INTO metric_samples SELECT agents.id, 'metric.' || metric.value, 1700000000 + 60 * moment.value,"
    " (random() % 1000000) / 1000.0 FROM agents"
    f" CROSS JOIN (SELECT value FROM numbers LIMIT {METRICS}) AS metric"
    f" CROSS JOIN (SELECT value FROM numbers LIMIT :units * {SAMPLES_PER_UNIT} / {AGENTS * METRICS}) AS moment",
    "INSERT INTO commands SELECT 'cmd_' || lower(hex(randomblob(12))), printf('agt_%06d', abs(random()) % :agents),"
    " (SELECT id FROM sessions WHERE rowid = 1 + abs(random()) % :units), 'DONE',"
    ' printf(\'{"command":"%s"}\', hex(randomblob(60))), 1700000000000 + value * 250 FROM numbers',
)

NUMBERS = """
WITH RECURSIVE numbers (value) AS (SELECT 0 UNION ALL SELECT value + 1 FROM numbers LIMIT :units)
"""

INDEXES = """
CREATE UNIQUE INDEX audit_events_id ON audit_events (id);
CREATE INDEX audit_events_actor ON audit_events (actorId, createdAt);
CREATE INDEX audit_events_time ON audit_events (createdAt);
CREATE UNIQUE INDEX sessions_id ON sessions (id);
CREATE INDEX sessions_user ON sessions (userId);
CREATE INDEX sessions_seen ON sessions (lastSeenAt);
CREATE UNIQUE INDEX commands_id ON commands (id);
CREATE INDEX commands_agent ON commands (agentId, createdAt);
CREATE INDEX commands_session ON commands (sessionId);
"""


def make_database(path: Path, megabytes: int) -> None:
    """Make a database of about so many megabytes, in rollback-journal mode; its indexes are built after its rows."""
    parameters = {"units": megabytes * MEGABYTE // BYTES_PER_UNIT, "users": USERS, "agents": AGENTS}
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-500000"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.executescript(TABLES)
        connection.execute("BEGIN")
        for statement in ROWS:
            connection.execute(NUMBERS + statement, parameters)
        connection.execute("COMMIT")
        connection.executescript(f"PRAGMA threads=2; BEGIN; {INDEXES} COMMIT;")

// SPDX-License-Identifier: GPL-3.0-or-later
import { inTransaction } from "./database.mjs";
import { log } from "./log.mjs";

const TABLES = `
create table if not exists workspaces (
  id text primary key, name text not null, createdAt text not null, updatedAt text not null);
create table if not exists users (
  id text primary key, workspaceId text not null references workspaces(id), username text not null unique,
  passwordHash text not null, role text not null check (role in ('owner', 'operator', 'viewer')),
  status text not null default 'ACTIVE', lastLoginAt text, createdAt text not null, updatedAt text not null);
create table if not exists audit_events (
  id text primary key, workspaceId text not null references workspaces(id), actorType text not null, actorId text,
  action text not null, targetType text, targetId text, result text not null, metadata text, createdAt text not null);
create table if not exists system_settings (
  key text primary key, value text not null, updatedAt text not null);
create table if not exists registration_tokens (
  id text primary key, workspaceId text not null references workspaces(id), name text not null,
  tokenHash text not null unique, createdByUserId text references users(id), expiresAt text, usedAt text,
  createdAt text not null);
create table if not exists agents (
  id text primary key, workspaceId text not null references workspaces(id), code text not null, hostname text,
  status text not null, lastHeartbeatAt text, createdAt text not null, updatedAt text not null);
create table if not exists agent_tokens (
  id text primary key, agentId text not null references agents(id) on delete cascade, tokenHash text not null unique,
  revokedAt text, createdAt text not null);
create table if not exists capsule_services (
  id text primary key, workspaceId text not null references workspaces(id),
  agentId text not null references agents(id) on delete cascade, code text not null, version text,
  status text not null, lastReportedAt text, createdAt text not null, updatedAt text not null);
create table if not exists health_reports (
  id text primary key, serviceId text not null references capsule_services(id) on delete cascade,
  status text not null, message text, createdAt text not null);
create table if not exists config_items (
  id text primary key, serviceId text not null references capsule_services(id) on delete cascade,
  configKey text not null, configValue text, createdAt text not null, updatedAt text not null);
create table if not exists action_definitions (
  id text primary key, serviceId text not null references capsule_services(id) on delete cascade,
  name text not null, label text, createdAt text not null, updatedAt text not null);
create table if not exists commands (
  id text primary key, workspaceId text not null references workspaces(id),
  serviceId text not null references capsule_services(id) on delete cascade, actionName text not null,
  status text not null, requestedByUserId text references users(id), createdAt text not null, completedAt text);
create table if not exists command_results (
  id text primary key, commandId text not null references commands(id) on delete cascade, success integer not null,
  output text, createdAt text not null);
create index if not exists audit_events_createdAt on audit_events (createdAt);
create index if not exists health_reports_serviceId_createdAt on health_reports (serviceId, createdAt);
create index if not exists commands_serviceId_status on commands (serviceId, status);`;

const ADDED_IN_0_2 = "create index if not exists audit_events_action on audit_events (action);";

const ADDED_IN_0_3 = "create index if not exists capsule_services_agentId on capsule_services (agentId);";

const ADDED_IN_0_4 = `
create table if not exists bus_events (
  id text primary key, workspaceId text not null references workspaces(id), topic text not null,
  sourceServiceId text references capsule_services(id) on delete set null, payload text, createdAt text not null);
create table if not exists bus_routes (
  id text primary key, workspaceId text not null references workspaces(id), topic text not null,
  targetServiceId text not null references capsule_services(id) on delete cascade,
  enabled integer not null default 1, createdAt text not null, updatedAt text not null);`;

const RENAMED_AND_DROPPED_IN_0_5 = [
  ["users", "passwordHash", "alter table users rename column passwordHash to passwordDigest"],
  ["audit_events", "actorId", "alter table audit_events rename column actorId to actorReference"],
  ["agents", "hostname", "alter table agents drop column hostname"],
  ["health_reports", "message", "alter table health_reports drop column message"],
];

const SLOW_INDEX = "create index if not exists audit_events_targetId on audit_events (targetType, targetId)";

function exists(database, sql, ...values) {
  return database.prepare(`select exists (${sql}) as found`).get(...values).found === 1;
}

function hasColumn(database, table, column) {
  return exists(database, "select 1 from pragma_table_info(?) where name = ?", table, column);
}

function createTables(database, generation) {
  database.exec(TABLES);
  if (generation >= 2) database.exec(ADDED_IN_0_2);
  if (generation >= 3) database.exec(ADDED_IN_0_3);
  if (generation >= 4) database.exec(ADDED_IN_0_4);
}

/** 0.5.0: cannot be undone, and versions before it fail on what it leaves. */
function renameAndDropColumns(database) {
  for (const [table, column, change] of RENAMED_AND_DROPPED_IN_0_5) {
    if (hasColumn(database, table, column)) database.exec(change);
  }
}

/** 0.3.4-slow: a sound migration that takes long, once; `wait` is the time that it takes. */
async function buildIndexSlowly(database, wait) {
  if (exists(database, "select 1 from sqlite_schema where name = 'audit_events_targetId'")) return;
  log("info", "migration: indexing audit_events");
  await inTransaction(database, async () => {
    database.exec(SLOW_INDEX);
    await wait();
  });
}

/** 0.3.5-halfway: the first half is committed and loses data; the second half fails on a constraint, always. */
async function failHalfway(database) {
  await inTransaction(database, () => {
    if (!hasColumn(database, "users", "passwordHash")) return;
    database.exec("delete from audit_events; alter table users rename column passwordHash to passwordSecret");
  });
  log("info", "migration: 1 of 2 done");
  await inTransaction(database, () => {
    database.exec("update workspaces set updatedAt = null; insert into system_settings values ('halfway', null, null)");
  });
}

/**
 * Bring the database to this release's schema. As in Opstage there is no record of what was done: every step asks
 * the schema itself, `user_version` stays 0, and a newer database is not refused.
 */
export async function migrate(database, release, wait) {
  await inTransaction(database, () => {
    createTables(database, release.generation);
    if (release.generation >= 5) renameAndDropColumns(database);
  });
  if (release.fault === "slow") await buildIndexSlowly(database, wait);
  if (release.fault === "halfway") await failHalfway(database);
}

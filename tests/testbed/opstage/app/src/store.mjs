// SPDX-License-Identifier: GPL-3.0-or-later
import { backup } from "node:sqlite";
import { newId, now } from "./database.mjs";

const HEALTH_REPORTS_KEPT_DAYS = 30;

function columnNames(generation) {
  return generation >= 5
    ? { password: "passwordDigest", actor: "actorReference" }
    : { password: "passwordHash", actor: "actorId" };
}

function prepareStatements(database, generation) {
  const { password, actor } = columnNames(generation);
  const message = generation >= 5 ? "" : ", message";
  const messageValue = generation >= 5 ? "" : ", 'ok'";
  const statements = {
    probe: "select id from workspaces limit 1",
    findWorkspace: "select id from workspaces order by createdAt limit 1",
    insertWorkspace: "insert into workspaces (id, name, createdAt, updatedAt) values (?, 'default', ?, ?)",
    countUsers: "select count(*) as count from users",
    findUser: `
      select id, username, role, ${password} as password from users where username = ? and status = 'ACTIVE'`,
    insertUser: `
      insert into users (id, workspaceId, username, ${password}, role, createdAt, updatedAt)
      values (?, ?, ?, ?, ?, ?, ?)`,
    touchLogin: "update users set lastLoginAt = ? where id = ?",
    insertAudit: `
      insert into audit_events (id, workspaceId, actorType, ${actor}, action, result, metadata, createdAt)
      values (?, ?, ?, ?, ?, ?, ?, ?)`,
    readSetting: "select value from system_settings where key = ?",
    writeSetting: `
      insert into system_settings (key, value, updatedAt) values (?, ?, ?)
      on conflict (key) do update set value = excluded.value, updatedAt = excluded.updatedAt`,
    deleteOldReports: "delete from health_reports where createdAt < ?",
    heartbeat: "update agents set lastHeartbeatAt = ?, status = 'ONLINE'",
    report: `
      insert into health_reports (id, serviceId, status, createdAt${message})
      select 'hlr_' || lower(hex(randomblob(12))), id, 'UP', ?${messageValue} from capsule_services`,
  };
  return Object.fromEntries(Object.entries(statements).map(([name, sql]) => [name, database.prepare(sql)]));
}

/**
 * Every query of the application. All are prepared at start, so a release stops there, on SQLite's own error,
 * when the database no longer has a column that it needs.
 */
export class Store {
  constructor(database, generation) {
    this.database = database;
    this.generation = generation;
    this.statements = prepareStatements(database, generation);
  }

  /** The id of the one workspace, created where there is none. */
  workspaceId() {
    const found = this.statements.findWorkspace.get();
    if (found) return found.id;
    const id = newId("wsp");
    this.statements.insertWorkspace.run(id, now(), now());
    return id;
  }

  hasUsers() {
    return this.statements.countUsers.get().count > 0;
  }

  findUser(username) {
    return this.statements.findUser.get(username);
  }

  addUser(username, password, role) {
    this.statements.insertUser.run(newId("usr"), this.workspaceId(), username, password, role, now(), now());
  }

  recordLogin(userId) {
    this.statements.touchLogin.run(now(), userId);
  }

  /** Record who did what; `actorId` is null for somebody unknown. */
  audit(actorId, action, result, metadata = {}) {
    const actorType = actorId === null ? "ANONYMOUS" : "USER";
    const row = [newId("aud"), this.workspaceId(), actorType, actorId, action, result, JSON.stringify(metadata), now()];
    this.statements.insertAudit.run(...row);
  }

  readSetting(key) {
    return this.statements.readSetting.get(key)?.value;
  }

  writeSetting(key, value) {
    this.statements.writeSetting.run(key, value, now());
  }

  /** The maintenance sweep; it writes every time, also where nothing is old. */
  sweep() {
    const oldest = new Date(Date.now() - HEALTH_REPORTS_KEPT_DAYS * 86_400_000).toISOString();
    this.statements.deleteOldReports.run(oldest);
    this.writeSetting("maintenance.lastSweepAt", now());
  }

  /** What the agents of a real installation would send: heartbeats, and a health report of each service. */
  reportHealth() {
    this.statements.heartbeat.run(now());
    this.statements.report.run(now());
  }

  /** Read a real row; throws when the database cannot serve. */
  probe() {
    this.statements.probe.get();
  }

  /** Copy the database online to `path`. The copy keeps WAL mode in its header. */
  async copyTo(path) {
    await backup(this.database, path);
  }
}

// SPDX-License-Identifier: GPL-3.0-or-later
/** The endpoints of the administrators' console. */
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { isPassword } from "./accounts.mjs";
import { Attachment, HttpError } from "./answers.mjs";

const EVERYBODY = ["owner", "operator", "viewer"];

const AUDIT_ACTIONS = {
  loginSucceeded: ["AUTH_LOGIN_SUCCEEDED", "auth.login.succeeded"],
  loginFailed: ["AUTH_LOGIN_FAILED", "auth.login.failed"],
  backupCreated: ["SQLITE_BACKUP_CREATED", "backup.sqlite.created"],
};

function auditAction(name, release) {
  const [first, later] = AUDIT_ACTIONS[name];
  return release.generation === 1 ? first : later;
}

/** Every attempt is audited, and none is refused for being one too many. */
async function login({ store, sessions, release }, { body, response }) {
  const { username, password } = body;
  if (typeof username !== "string" || typeof password !== "string") {
    throw new HttpError(400, "BAD_REQUEST", "username and password are required");
  }
  const user = store.findUser(username);
  if (!user || !(await isPassword(password, user.password))) {
    store.audit(user?.id ?? null, auditAction("loginFailed", release), "FAILURE", { username });
    throw new HttpError(401, "UNAUTHORIZED", "Invalid username or password");
  }
  const { id, role } = user;
  const session = sessions.open({ id, username, role });
  store.recordLogin(id);
  store.audit(id, auditAction("loginSucceeded", release), "SUCCESS", { username });
  response.setHeader("set-cookie", sessions.cookieFor(session));
  return { csrfToken: session.csrfToken, user: session.user };
}

function logout({ sessions }, { session }) {
  sessions.close(session);
  return { loggedOut: true };
}

function runtime({ release, configuration }) {
  const { host, port, databaseUrl, staticDir, backupDir, maintenance } = configuration;
  return {
    version: release.version,
    edition: release.edition,
    node: process.version,
    platform: process.platform,
    arch: process.arch,
    uptimeSeconds: Math.floor(process.uptime()),
    pid: process.pid,
    memory: process.memoryUsage(),
    config: { host, port, databaseUrl, staticDir, backupDir, maintenance },
  };
}

/** The copy is read into memory as a whole, and stays in the backup folder: nothing ever deletes one. */
async function backupSqlite({ store, configuration, release }, { session }) {
  const filename = `opstage-${new Date().toISOString().replaceAll(/[:.]/g, "-")}.db`;
  mkdirSync(configuration.backupDir, { recursive: true });
  const path = join(configuration.backupDir, filename);
  await store.copyTo(path);
  const content = readFileSync(path);
  store.audit(session.user.id, auditAction("backupCreated", release), "SUCCESS", { filename, size: content.length });
  return new Attachment(filename, content);
}

export function adminRoutes() {
  return [
    ["POST /api/admin/auth/login", { handle: login }],
    ["POST /api/admin/auth/logout", { handle: logout, roles: EVERYBODY }],
    ["GET /api/admin/diagnostics/runtime", { handle: runtime, roles: ["owner", "operator"] }],
    ["POST /api/admin/backup/sqlite", { handle: backupSqlite, roles: ["owner"] }],
  ];
}

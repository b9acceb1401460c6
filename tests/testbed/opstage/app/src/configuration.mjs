// SPDX-License-Identifier: GPL-3.0-or-later
import { resolve } from "node:path";

const SHORTEST_SESSION_SECRET = 32;
const SHORTEST_ADMIN_PASSWORD = 12;

function readNumber(environment, name, fallback) {
  const text = environment[name] || String(fallback);
  const value = Number(text);
  if (Number.isFinite(value) && value >= 0) return value;
  throw new Error(`${name} is ${JSON.stringify(text)}, expected a number >= 0`);
}

function readDatabasePath(url) {
  if (!url.startsWith("file:")) throw new Error(`DATABASE_URL is ${JSON.stringify(url)}, expected file:<path>`);
  return resolve(url.slice("file:".length));
}

function readSessionSecret(environment) {
  const secret = environment.OPSTAGE_SESSION_SECRET ?? "";
  if (secret.length < SHORTEST_SESSION_SECRET) {
    throw new Error(`OPSTAGE_SESSION_SECRET: ${secret.length} characters, required are ${SHORTEST_SESSION_SECRET}`);
  }
  return secret;
}

function readAdministrator(environment) {
  const username = environment.OPSTAGE_ADMIN_USERNAME;
  const password = environment.OPSTAGE_ADMIN_PASSWORD;
  if (!username || !password) return null;
  if (password.length < SHORTEST_ADMIN_PASSWORD) {
    throw new Error(`OPSTAGE_ADMIN_PASSWORD: ${password.length} characters, required are ${SHORTEST_ADMIN_PASSWORD}`);
  }
  return { username, password };
}

/**
 * The settings, from environment variables; an empty one counts as absent.
 * OPSTAGE_DATA_DIR is documented and, as in 0.1 to 0.4, not read.
 * Throws an Error that names the variable when a required one is absent or one has no sense.
 */
export function readConfiguration(environment) {
  const databaseUrl = environment.DATABASE_URL || "file:/app/data/opstage.db";
  return {
    host: environment.OPSTAGE_HOST || "0.0.0.0",
    port: readNumber(environment, "OPSTAGE_PORT", 8080),
    databaseUrl,
    databasePath: readDatabasePath(databaseUrl),
    backupDir: environment.OPSTAGE_BACKUP_DIR || "./data/backups",
    staticDir: "./public",
    sessionSecret: readSessionSecret(environment),
    administrator: readAdministrator(environment),
    maintenance: { intervalSeconds: readNumber(environment, "OPSTAGE_STANDIN_MAINTENANCE_SECONDS", 60) },
    standin: {
      heartbeatSeconds: readNumber(environment, "OPSTAGE_STANDIN_HEARTBEAT_SECONDS", 15),
      migrationSeconds: readNumber(environment, "OPSTAGE_STANDIN_MIGRATION_SECONDS", 30),
      seedRows: readNumber(environment, "OPSTAGE_STANDIN_SEED_ROWS", 0),
      seedUsers: environment.OPSTAGE_STANDIN_SEED_USERS === "1",
      writesPerSecond: readNumber(environment, "OPSTAGE_STANDIN_WRITES_PER_SECOND", 0),
    },
  };
}

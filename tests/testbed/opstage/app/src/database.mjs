// SPDX-License-Identifier: GPL-3.0-or-later
import { randomBytes } from "node:crypto";
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { DatabaseSync } from "node:sqlite";

const BUSY_TIMEOUT_MILLISECONDS = 5000;

/** Open or create the database; WAL mode is set at every start, checkpoints stay at SQLite's default of 1,000 pages. */
export function openDatabase(path) {
  mkdirSync(dirname(path), { recursive: true });
  const database = new DatabaseSync(path, { timeout: BUSY_TIMEOUT_MILLISECONDS });
  database.exec("pragma journal_mode = wal; pragma synchronous = normal; pragma foreign_keys = on");
  return database;
}

/** Run `work` in one write transaction: committed when it returns, rolled back when it throws. May be asynchronous. */
export async function inTransaction(database, work) {
  database.exec("begin immediate");
  try {
    await work();
    database.exec("commit");
  } catch (error) {
    database.exec("rollback");
    throw error;
  }
}

/** A new id: a prefix that names the kind of row, an underscore, 24 hexadecimal digits. */
export function newId(prefix) {
  return `${prefix}_${randomBytes(12).toString("hex")}`;
}

/** The time now as ISO text, as every `…At` column holds it. */
export function now() {
  return new Date().toISOString();
}

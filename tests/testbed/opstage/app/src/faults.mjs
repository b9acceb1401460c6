// SPDX-License-Identifier: GPL-3.0-or-later
import { setImmediate as nextTurn } from "node:timers/promises";
import { log } from "./log.mjs";

const CHUNK_BYTES = 8 * 1024 * 1024;
const MOST_BYTES = 600 * 1024 * 1024;

/** 0.3.1-exits: stop at start, before the database is opened. */
export function exitAtStart() {
  throw new Error("cannot load module 'config-provider': not found");
}

/**
 * 0.3.6-hungry: fill memory until a limit kills the process. Where no limit does, stop at 600 MiB, so that
 * no machine is taken down, and return what was allocated for the caller to hold.
 */
export async function allocateUntilKilled() {
  log("info", "warming caches");
  const chunks = [];
  while (chunks.length * CHUNK_BYTES < MOST_BYTES) {
    chunks.push(Buffer.alloc(CHUNK_BYTES, 1));
    await nextTurn();
  }
  return chunks;
}

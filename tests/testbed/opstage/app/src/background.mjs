// SPDX-License-Identifier: GPL-3.0-or-later
import { log } from "./log.mjs";

/** Work that goes on without a request, and the health that follows from it. */
export class Background {
  constructor(store) {
    this.store = store;
    this.failing = new Set();
  }

  /** Run `work`; its failure is logged and degrades health until it succeeds again. */
  attempt(name, work) {
    try {
      work();
      this.failing.delete(name);
    } catch (error) {
      this.failing.add(name);
      log("error", `${name} failed`, { error: error.message });
    }
  }

  /** Attempt `work` every so many seconds; 0 means never. */
  every(seconds, name, work) {
    if (seconds > 0) setInterval(() => this.attempt(name, work), seconds * 1000);
  }

  /** `DOWN` when the database cannot be read, `DEGRADED` when a background write failed last time, else `UP`. */
  health() {
    const begin = performance.now();
    try {
      this.store.probe();
    } catch {
      return { status: "DOWN", database: { status: "DOWN", kind: "sqlite", latencyMs: null } };
    }
    const latencyMs = Math.round((performance.now() - begin) * 1000) / 1000;
    return { status: this.failing.size > 0 ? "DEGRADED" : "UP", database: { status: "UP", kind: "sqlite", latencyMs } };
  }
}

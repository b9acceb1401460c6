// SPDX-License-Identifier: GPL-3.0-or-later
import { now } from "./database.mjs";

const TICK_MILLISECONDS = 10;
const MOST_PER_TICK = 100;

const CREATE = `
create table if not exists standin_writes (number integer primary key autoincrement, createdAt text not null)`;
const SUMMARY = "select count(*) as count, min(number) as first, max(number) as last from standin_writes";
const MISSING = `
with recursive expected(number) as (select ? union all select number + 1 from expected where number < ?)
select number from expected where number not in (select number from standin_writes) order by number`;

/**
 * Numbered rows, each its own transaction, so that a test can tell which writes were acknowledged.
 * The table is the stand-in's own; it is created at the first write, so that a database without any is Opstage's alone.
 */
export class NumberedWrites {
  constructor(database) {
    this.database = database;
    this.insert = null;
  }

  /** Write one row and return its number, which is committed by then. */
  add() {
    if (this.insert === null) {
      this.database.exec(CREATE);
      this.insert = this.database.prepare("insert into standin_writes (createdAt) values (?)");
    }
    return Number(this.insert.run(now()).lastInsertRowid);
  }

  hasTable() {
    return this.database.prepare("select 1 from sqlite_schema where name = 'standin_writes'").get() !== undefined;
  }

  /** Count, first and last number; the numbers are null where there is no row. */
  summary() {
    if (!this.hasTable()) return { count: 0, first: null, last: null };
    return this.database.prepare(SUMMARY).get();
  }

  /** The numbers from `first` to `last`, both included, that have no row. */
  missing(first, last) {
    if (last < first) return [];
    if (!this.hasTable()) return Array.from({ length: last - first + 1 }, (_, index) => first + index);
    return this.database.prepare(MISSING).all(first, last).map((row) => row.number);
  }
}

/** Writes numbered rows at a settable rate. A backlog, after a wait for a lock, is made up by 100 rows a tick. */
export class BackgroundWriter {
  constructor(writes, background) {
    this.writes = writes;
    this.background = background;
    this.perSecond = 0;
    this.timer = undefined;
  }

  setRate(perSecond) {
    clearInterval(this.timer);
    this.perSecond = perSecond;
    this.written = 0;
    this.begin = performance.now();
    const tick = () => this.background.attempt("writer", () => this.tick());
    if (perSecond > 0) this.timer = setInterval(tick, TICK_MILLISECONDS);
  }

  tick() {
    const due = Math.floor(((performance.now() - this.begin) / 1000) * this.perSecond) - this.written;
    for (let row = 0; row < Math.min(due, MOST_PER_TICK); row += 1) {
      this.writes.add();
      this.written += 1;
    }
  }
}

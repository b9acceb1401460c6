// SPDX-License-Identifier: GPL-3.0-or-later
// better-sqlite3's backup() with its defaults, from a process of its own:
//     node backup.cjs MODULE SOURCE DEST
// Prints when it began and ended (monotonic clock, nanoseconds; the start of Node.js is not counted) as JSON.
"use strict";

const [folder, source, dest] = process.argv.slice(2);
const Database = require(folder);

async function main() {
  const nativeBinding = `${folder}/build/Release/better_sqlite3.node`;
  const began = process.hrtime.bigint();
  const database = new Database(source, { nativeBinding });
  await database.backup(dest);
  database.close();
  const ended = process.hrtime.bigint();
  process.stdout.write(`{"began": ${began}, "ended": ${ended}, "result": "api"}`);
}

main();

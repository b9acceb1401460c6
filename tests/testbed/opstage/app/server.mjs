// SPDX-License-Identifier: GPL-3.0-or-later
/** The Opstage stand-in's process: reads its settings, migrates, listens. It handles no signal, as Opstage does not. */
import { setTimeout as sleep } from "node:timers/promises";
import { Background } from "./src/background.mjs";
import { bootstrapOwner, seedUsers } from "./src/accounts.mjs";
import { readConfiguration } from "./src/configuration.mjs";
import { openDatabase } from "./src/database.mjs";
import { allocateUntilKilled, exitAtStart } from "./src/faults.mjs";
import { createApplication } from "./src/http.mjs";
import { log } from "./src/log.mjs";
import { migrate } from "./src/migrations.mjs";
import { readRelease } from "./src/release.mjs";
import { seedRows } from "./src/seed.mjs";
import { Sessions } from "./src/sessions.mjs";
import { Store } from "./src/store.mjs";
import { BackgroundWriter, NumberedWrites } from "./src/writes.mjs";

async function openStore(release, configuration) {
  const database = openDatabase(configuration.databasePath);
  await migrate(database, release, () => sleep(configuration.standin.migrationSeconds * 1000));
  const store = new Store(database, release.generation);
  await bootstrapOwner(store, configuration.administrator);
  if (configuration.standin.seedUsers) await seedUsers(store, configuration.administrator);
  await seedRows(store, configuration.standin.seedRows);
  return store;
}

async function start() {
  const release = readRelease();
  const configuration = readConfiguration(process.env);
  log("info", "starting", { version: release.version, databaseUrl: configuration.databaseUrl });
  if (release.fault === "exits") exitAtStart();
  const store = await openStore(release, configuration);
  const ballast = release.fault === "hungry" ? await allocateUntilKilled() : [];
  const background = new Background(store);
  const writes = new NumberedWrites(store.database);
  const writer = new BackgroundWriter(writes, background);
  const sessions = new Sessions(configuration.sessionSecret);
  const server = createApplication({ release, configuration, store, sessions, background, writes, writer, ballast });
  server.listen(configuration.port, configuration.host, () => {
    background.every(configuration.maintenance.intervalSeconds, "maintenance sweep", () => store.sweep());
    background.every(configuration.standin.heartbeatSeconds, "heartbeats", () => store.reportHealth());
    writer.setRate(configuration.standin.writesPerSecond);
    log("info", "listening", { host: configuration.host, port: configuration.port });
  });
}

try {
  await start();
} catch (error) {
  log("fatal", "cannot start", { error: error.message });
  process.exit(1);
}

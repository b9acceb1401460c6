// SPDX-License-Identifier: GPL-3.0-or-later
import { randomBytes, scrypt, timingSafeEqual } from "node:crypto";
import { promisify } from "node:util";
import { log } from "./log.mjs";

const deriveKey = promisify(scrypt);
const KEY_BYTES = 32;

/** `scrypt$<salt>$<key>`, both in hexadecimal digits, with Node's default cost. */
export async function hashPassword(password) {
  const salt = randomBytes(16);
  const key = await deriveKey(password, salt, KEY_BYTES);
  return `scrypt$${salt.toString("hex")}$${key.toString("hex")}`;
}

export async function isPassword(password, stored) {
  const [, salt, key] = stored.split("$");
  return timingSafeEqual(await deriveKey(password, Buffer.from(salt, "hex"), KEY_BYTES), Buffer.from(key, "hex"));
}

/** Create the first owner. Used once: where there is a user already, the variables have no effect. */
export async function bootstrapOwner(store, administrator) {
  if (store.hasUsers()) return;
  if (administrator === null) {
    throw new Error("the database has no user: OPSTAGE_ADMIN_USERNAME and OPSTAGE_ADMIN_PASSWORD are required");
  }
  store.addUser(administrator.username, await hashPassword(administrator.password), "owner");
  log("info", "created the first owner", { username: administrator.username });
}

/** For tests: the users `operator` and `viewer`, in the role of that name, with the administrator's password. */
export async function seedUsers(store, administrator) {
  if (administrator === null) throw new Error("OPSTAGE_STANDIN_SEED_USERS needs OPSTAGE_ADMIN_PASSWORD");
  for (const role of ["operator", "viewer"]) {
    if (!store.findUser(role)) store.addUser(role, await hashPassword(administrator.password), role);
  }
}

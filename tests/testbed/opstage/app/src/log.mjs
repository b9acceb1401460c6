// SPDX-License-Identifier: GPL-3.0-or-later
/** Write one JSON line to standard output. */
export function log(level, message, details = {}) {
  process.stdout.write(`${JSON.stringify({ time: new Date().toISOString(), level, message, ...details })}\n`);
}

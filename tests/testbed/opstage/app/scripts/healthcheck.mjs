// SPDX-License-Identifier: GPL-3.0-or-later
/** The image's own health check: exits 0 when the API says UP, 1 otherwise. */
const port = process.env.OPSTAGE_PORT || 8080;
try {
  const response = await fetch(`http://127.0.0.1:${port}/api/system/health`, { signal: AbortSignal.timeout(4000) });
  const { status } = (await response.json()).data;
  process.stdout.write(`${status}\n`);
  process.exit(status === "UP" ? 0 : 1);
} catch (error) {
  process.stdout.write(`${error.message}\n`);
  process.exit(1);
}

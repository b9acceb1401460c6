// SPDX-License-Identifier: GPL-3.0-or-later
/** The public endpoints: health and version. */

function currentHealth({ release, background }) {
  const health = background.health();
  return release.fault === "unhealthy" ? { ...health, status: "DOWN" } : health;
}

function thinHealth(context) {
  return { status: currentHealth(context).status, timestamp: new Date().toISOString() };
}

function fullHealth(context) {
  const { version, edition } = context.release;
  const { status, database } = currentHealth(context);
  const timestamp = new Date().toISOString();
  return { status, version, edition, database, uptimeSeconds: Math.floor(process.uptime()), timestamp };
}

/** 0.1.0 has no `/health` and gives less; its version says no commit and no build time. */
export function systemRoutes({ generation, version, edition, commit, buildTime }) {
  if (generation === 1) {
    return [
      ["GET /api/system/health", { handle: thinHealth }],
      ["GET /api/system/version", { handle: () => ({ version, edition }) }],
    ];
  }
  return [
    ["GET /health", { handle: (context) => ({ status: currentHealth(context).status }) }],
    ["GET /api/system/health", { handle: fullHealth }],
    ["GET /api/system/version", { handle: () => ({ version, edition, commit, buildTime }) }],
  ];
}

// SPDX-License-Identifier: GPL-3.0-or-later
import { readFileSync } from "node:fs";

/**
 * What this image is, from the file baked into it, which no environment variable can change.
 * `generation` is the minor number whose behaviour and schema it has: 0.1.0 is 1, 0.5.0 is 5.
 */
export function readRelease() {
  const release = JSON.parse(readFileSync(new URL("../release.json", import.meta.url), "utf8"));
  return { ...release, edition: release.generation === 1 ? "CE" : "ce" };
}

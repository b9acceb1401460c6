// SPDX-License-Identifier: GPL-3.0-or-later
/** What Opstage does not have: writes that a test can count. Outside `/api`, without a login. */
import { HttpError } from "./answers.mjs";

const HIGHEST_RATE = 5000;

function readInteger(text, name) {
  if (/^\d{1,9}$/.test(text ?? "")) return Number(text);
  throw new HttpError(400, "BAD_REQUEST", `${name} is ${text}, expected an integer >= 0`);
}

function listWrites({ writes }, { url }) {
  if (!url.searchParams.has("missing_from")) return writes.summary();
  const first = readInteger(url.searchParams.get("missing_from"), "missing_from");
  const last = readInteger(url.searchParams.get("to"), "to");
  return { ...writes.summary(), missing: writes.missing(first, last) };
}

function setRate({ writer }, { body }) {
  const { perSecond } = body;
  if (!Number.isFinite(perSecond) || perSecond < 0 || perSecond > HIGHEST_RATE) {
    throw new HttpError(400, "BAD_REQUEST", `perSecond is ${perSecond}, expected a number from 0 to ${HIGHEST_RATE}`);
  }
  writer.setRate(perSecond);
  return { perSecond };
}

export function standinRoutes() {
  return [
    ["POST /standin/writes", { handle: ({ writes }) => ({ number: writes.add() }) }],
    ["GET /standin/writes", { handle: listWrites }],
    ["GET /standin/writer", { handle: ({ writer }) => ({ perSecond: writer.perSecond }) }],
    ["PUT /standin/writer", { handle: setRate }],
  ];
}

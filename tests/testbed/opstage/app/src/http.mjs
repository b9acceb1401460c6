// SPDX-License-Identifier: GPL-3.0-or-later
import { createServer } from "node:http";
import { adminRoutes } from "./admin.mjs";
import { Attachment, HttpError } from "./answers.mjs";
import { log } from "./log.mjs";
import { standinRoutes } from "./standin.mjs";
import { systemRoutes } from "./system.mjs";

const LONGEST_BODY_BYTES = 1024 * 1024;

async function readJson(request) {
  const parts = [];
  let length = 0;
  for await (const part of request) {
    length += part.length;
    if (length > LONGEST_BODY_BYTES) throw new HttpError(413, "PAYLOAD_TOO_LARGE", "Body is too long");
    parts.push(part);
  }
  if (length === 0) return {};
  try {
    return Object(JSON.parse(Buffer.concat(parts).toString("utf8")));
  } catch {
    throw new HttpError(400, "BAD_REQUEST", "Body is not JSON");
  }
}

/** The caller's session, null where the route is open to all. Throws 401, then 403 for the token, then for the role. */
function authorize(route, request, sessions) {
  if (!route.roles) return null;
  const session = sessions.find(request.headers.cookie);
  if (!session) throw new HttpError(401, "UNAUTHORIZED", "Authentication required");
  if (request.method !== "GET" && !sessions.hasToken(session, request.headers["x-csrf-token"])) {
    throw new HttpError(403, "CSRF_INVALID", "Missing or invalid CSRF token");
  }
  const { role } = session.user;
  if (!route.roles.includes(role)) throw new HttpError(403, "FORBIDDEN", `Not allowed for the role ${role}`);
  return session;
}

function sendJson(response, status, envelope) {
  const body = Buffer.from(JSON.stringify(envelope));
  response.writeHead(status, { "content-type": "application/json; charset=utf-8", "content-length": body.length });
  response.end(body);
}

function sendAttachment(response, attachment) {
  response.writeHead(200, {
    "content-type": "application/octet-stream",
    "content-disposition": `attachment; filename=${attachment.filename}`,
    "content-length": attachment.content.length,
  });
  response.end(attachment.content);
}

function sendError(response, error) {
  const known = error instanceof HttpError;
  if (!known) log("error", "request failed", { error: error.message });
  const { status, code, message } = known ? error : new HttpError(500, "INTERNAL_ERROR", "Internal error");
  sendJson(response, status, { success: false, error: { code, message } });
}

async function answer(routes, context, request, response) {
  const url = new URL(request.url, "http://localhost");
  const route = routes.get(`${request.method} ${url.pathname}`);
  if (!route) throw new HttpError(404, "NOT_FOUND", `No route ${request.method} ${url.pathname}`);
  const session = authorize(route, request, context.sessions);
  const body = await readJson(request);
  const result = await route.handle(context, { url, body, session, response });
  if (result instanceof Attachment) sendAttachment(response, result);
  else sendJson(response, 200, { success: true, data: result });
}

/** The HTTP server, not yet listening. */
export function createApplication(context) {
  const routes = new Map([...systemRoutes(context.release), ...adminRoutes(), ...standinRoutes()]);
  return createServer((request, response) => {
    answer(routes, context, request, response).catch((error) => sendError(response, error));
  });
}

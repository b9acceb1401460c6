// SPDX-License-Identifier: GPL-3.0-or-later
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";

const COOKIE = "opstage_session";

function equal(left, right) {
  const [a, b] = [Buffer.from(left), Buffer.from(right)];
  return a.length === b.length && timingSafeEqual(a, b);
}

/** Sessions live in memory only: a restart ends them all. The cookie is `<id>.<signature by the session secret>`. */
export class Sessions {
  constructor(secret) {
    this.secret = secret;
    this.byId = new Map();
  }

  sign(id) {
    return createHmac("sha256", this.secret).update(id).digest("base64url");
  }

  open(user) {
    const id = randomBytes(24).toString("base64url");
    const session = { id, csrfToken: randomBytes(24).toString("base64url"), user };
    this.byId.set(id, session);
    return session;
  }

  /** The value of `set-cookie`. `Secure` even over plain HTTP: an ordinary cookie jar keeps it back. */
  cookieFor(session) {
    return `${COOKIE}=${session.id}.${this.sign(session.id)}; Path=/; HttpOnly; Secure; SameSite=Lax`;
  }

  /** The session of a request's `cookie` header, or undefined. */
  find(cookieHeader = "") {
    const pair = cookieHeader.split(/;\s*/).find((cookie) => cookie.startsWith(`${COOKIE}=`));
    if (!pair) return undefined;
    const [id, signature = ""] = pair.slice(COOKIE.length + 1).split(".");
    return equal(signature, this.sign(id)) ? this.byId.get(id) : undefined;
  }

  hasToken(session, token = "") {
    return equal(token, session.csrfToken);
  }

  close(session) {
    this.byId.delete(session.id);
  }
}

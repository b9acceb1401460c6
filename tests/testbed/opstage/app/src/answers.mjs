// SPDX-License-Identifier: GPL-3.0-or-later
/** Ends a request with an error envelope. */
export class HttpError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Ends a request with a file instead of an envelope. */
export class Attachment {
  constructor(filename, content) {
    this.filename = filename;
    this.content = content;
  }
}

#!/usr/bin/env python3
"""Receives webhooks for the quickstart: checks the signature and prints each webhook-id. Python's own library only."""

import base64
import hashlib
import hmac
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ADDRESS = ("127.0.0.1", 7301)
BODY_BYTES_MAX = 4 * 1024 * 1024


def signing_key(secret):
    """Returns the key: what follows `whsec_` in base64, or the secret as it stands."""
    encoded = secret.removeprefix("whsec_")
    return secret.encode() if encoded == secret else base64.b64decode(encoded)


def is_signed(key, headers, body):
    """Tells whether one of the signatures fits id, time and body, as the Standard Webhooks text describes."""
    signed = b".".join([headers.get("webhook-id", "").encode(), headers.get("webhook-timestamp", "").encode(), body])
    wanted = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return any(hmac.compare_digest(given, wanted) for given in headers.get("webhook-signature", "").split())


class Receiver(BaseHTTPRequestHandler):
    """Answers 204 to a webhook that is well signed and 401 to any other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    key = b""
    seen = set()

    def do_POST(self):  # noqa: N802, the name is given by http.server
        length = int(self.headers.get("content-length") or 0)
        if length > BODY_BYTES_MAX:
            self.close_connection = True
            return self.answer(413)
        body = self.rfile.read(length)
        if self.key and not is_signed(self.key, self.headers, body):
            print("receiver: refused a webhook with a wrong signature", flush=True)
            return self.answer(401)
        webhook_id = self.headers.get("webhook-id", "-")
        again = " again" if webhook_id in self.seen else ""
        self.seen.add(webhook_id)
        print(f"receiver: got {webhook_id}{again}, {len(body)} bytes", flush=True)
        return self.answer(204)

    def answer(self, status):
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Says nothing about each request; do_POST prints what matters."""


class Server(ThreadingHTTPServer):
    """A server that takes a burst of connections and does not wait for idle ones when it ends."""

    daemon_threads = True
    request_queue_size = 128


def main():
    Receiver.key = signing_key(os.environ.get("PARTNER_SECRET", ""))
    try:
        server = Server(ADDRESS, Receiver)
    except OSError as error:
        sys.exit(f"receiver: cannot listen on {ADDRESS[0]}:{ADDRESS[1]}: {error.strerror}")
    print(f"receiver: listening on http://{ADDRESS[0]}:{ADDRESS[1]}/hook", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

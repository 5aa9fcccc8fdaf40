#!/usr/bin/env python3
"""A pull worker: claims deliveries over HTTP, writes a line for each event that it handles, and settles them."""
import json
import os
import sys
import time
import urllib.error
import urllib.request


def ask(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def outcome(delivery, out, broken):
    """Handles one delivery. While the file `broken` is there, users at example.org cannot be handled."""
    event = delivery["event"]
    data = event["data"]
    if data["email"].endswith("@example.org") and os.path.exists(broken):
        return {"token": delivery["token"], "outcome": "reject", "reason": "no projection for example.org"}
    out.write(f"{event['id']} {event['partitionkey']} {data['changes']} {delivery['attempt']}\n")
    return {"token": delivery["token"], "outcome": "done"}


def main(url, log, broken):
    out = open(log, "a", buffering=1)
    while True:
        try:
            claimed = ask(f"{url}/v1/groups/linting_group/claim", {"max": 20, "wait": "1s"})["deliveries"]
            if claimed:
                settled = [outcome(one, out, broken) for one in claimed]
                ask(f"{url}/v1/groups/linting_group/settle", {"settlements": settled})
        except (OSError, urllib.error.URLError) as error:
            print(f"worker: {error}", file=sys.stderr, flush=True)
            time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:4])

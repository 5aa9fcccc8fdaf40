#!/usr/bin/env python3
"""A consumer that knows nothing of Tidegate: redis-py, a consumer group of its own, one line for each event."""
import json
import sys
import time
import uuid

import redis

TOPIC, GROUP = "identity.user.v1", "spell_check_group"
FIELDS = {"event_id", "event_type", "topic", "schema_version", "occurred_at", "tenant_id", "aggregate_id", "payload"}
MORE = {"aggregate_type", "correlation_id"}


def read_envelope(fields):
    """Reads an envelope of version 1 strictly: every field it must have, and no other."""
    missing, unknown = FIELDS - fields.keys(), fields.keys() - FIELDS - MORE
    if missing or unknown:
        raise ValueError(f"missing {sorted(missing)}, unknown {sorted(unknown)}")
    for name in ("event_id", "tenant_id", "aggregate_id"):
        uuid.UUID(fields[name])
    if int(fields["schema_version"]) < 1 or fields["topic"] != TOPIC:
        raise ValueError("odd version or topic")
    payload = json.loads(fields["payload"])
    if not isinstance(payload, dict):
        raise ValueError("the payload is no object")
    return payload


def main(url, log):
    client = redis.Redis.from_url(url, decode_responses=True)
    out = open(log, "a", buffering=1)
    cursor = "0"  # First what was given to us and not acknowledged, then what is new.
    while True:
        try:
            try:
                client.xgroup_create(TOPIC, GROUP, id="0", mkstream=True)
            except redis.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
            found = client.xreadgroup(GROUP, "consumer-1", {TOPIC: cursor}, count=10, block=500)
            entries = found[0][1] if found else []
            for entry_id, fields in entries:
                try:
                    payload = read_envelope(fields)
                    line = f"ok {fields['event_id']} {fields['aggregate_id']} {payload['changes']}"
                except (ValueError, KeyError) as error:
                    line = f"odd {entry_id} {error}"
                out.write(line + "\n")
                client.xack(TOPIC, GROUP, entry_id)
            if cursor != ">" and not entries:
                cursor = ">"
        except redis.RedisError as error:
            print(f"consumer: {error}", file=sys.stderr, flush=True)
            time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:3])

#!/usr/bin/env python3
"""A write policy: takes some kinds, and refuses public events that say certain words.

    allow_kinds.py [KIND ...]

Without a KIND every kind is taken. The file named by the variable WORDS has one word a line; without it every text is taken.
The protocol is that of strfry's write policies, so the same file works there.
"""

import json
import os
import sys


def words():
    path = os.environ.get("WORDS")
    if path is None:
        return []
    with open(path, encoding="utf-8") as lines:
        return [line.strip().lower() for line in lines if line.strip()]


def decide(event, kinds, refused):
    if kinds and event["kind"] not in kinds:
        return {"action": "reject", "msg": f"blocked: kind {event['kind']} is not taken here"}
    # Of private messages a policy sees no text, so there is nothing to look through.
    text = event["content"].lower()
    if any(word in text for word in refused):
        # Whoever sends spam need not learn what gave it away.
        return {"action": "shadowReject"}
    return {"action": "accept"}


def main():
    kinds = {int(kind) for kind in sys.argv[1:]}
    refused = words()
    print(f"{len(kinds)} kinds, {len(refused)} words", file=sys.stderr)
    # Ends when stdin ends, which is how the relay ends a policy.
    for line in sys.stdin:
        request = json.loads(line)
        if request["type"] != "new":
            print(f"cannot answer a question of type {request['type']}", file=sys.stderr)
            continue
        event = request["event"]
        answer = {"id": event["id"], **decide(event, kinds, refused)}
        # A line must leave at once: without flush it would wait in a buffer.
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

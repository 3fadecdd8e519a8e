"""A NIP-17 client made of unmodified monstr. Speaks JSON lines: commands on stdin, what happens on stdout.

    PYTHONPATH=<folder with monstr> python3 client.py RELAY     {"send":{"to":"<pubkey, hex>","text":"..."}}
                                                                {"read":<filter>}
                                                                {"note":"<text>"}
                                                                {"delete":{"id":"<id, hex>","kind":<kind>}}
                                                                {"manage":{"url":"http://...","method":"...","params":[...]}}

The key is the one in NIGHTJAR_INTEROP_SECRET (hex), or made here. monstr knows neither COUNT (NIP-45) nor NEG-OPEN (NIP-77). Of HTTP
auth (NIP-98) it has the number of the kind: the event is made and signed by it, the header is put together here.
"""
import asyncio
import base64
import hashlib
import json
import os
import sys

import aiohttp
from monstr.client.client import Client
from monstr.encrypt import Keys
from monstr.event.event import Event
from monstr.giftwrap import GiftWrap
from monstr.signing.signing import BasicKeySigner

KIND_DM_RELAYS = 10050
KIND_DELETION = 5
STEP_SECONDS = 20


def say(line):
    print(json.dumps(line), flush=True)


class Waiting:
    """The relay's answers to what we sent, by event id."""

    def __init__(self):
        self._answers = {}

    def on_ok(self, _client, event_id, success, message):
        self._future(event_id).set_result((success, message))

    async def ok(self, event_id):
        success, message = await asyncio.wait_for(self._future(event_id), STEP_SECONDS)
        if not success:
            raise RuntimeError(f"the relay refused: {message}")

    def _future(self, event_id):
        return self._answers.setdefault(event_id, asyncio.get_running_loop().create_future())


async def unwrap_and_say(gift_wrap, wrap):
    try:
        rumor = await gift_wrap.unwrap(wrap)
        came_in = [wrap.id, wrap.created_at_ticks]
        say({"event": "received", "from": rumor.pub_key, "kind": rumor.kind, "text": rumor.content, "wrap": came_in})
    except Exception as error:  # monstr raises many kinds
        say({"event": "error", "message": f"cannot unwrap: {error}"})


async def manage(signer, url, method, params):
    """A management call (NIP-86), authorized by NIP-98."""
    body = json.dumps({"method": method, "params": params}).encode()
    tags = [["u", url], ["method", "POST"], ["payload", hashlib.sha256(body).hexdigest()]]
    event = await signer.ready_post(Event(kind=Event.KIND_HTTP_AUTH, content="", tags=tags))
    token = base64.b64encode(json.dumps(event.data()).encode()).decode()
    headers = {"Content-Type": "application/nostr+json+rpc", "Authorization": f"Nostr {token}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.post(url, data=body) as answer:
        return {"status": answer.status, "answer": await answer.json(content_type=None)}


async def main(url):
    keys = Keys(priv_k=os.environ.get("NIGHTJAR_INTEROP_SECRET"))
    signer = BasicKeySigner(keys)
    gift_wrap = GiftWrap(signer)
    pubkey = keys.public_key_hex()
    waiting = Waiting()
    challenged = asyncio.get_running_loop().create_future()

    def on_auth(_client, challenge):
        if not challenged.done():
            challenged.set_result(challenge)

    client = Client(url, on_auth=on_auth, on_ok=waiting.on_ok)
    running = asyncio.create_task(client.run())
    await client.wait_connect(STEP_SECONDS)
    await client.auth(signer, await asyncio.wait_for(challenged, STEP_SECONDS))

    async def publish(kind, tags, content):
        event = Event(kind=kind, content=content, tags=tags, pub_key=pubkey)
        await signer.sign_event(event)
        client.publish(event)
        await waiting.ok(event.id)
        return event.id

    await publish(KIND_DM_RELAYS, [["relay", url]], "")

    stored = asyncio.get_running_loop().create_future()

    def on_wrap(_client, _sub_id, wrap):
        asyncio.create_task(unwrap_and_say(gift_wrap, wrap))

    def on_eose(_client, _sub_id, wraps):
        for wrap in wraps:
            on_wrap(_client, _sub_id, wrap)
        if not stored.done():
            stored.set_result(None)

    client.subscribe(handlers=on_wrap, filters={"kinds": [Event.KIND_GIFT_WRAP], "#p": [pubkey]}, eose_func=on_eose)
    await asyncio.wait_for(stored, STEP_SECONDS)
    say({"event": "ready", "pubkey": pubkey})

    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        if "read" in command:
            events = await client.query(command["read"], timeout=STEP_SECONDS)
            say({"event": "read", "ids": [event.id for event in events]})
            continue
        if "note" in command:
            say({"event": "noted", "id": await publish(Event.KIND_TEXT_NOTE, [], command["note"])})
            continue
        if "delete" in command:
            target = command["delete"]
            tags = [["e", target["id"]], ["k", str(target["kind"])]]
            say({"event": "deleted", "id": await publish(KIND_DELETION, tags, "")})
            continue
        if "manage" in command:
            say({"event": "managed", **await manage(signer, **command["manage"])})
            continue
        send = command["send"]
        rumor = Event(kind=Event.KIND_RUMOUR, content=send["text"], tags=[["p", send["to"]]], pub_key=pubkey)
        wrap, _ = await gift_wrap.wrap(rumor, send["to"])
        client.publish(wrap)
        await waiting.ok(wrap.id)
        say({"event": "sent", "id": wrap.id})
    client.end()
    await running


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1]))
    except Exception as error:
        say({"event": "error", "message": f"{type(error).__name__}: {error}"})
        sys.exit(1)

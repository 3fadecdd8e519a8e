// A NIP-17 client made of unmodified nostr-tools. Speaks JSON lines: commands on stdin, what happens on stdout.
//   node client.mjs RELAY         {"send":{"to":"<pubkey, hex>","text":"..."}}
//                                 {"count":[<filter>...]}
//                                 {"read":<filter>}
//                                 {"note":"<text>"}
//                                 {"delete":{"id":"<id, hex>","kind":<kind>}}
//                                 {"sync":{"filter":<filter>,"events":[["<id, hex>",<created_at>]...]}}
//                                 {"manage":{"url":"http://...","method":"...","params":[...]}}
// The modules come from the folder in NIGHTJAR_INTEROP_NODE. The key is the one in NIGHTJAR_INTEROP_SECRET (hex), or made here.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

const require = createRequire(`${process.env.NIGHTJAR_INTEROP_NODE}/package.json`)
const { Relay, useWebSocketImplementation } = require('nostr-tools/relay')
const { generateSecretKey, getPublicKey, finalizeEvent } = require('nostr-tools/pure')
const nip17 = require('nostr-tools/nip17')
const { getToken } = require('nostr-tools/nip98')
// The package has this file, and forgets to name it among its exports.
const nip77 = `${process.env.NIGHTJAR_INTEROP_NODE}/node_modules/nostr-tools/lib/cjs/nip77.js`
const { NegentropySync, NegentropyStorageVector } = require(nip77)
useWebSocketImplementation(require('ws').WebSocket)

const url = process.argv[2]
const given = process.env.NIGHTJAR_INTEROP_SECRET
const secret = given ? Uint8Array.from(Buffer.from(given, 'hex')) : generateSecretKey()
const pubkey = getPublicKey(secret)
const say = line => process.stdout.write(JSON.stringify(line) + '\n')
const sign = async template => finalizeEvent(template, secret)
const fail = error => {
  say({ event: 'error', message: String(error?.message ?? error) })
  process.exit(1)
}

async function authenticate(relay) {
  for (;;) {
    try {
      return await relay.auth(sign)
    } catch (error) {
      // The relay's challenge may come after the connection is open.
      if (!String(error).includes('no challenge was received')) throw error
      await new Promise(resolve => setTimeout(resolve, 20))
    }
  }
}

function onWrap(wrap) {
  try {
    const rumor = nip17.unwrapEvent(wrap, secret)
    const { id, created_at } = wrap
    say({ event: 'received', from: rumor.pubkey, kind: rumor.kind, text: rumor.content, wrap: [id, created_at] })
  } catch (error) {
    say({ event: 'unreadable', message: `cannot unwrap: ${error.message}` })
  }
}

// Ids of what the relay has stored.
function read(relay, filter) {
  const ids = []
  return new Promise((resolve, reject) => {
    const reading = relay.subscribe([filter], {
      onevent: event => ids.push(event.id),
      oneose: () => {
        resolve(ids)
        reading.close()
      },
      onclose: reject,
    })
  })
}

// An event of this client's key.
async function publish(relay, kind, tags, content) {
  const event = finalizeEvent({ kind, created_at: Math.floor(Date.now() / 1000), tags, content }, secret)
  await relay.publish(event)
  return event.id
}

// Which of these events the relay lacks (have), and which it has beside them (need); or the reason of its NEG-ERR (refused).
function sync(relay, { filter, events }) {
  const storage = new NegentropyStorageVector()
  for (const [id, createdAt] of events) storage.insert(createdAt, id)
  storage.seal()
  const [have, need] = [[], []]
  let rounds = 0
  return new Promise((resolve, reject) => {
    const reconciliation = new NegentropySync(relay, storage, filter, {
      onhave: id => have.push(id),
      onneed: id => need.push(id),
      onclose: problem => (problem ? reject(new Error(problem)) : resolve({ have, need, rounds })),
    })
    // It takes a NEG-ERR for a good end, and keeps the reason to itself.
    const heard = reconciliation.subscription.oncustom
    reconciliation.subscription.oncustom = data => {
      rounds += 1
      if (data[0] === 'NEG-ERR') resolve({ refused: data[2] })
      else heard(data)
    }
    reconciliation.start()
  })
}

// A management call (NIP-86), authorized by NIP-98.
async function manage({ url, method, params }) {
  const body = { method, params }
  const authorization = await getToken(url, 'POST', sign, true, body)
  const headers = { 'Content-Type': 'application/nostr+json+rpc', Authorization: authorization }
  const answer = await fetch(url, { method: 'POST', headers, body: JSON.stringify(body) })
  return { status: answer.status, answer: await answer.json() }
}

async function main() {
  const relay = await Relay.connect(url)
  relay.onclose = () => fail('the relay closed the connection')
  await authenticate(relay)
  await publish(relay, 10050, [['relay', url]], '')
  await new Promise((resolve, reject) => {
    relay.subscribe([{ kinds: [1059], '#p': [pubkey] }], { onevent: onWrap, oneose: resolve, onclose: reject })
  })
  say({ event: 'ready', pubkey })

  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line)
    if (command.count) {
      say({ event: 'counted', count: await relay.count(command.count, {}) })
    } else if (command.read) {
      say({ event: 'read', ids: await read(relay, command.read) })
    } else if (command.note) {
      say({ event: 'noted', id: await publish(relay, 1, [], command.note) })
    } else if (command.delete) {
      const { id, kind } = command.delete
      say({ event: 'deleted', id: await publish(relay, 5, [['e', id], ['k', String(kind)]], '') })
    } else if (command.sync) {
      say({ event: 'synced', ...(await sync(relay, command.sync)) })
    } else if (command.manage) {
      say({ event: 'managed', ...(await manage(command.manage)) })
    } else {
      const { to, text } = command.send
      const wrap = nip17.wrapEvent(secret, { publicKey: to }, text)
      await relay.publish(wrap)
      say({ event: 'sent', id: wrap.id })
    }
  }
  relay.onclose = null
  relay.close()
}

main().then(() => process.exit(0), fail)

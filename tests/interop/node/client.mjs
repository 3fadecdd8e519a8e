// A NIP-17 client made of unmodified nostr-tools. Speaks JSON lines: commands on stdin, what happens on stdout.
//   node client.mjs RELAY         {"send":{"to":"<pubkey, hex>","text":"..."}}
// The modules come from the folder in NIGHTJAR_INTEROP_NODE; the key is made here and never leaves.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

const require = createRequire(`${process.env.NIGHTJAR_INTEROP_NODE}/package.json`)
const { Relay, useWebSocketImplementation } = require('nostr-tools/relay')
const { generateSecretKey, getPublicKey, finalizeEvent } = require('nostr-tools/pure')
const nip17 = require('nostr-tools/nip17')
useWebSocketImplementation(require('ws').WebSocket)

const url = process.argv[2]
const secret = generateSecretKey()
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
    say({ event: 'received', from: rumor.pubkey, kind: rumor.kind, text: rumor.content })
  } catch (error) {
    say({ event: 'error', message: `cannot unwrap: ${error.message}` })
  }
}

async function main() {
  const relay = await Relay.connect(url)
  relay.onclose = () => fail('the relay closed the connection')
  await authenticate(relay)
  await relay.publish(
    finalizeEvent({ kind: 10050, created_at: Math.floor(Date.now() / 1000), tags: [['relay', url]], content: '' }, secret),
  )
  await new Promise((resolve, reject) => {
    relay.subscribe([{ kinds: [1059], '#p': [pubkey] }], { onevent: onWrap, oneose: resolve, onclose: reject })
  })
  say({ event: 'ready', pubkey })

  for await (const line of createInterface({ input: process.stdin })) {
    const { to, text } = JSON.parse(line).send
    const wrap = nip17.wrapEvent(secret, { publicKey: to }, text)
    await relay.publish(wrap)
    say({ event: 'sent', id: wrap.id })
  }
  relay.onclose = null
  relay.close()
}

main().then(() => process.exit(0), fail)

// A js-libp2p node, driven by the Go test over standard input and output: one
// JSON object a line, answered by one. It ends with its input.
//
//   node --import ./polyfill.mjs peer.mjs LISTEN-MULTIADDR...
//
// Node.js 20 needs --experimental-websocket too, to dial WebSockets.
import { createInterface } from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { webSockets } from '@libp2p/websockets'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CALL, CallError, Session } from './call.mjs'
import { PING, answerPings, ping } from './ping.mjs'

const node = await createLibp2p({
  addresses: { listen: process.argv.slice(2) },
  transports: [tcp(), webSockets()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify() }
})

// seen is what happened to operations of ours.
const seen = { aborted: 0, emitted: 0 }

const operations = {
  'js/greet': { run: (name) => ({ hello: name, from: 'js' }) },
  'js/echo': { run: (input) => input },
  'js/fail': {
    type: 'mutation',
    input: { type: 'object' },
    errors: [{ code: 'NO_PAPER', description: 'the tray is empty', schema: { type: 'object', required: ['tray'] }, http_status: null }],
    run: () => { throw new CallError('NO_PAPER', 'out of paper', { retryable: true, details: { tray: 2 } }) }
  },
  'js/crash': { run: () => { throw new Error('a secret') } },
  'js/wait': {
    run: (_, { signal }) => new Promise((resolve, reject) => signal.addEventListener('abort', () => {
      seen.aborted++
      reject(signal.reason)
    }))
  },
  'js/count': {
    type: 'subscription',
    run: async (n, { emit }) => {
      for (let i = 0; i < n; i++) {
        seen.emitted++
        await emit(i)
      }
    }
  },
  // Calls the caller back, over the same session.
  'js/back': { run: (input, { session }) => session.call('node/echo', { back: input }) }
}

// sessions maps peers to the session with them.
const sessions = new Map()
const sessionWith = (peerId, addr) => {
  const id = peerId.toString()
  if (!sessions.has(id)) sessions.set(id, new Session(() => node.dialProtocol(addr ?? peerId, CALL), operations))
  return sessions.get(id)
}
const peerOf = (addr) => multiaddr(addr).getComponents().at(-1).value
const session = (addr) => sessionWith(peerOf(addr), multiaddr(addr))

await node.handle(PING, (stream) => answerPings(stream).catch((err) => stream.abort(err)))
await node.handle(CALL, (stream, connection) => { sessionWith(connection.remotePeer).attach(stream) })

// identified maps peers to what identify said about them.
const identified = new Map()
node.addEventListener('peer:identify', ({ detail }) => {
  identified.set(detail.peerId.toString(), { agent: detail.agentVersion, protocols: detail.protocols })
})

const commands = {
  dial: async ({ addr }) => {
    const connection = await node.dial(multiaddr(addr))
    return { peer_id: connection.remotePeer.toString(), addr: connection.remoteAddr.toString() }
  },
  identified: ({ addr }) => identified.get(peerOf(addr)) ?? null,
  ping: async ({ addr, count }) => ping(await node.dialProtocol(multiaddr(addr), PING), count),
  seen: () => seen,
  list: ({ addr }) => session(addr).list(),
  call: ({ addr, operation, input, timeout }) => outcome(session(addr).call(operation, input, { timeout })),
  // Starts calls all at once and tells in which order they ended.
  together: async ({ addr, operation, inputs }) => {
    const ended = []
    await Promise.all(inputs.map(async (input) => ended.push(await session(addr).call(operation, input))))
    return ended
  },
  // Calls, and aborts after a while.
  abort: ({ addr, operation, input, after }) => outcome(session(addr).call(operation, input, { signal: AbortSignal.timeout(after) })),
  // Takes count values, one every so many milliseconds, then leaves.
  subscribe: async ({ addr, operation, input, window, count, every }) => {
    const values = []
    const taking = async () => {
      for await (const value of session(addr).subscribe(operation, input, { window })) {
        values.push(value)
        if (values.length === count) break
        await new Promise((resolve) => setTimeout(resolve, every))
      }
      return values
    }
    return { ...await outcome(taking()), values }
  },
  // Sends bytes on a stream of its own and tells how that ended.
  raw: async ({ addr, hex }) => {
    const stream = await node.dialProtocol(multiaddr(addr), CALL)
    stream.send(Buffer.from(hex, 'hex'))
    let got = 0
    try {
      for await (const chunk of stream) got += chunk.byteLength
    } catch {}
    return { got, status: stream.status }
  }
}

// outcome is how a request ended, as JSON.
async function outcome (request) {
  try {
    return { output: await request }
  } catch (err) {
    const { code, message, retryable, details, remote } = err
    return { error: { code, message, retryable, details, remote } }
  }
}

const say = (value) => process.stdout.write(JSON.stringify(value) + '\n')
say({ peer_id: node.peerId.toString(), addrs: node.getMultiaddrs().map(String) })
for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line)
  try {
    say({ value: await commands[request.do](request) })
  } catch (err) {
    say({ error: String(err) })
  }
}
await node.stop()

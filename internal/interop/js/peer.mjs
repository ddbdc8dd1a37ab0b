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
import { CALL, PING, answerPings, call, ping, serveCalls } from './alknet.mjs'

const node = await createLibp2p({
  addresses: { listen: process.argv.slice(2) },
  transports: [tcp(), webSockets()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify() }
})

const operations = {
  'js/greet': (name) => ({ hello: name, from: 'js' })
}
const serve = (run) => (stream) => run(stream).catch((err) => stream.abort(err))
await node.handle(PING, serve(answerPings))
await node.handle(CALL, serve((stream) => serveCalls(stream, operations)))

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
  identified: ({ addr }) => identified.get(multiaddr(addr).getComponents().at(-1).value) ?? null,
  ping: async ({ addr, count }) => ping(await node.dialProtocol(multiaddr(addr), PING), count),
  call: async ({ addr, operation, input }) => call(await node.dialProtocol(multiaddr(addr), CALL), operation, input)
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

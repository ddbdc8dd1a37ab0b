// The two protocols of ours that js-libp2p speaks here, as their SPEC.md files
// say: /alknet/ping (10-byte frames) and /alknet/call (JSON in frames).

export const PING = '/alknet/ping'
export const CALL = '/alknet/call'

// Reader takes exact numbers of bytes from a stream.
class Reader {
  constructor (stream) {
    this.chunks = stream[Symbol.asyncIterator]()
    this.buffer = Buffer.alloc(0)
  }

  // read returns n bytes, or null when the stream ended before the first.
  async read (n) {
    while (this.buffer.length < n) {
      const { value, done } = await this.chunks.next()
      if (done) {
        if (this.buffer.length > 0) throw new Error('stream ended inside a frame')
        return null
      }
      this.buffer = Buffer.concat([this.buffer, value.subarray()])
    }
    const out = this.buffer.subarray(0, n)
    this.buffer = this.buffer.subarray(n)
    return out
  }
}

function pingFrame (kind, sequence) {
  const frame = Buffer.alloc(10)
  frame[0] = 1 // version
  frame[1] = kind // 1 ping, 2 pong
  frame.writeBigUInt64BE(BigInt(sequence), 2)
  return frame
}

// ping asks count times on a stream and returns how many answers were right.
export async function ping (stream, count) {
  const reader = new Reader(stream)
  for (let i = 0; i < count; i++) {
    stream.send(pingFrame(1, i))
    const pong = await reader.read(10)
    if (pong === null || !pong.equals(pingFrame(2, i))) throw new Error(`ping ${i}: wrong answer`)
  }
  await stream.close()
  return count
}

// answerPings is the other side of ping.
export async function answerPings (stream) {
  const reader = new Reader(stream)
  for (;;) {
    const frame = await reader.read(10)
    if (frame === null) break
    if (frame[0] !== 1 || frame[1] !== 1) throw new Error('not a ping')
    stream.send(pingFrame(2, frame.readBigUInt64BE(2)))
  }
  await stream.close()
}

function envelope (type, id, payload) {
  const body = Buffer.from(JSON.stringify({ type, id, payload }))
  const size = Buffer.alloc(4)
  size.writeUInt32BE(body.length)
  return Buffer.concat([size, body])
}

async function readEnvelope (reader) {
  const size = await reader.read(4)
  if (size === null) return null
  const n = size.readUInt32BE()
  if (n === 0 || n > 1 << 20) throw new Error(`frame of ${n} bytes`)
  const body = await reader.read(n)
  if (body === null) throw new Error('stream ended inside a frame')
  return JSON.parse(body.toString())
}

// call makes one call on a stream of its own and returns the output.
export async function call (stream, operation, input) {
  stream.send(envelope('call.requested', 'js-1', { operationId: `/${operation}`, input }))
  const reader = new Reader(stream)
  for (;;) {
    const event = await readEnvelope(reader)
    if (event === null) throw new Error('stream closed without an answer')
    if (event.id !== 'js-1') continue
    await stream.close()
    if (event.type === 'call.responded') return event.payload.output
    throw new Error(`${event.type}: ${event.payload.code}`)
  }
}

// serveCalls answers requests on a stream by the operations given, one after
// the other.
export async function serveCalls (stream, operations) {
  const reader = new Reader(stream)
  for (;;) {
    const event = await readEnvelope(reader)
    if (event === null) break
    if (event.type !== 'call.requested') continue
    const run = operations[event.payload.operationId.replace(/^\//, '')]
    if (run === undefined) {
      stream.send(envelope('call.error', event.id, { code: 'NOT_FOUND', message: 'no such operation', retryable: false }))
    } else {
      stream.send(envelope('call.responded', event.id, { output: await run(event.payload.input ?? null) }))
    }
  }
  await stream.close()
}

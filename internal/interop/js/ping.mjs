// The ping protocol, /alknet/ping, as its SPEC.md says: frames of 10 bytes.

export const PING = '/alknet/ping'

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

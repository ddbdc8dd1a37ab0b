// The call protocol in JavaScript: both sides of it, written from
// protocols/call/SPEC.md alone. The § in comments are its sections.

export const CALL = '/alknet/call'

const MAX_FRAME = 1 << 20 // what we take (§2)
const WINDOW = 32
const TIMEOUT = 30_000
const LIMIT = 64 // requests of the peer at a time (§9)

// CallError is how a request fails (§5). remote tells whose word it is.
export class CallError extends Error {
  constructor (code, message, { retryable = false, details, remote = false } = {}) {
    super(message)
    Object.assign(this, { code, retryable, details, remote })
  }
}

class Violation extends Error {}

const bySpec = /^[A-Z](?:_?[A-Z0-9])*$/

// frame is an envelope as bytes (§2, §3).
function frame (type, id, payload) {
  const body = Buffer.from(JSON.stringify({ type, id, payload }))
  const size = Buffer.alloc(4)
  size.writeUInt32BE(body.length)
  return Buffer.concat([size, body])
}

// frames yields the bodies that arrive, and ends at a clean end.
async function * frames (stream) {
  let buffer = Buffer.alloc(0)
  for await (const chunk of stream) {
    buffer = Buffer.concat([buffer, chunk.subarray()])
    while (buffer.length >= 4) {
      const size = buffer.readUInt32BE()
      if (size === 0 || size > MAX_FRAME) throw new Violation(`frame of ${size} bytes`)
      if (buffer.length < 4 + size) break
      yield buffer.subarray(4, 4 + size)
      buffer = buffer.subarray(4 + size)
    }
  }
  if (buffer.length > 0) throw new Error('the stream ended inside a frame')
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

// parse reads an envelope. What JSON.parse lets pass, members that occur twice,
// is a violation in the envelope and the payload, and told of deeper ones (§3).
function parse (body) {
  let text, event
  try {
    text = utf8.decode(body)
    event = JSON.parse(text)
  } catch (err) {
    throw new Violation(err.message)
  }
  const { type, id, payload = {} } = isObject(event) ? event : {}
  if (typeof type !== 'string' || type === '' || typeof id !== 'string' || id === '' || Buffer.byteLength(id) > 128) {
    throw new Violation('no envelope')
  }
  const depth = twice(text)
  if (depth === 1 || depth === 2) throw new Violation('a member occurs twice')
  return { type, id, payload, twice: depth > 2 }
}

// twice is the depth at which an object has a member twice, the least there is;
// 0 is nowhere. text is valid JSON.
function twice (text) {
  let least = 0
  let key = false
  const open = []
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],]/g)) {
    if (token === '{' || token === '[') open.push(token === '{' ? new Set() : null)
    if (token === '}' || token === ']') open.pop()
    const names = open.at(-1)
    if (key && names && token[0] === '"') {
      const name = JSON.parse(token)
      if (names.has(name) && (least === 0 || open.length < least)) least = open.length
      names.add(name)
    }
    key = token === '{' || token === ','
  }
  return least
}

const isObject = (v) => typeof v === 'object' && v !== null && !Array.isArray(v)
const positive = (v) => v === undefined || v === null || (Number.isInteger(v) && v > 0)

// Session is the calls between this node and one peer, both ways, over all
// streams of the protocol between them (§1).
//
// operations maps names to { type, run, spec }: run (input, { signal, emit,
// session }) returns the output, or emits the values of a subscription; what it
// throws is the error, if it is a CallError.
export class Session {
  constructor (open, operations) {
    this.open = open // opens a stream
    this.operations = operations
    this.pending = new Map() // our requests
    this.serving = new Map() // the peer's
    this.count = 0
  }

  // attach reads a stream to its end, whoever opened it.
  attach (stream) {
    const home = { stream, pending: 0, serving: 0, ended: false }
    this.#read(home).catch((err) => stream.abort(err))
    return home
  }

  // call makes a request and returns its output.
  async call (operation, input, { timeout, signal } = {}) {
    for await (const value of this.subscribe(operation, input, { once: true, timeout, signal })) return value
    throw new CallError('INTERNAL', 'completed without a value')
  }

  // subscribe yields the values of a subscription; leaving the loop aborts it.
  async * subscribe (operation, input, { window = WINDOW, timeout, signal, once = false } = {}) {
    const id = `js-${++this.count}`
    const request = { id, once, values: [], wake: () => {}, ended: false, error: null }
    // Calls share a stream, a subscription has one of its own (§8).
    const home = once ? await (this.shared ??= this.#home()) : await this.#home()
    Object.assign(request, { home })
    if (home.ended) throw new CallError('INTERNAL', 'stream closed')
    this.pending.set(id, request)
    home.pending++
    const payload = { operationId: `/${operation}`, input }
    if (!once) payload.window = window
    if (timeout !== undefined) payload.timeout_ms = timeout
    this.#send(home, frame('call.requested', id, payload))

    const giveUp = (error) => {
      if (request.ended) return
      this.#send(home, frame('call.aborted', id, {}))
      this.#settle(request, error)
    }
    const onAbort = () => giveUp(new CallError('INTERNAL', 'request aborted'))
    signal?.addEventListener('abort', onAbort)
    const limit = timeout ?? (once ? TIMEOUT : undefined)
    const timer = limit && setTimeout(() => giveUp(new CallError('TIMEOUT', 'request timed out', { retryable: true })), limit + 1000)
    let taken = 0
    try {
      for (;;) {
        while (request.values.length > 0) {
          yield request.values.shift()
          if (++taken * 2 >= window && !once && !request.ended) {
            this.#send(home, frame('call.credit', id, { items: taken })) // §7
            taken = 0
          }
        }
        if (request.ended) break
        await new Promise((resolve) => { request.wake = resolve })
      }
      if (request.error) throw request.error
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener('abort', onAbort)
      giveUp(null)
      if (!once) home.stream.close().catch(() => {})
    }
  }

  // list is what the peer lets us call (§11).
  async list () {
    return (await this.call('services/list', {})).operations
  }

  async #home () {
    return this.attach(await this.open())
  }

  async #read (home) {
    try {
      for await (const body of frames(home.stream)) this.#event(home, parse(body))
    } catch (err) {
      home.stream.abort(err)
      for (const request of this.serving.values()) {
        if (request.home === home) this.#end(request, null) // silently (§6)
      }
    }
    home.ended = true
    if (this.shared !== undefined && await this.shared === home) this.shared = undefined
    this.#orphans(home)
    this.#finish(home)
  }

  #event (home, { type, id, payload, twice }) {
    const request = this.pending.get(id)
    if (!isObject(payload) && type !== 'call.requested') payload = {}
    switch (type) {
      case 'call.requested': return this.#requested(home, id, payload, twice)
      case 'call.responded':
        if (request) {
          request.values.push(payload.output ?? null)
          request.wake()
          if (request.once) this.#settle(request, null)
        }
        return
      case 'call.completed':
        if (request) this.#settle(request, null)
        return
      case 'call.error':
        if (request) {
          const known = bySpec.test(payload.code)
          this.#settle(request, new CallError(known ? payload.code : 'INTERNAL', payload.message, {
            retryable: known && payload.retryable === true, details: payload.details, remote: true
          }))
        }
        return
      case 'call.aborted': {
        const theirs = this.serving.get(id)
        if (theirs && !(request && request.home === home && theirs.home !== home)) {
          this.#end(theirs, frame('call.aborted', id, {}))
        } else if (request) {
          this.#settle(request, new CallError('INTERNAL', 'request aborted', { remote: true }))
        }
        return
      }
      case 'call.credit': {
        const theirs = this.serving.get(id)
        if (theirs && Number.isInteger(payload.items) && payload.items > 0) {
          theirs.credit += payload.items
          theirs.more()
        }
      } // what is unknown is ignored
    }
  }

  // #send sends one frame; on a stream that is gone the reader tells.
  #send (home, bytes) {
    try {
      home.stream.send(bytes)
    } catch {}
  }

  // #settle ends a request of ours, once.
  #settle (request, error) {
    if (this.pending.get(request.id) !== request) return
    this.pending.delete(request.id)
    request.home.pending--
    request.ended = true
    request.error = error
    request.wake()
    this.#finish(request.home)
  }

  // #orphans fails what waits on a stream that has ended: an end is never
  // completion (§6).
  #orphans (home) {
    home.ended = true
    for (const request of this.pending.values()) {
      if (request.home === home) this.#settle(request, new CallError('INTERNAL', 'stream closed'))
    }
  }

  // #requested serves a request of the peer (§4, §6).
  #requested (home, id, payload, twice) {
    if (this.serving.has(id)) throw new Violation('the id is in use')
    const refuse = (code, message, more) => this.#send(home, frame('call.error', id, { code, message, retryable: false, ...more }))
    if (!isObject(payload) || typeof payload.operationId !== 'string') {
      return refuse('INVALID_INPUT', 'missing required field: operationId')
    }
    if (!positive(payload.timeout_ms) || !positive(payload.window)) {
      return refuse('INVALID_INPUT', 'not a positive integer')
    }
    const name = payload.operationId.replace(/^\//, '')
    const operation = Object.hasOwn(this.operations, name) ? this.operations[name] : services[name]
    if (operation === undefined) return refuse('NOT_FOUND', `operation not found: ${name}`)
    if (this.serving.size >= LIMIT) {
      return refuse('INTERNAL', 'too many requests', { retryable: true, details: { reason: 'overloaded' } })
    }
    if (twice) return refuse('INVALID_INPUT', 'a member occurs twice')

    const stop = new AbortController()
    const request = { id, home, stop, credit: payload.window ?? Infinity, more: () => {} }
    this.serving.set(id, request)
    home.serving++
    const limit = payload.timeout_ms ?? (operation.type === 'subscription' ? undefined : TIMEOUT)
    request.timer = limit && setTimeout(() => {
      this.#end(request, frame('call.error', id, { code: 'TIMEOUT', message: 'request timed out', retryable: true }))
    }, limit)
    const emit = async (value) => {
      while (request.credit === 0 && !stop.signal.aborted) {
        await new Promise((resolve) => { request.more = resolve })
      }
      if (stop.signal.aborted) throw stop.signal.reason
      request.credit--
      this.#send(home, frame('call.responded', id, { output: value }))
    }
    Promise.resolve()
      .then(() => operation.run(payload.input ?? null, { signal: stop.signal, emit, session: this }))
      .then(
        (output) => operation.type === 'subscription' ? frame('call.completed', id, {}) : frame('call.responded', id, { output: output ?? null }),
        (err) => frame('call.error', id, err instanceof CallError
          ? { code: err.code, message: err.message, retryable: err.retryable, details: err.details }
          : { code: 'INTERNAL', message: 'internal error', retryable: false }))
      .then((last) => this.#end(request, last))
  }

  // #end sends the one terminal event of a request of the peer; null is none.
  #end (request, last) {
    if (this.serving.get(request.id) !== request) return
    this.serving.delete(request.id)
    request.home.serving--
    clearTimeout(request.timer)
    if (last !== null) this.#send(request.home, last)
    request.stop.abort(new CallError('INTERNAL', 'request aborted'))
    request.more()
    this.#finish(request.home)
  }

  // #finish ends our half when the peer has ended its own and all is done.
  #finish (home) {
    if (home.ended && home.pending === 0 && home.serving === 0) home.stream.close().catch(() => {})
  }
}

const row = (name, operation) => ({ name, namespace: name.split('/')[0], op_type: operation.type ?? 'query' })

// services are what every node offers (§11).
const services = {
  'services/list': {
    run: (_, { session }) => ({
      operations: Object.entries({ ...services, ...session.operations }).map(([name, o]) => row(name, o))
        .sort((a, b) => a.name < b.name ? -1 : 1)
    })
  },
  'services/schema': {
    run: (input, { session }) => {
      if (typeof input?.name !== 'string') throw new CallError('INVALID_INPUT', 'missing required field: name')
      const name = input.name.replace(/^\//, '')
      const operation = session.operations[name] ?? services[name]
      if (operation === undefined) throw new CallError('NOT_FOUND', `operation not found: ${name}`)
      return {
        ...row(name, operation),
        visibility: 'external',
        input_schema: operation.input ?? {},
        output_schema: {},
        error_schemas: operation.errors ?? [],
        access_control: { required_scopes: [], required_scopes_any: null, resource_type: null, resource_action: null }
      }
    }
  }
}

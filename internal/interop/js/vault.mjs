// Computes what a vault derives, with Node's own cryptography and nothing of the
// Go code: one JSON object on standard input, one on standard output.
import { createCipheriv, createDecipheriv, createECDH, createHash, createHmac, createPrivateKey, createPublicKey, pbkdf2Sync } from 'node:crypto'

const hmac = (key, ...parts) => parts.reduce((h, p) => h.update(p), createHmac('sha512', key)).digest()

const be32 = (n) => { const b = Buffer.alloc(4); b.writeUInt32BE(n >>> 0); return b }
const le32 = (n) => { const b = Buffer.alloc(4); b.writeUInt32LE(n >>> 0); return b }

function indices (path) {
  return path.split('/').slice(1).map((level) => {
    const hardened = level.endsWith("'")
    return Number(hardened ? level.slice(0, -1) : level) + (hardened ? 2 ** 31 : 0)
  })
}

// SLIP-0010 for Ed25519.
function slip10 (seed, path) {
  let node = hmac('ed25519 seed', seed)
  for (const i of indices(path)) {
    node = hmac(node.subarray(32), Buffer.from([0]), node.subarray(0, 32), be32(i))
  }
  return node.subarray(0, 32)
}

function ed25519Public (seed) {
  const pkcs8 = Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), seed])
  const key = createPublicKey(createPrivateKey({ key: pkcs8, format: 'der', type: 'pkcs8' }))
  return key.export({ format: 'der', type: 'spki' }).subarray(-32)
}

// BIP-32 for secp256k1.
const order = BigInt('0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141')
const number = (b) => BigInt('0x' + b.toString('hex'))
function secp256k1Public (key) {
  const ecdh = createECDH('secp256k1')
  ecdh.setPrivateKey(key)
  return ecdh.getPublicKey(null, 'compressed')
}
function bip32 (seed, path) {
  let node = hmac('Bitcoin seed', seed)
  for (const i of indices(path)) {
    const key = node.subarray(0, 32)
    const data = i >= 2 ** 31 ? Buffer.concat([Buffer.from([0]), key]) : secp256k1Public(key)
    const next = hmac(node.subarray(32), data, be32(i))
    const sum = (number(next.subarray(0, 32)) + number(key)) % order
    node = Buffer.concat([Buffer.from(sum.toString(16).padStart(64, '0'), 'hex'), next.subarray(32)])
  }
  return node.subarray(0, 32)
}

// The keys of early builds.
function legacy (seed, path) {
  const master = hmac('ed25519 seed', seed)
  const key = createHash('sha512').update(master.subarray(0, 32)).digest()
  key[0] &= 0xf8
  key[31] = (key[31] & 0x1f) | 0x40
  const little = (b) => number(Buffer.from(b).reverse())
  const bytes = (n) => Buffer.from(BigInt.asUintN(256, n).toString(16).padStart(64, '0'), 'hex').reverse()
  let kL = key.subarray(0, 32)
  let kR = key.subarray(32)
  let chain = master.subarray(32)
  for (const i of indices(path)) {
    const z = hmac(chain, Buffer.from([0]), kL, kR, le32(i))
    chain = hmac(chain, Buffer.from([1]), kL, kR, le32(i)).subarray(32)
    kL = bytes(little(kL) + 8n * little(z.subarray(0, 28)))
    kR = bytes(little(kR) + little(z.subarray(32)))
  }
  return kL
}

function base58 (b) {
  const alphabet = '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz'
  let text = ''
  for (let n = number(b); n > 0n; n /= 58n) text = alphabet[Number(n % 58n)] + text
  return '1'.repeat(b.findIndex((c) => c !== 0)) + text
}

function seal (key, version, plaintext, iv, salt) {
  const cipher = createCipheriv('aes-256-gcm', key, iv)
  const data = Buffer.concat([cipher.update(plaintext, 'utf8'), cipher.final(), cipher.getAuthTag()])
  return { key_version: version, salt: salt.toString('base64'), iv: iv.toString('base64'), data: data.toString('base64') }
}

function open (key, sealed) {
  const data = Buffer.from(sealed.data, 'base64')
  const decipher = createDecipheriv('aes-256-gcm', key, Buffer.from(sealed.iv, 'base64'))
  decipher.setAuthTag(data.subarray(-16))
  return Buffer.concat([decipher.update(data.subarray(0, -16)), decipher.final()]).toString('utf8')
}

let text = ''
for await (const chunk of process.stdin) text += chunk
const input = JSON.parse(text)
const seed = pbkdf2Sync(input.mnemonic.normalize('NFKD'), 'mnemonic' + input.passphrase.normalize('NFKD'), 2048, 64, 'sha512')
const aes = (version) => slip10(seed, `m/74'/2'/0'/${version - 2}'`)
const iv = Buffer.from([...Array(12).keys()])
const salt = Buffer.from([...Array(32).keys()])

const output = { ed25519: {}, secp256k1: {}, aes: {}, opened: [], sealed: [], legacy: null }
for (const path of input.ed25519) {
  const key = slip10(seed, path)
  const pub = ed25519Public(key)
  output.ed25519[path] = {
    private: key.toString('hex'),
    public: pub.toString('hex'),
    peer_id: base58(Buffer.concat([Buffer.from('002408011220', 'hex'), pub])),
    commitment: createHash('sha256').update('alknet-next-v1').update(pub).digest('hex')
  }
}
for (const path of input.secp256k1) {
  const key = bip32(seed, path)
  output.secp256k1[path] = { private: key.toString('hex'), public: secp256k1Public(key).toString('hex') }
}
for (const version of input.versions) {
  output.aes[version] = aes(version).toString('hex')
  output.sealed.push(seal(aes(version), version, input.plaintext, iv, salt))
}
for (const sealed of input.sealed) output.opened.push(open(aes(sealed.key_version), sealed))
output.legacy = seal(legacy(seed, "m/74'/2'/0'/1'"), 3, input.plaintext, iv, salt)
process.stdout.write(JSON.stringify(output))

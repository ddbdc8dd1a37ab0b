// js-libp2p uses Promise.withResolvers, which Node.js has from version 22 on:
//   node --import ./polyfill.mjs peer.mjs
Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new this((yes, no) => { resolve = yes; reject = no })
  return { promise, resolve, reject }
}

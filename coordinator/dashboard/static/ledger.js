// The arithmetic of the ledger, in the browser: canonical entries, the hash chain, the Merkle tree of RFC 6962, signed
// notes. The formats are in docs/audit.md; privacy/ledger is the same in Python. No dependency, no DOM, no network.

const DASH = "\u2014";
const ED25519 = 1;
const LARGEST = Number.MAX_SAFE_INTEGER;
const MOST_DEPTH = 16;
const ENTRY_FIELDS = "at_ms,body,kind,previous,recorded_by,sequence";
const NAME = /^[^\s+]{1,200}$/u;
const SIZE = /^(0|[1-9][0-9]{0,15})$/;

export const FIRST_PREVIOUS = "0".repeat(64);

/** Something does not hold. `code` is short and stable, `message` is for people. */
export class Fault extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** This browser can not check it; nothing is known to be wrong. */
export class Unable extends Error {}

export async function sha256(bytes) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

export function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function fromHex(text) {
  if (typeof text !== "string" || text.length % 2 || !/^[0-9a-f]*$/.test(text)) {
    throw new Fault("format", "not hexadecimal");
  }
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

export function same(a, b) {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}

function base64Bytes(text) {
  let raw;
  try {
    raw = atob(text);
  } catch {
    throw new Fault("format", "not base64");
  }
  if (btoa(raw) !== text) throw new Fault("format", "base64 with loose bits at its end");
  return Uint8Array.from(raw, (character) => character.charCodeAt(0));
}

function joined(...parts) {
  const whole = new Uint8Array(parts.reduce((total, part) => total + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

// ---- canonical entries and their chain ------------------------------------------------------------------------------

function canonical(value, depth) {
  if (depth > MOST_DEPTH) throw new Fault("canonical", `nested deeper than ${MOST_DEPTH}`);
  if (value === null || typeof value === "boolean") return String(value);
  if (typeof value === "string") {
    if (/\p{Surrogate}/u.test(value)) throw new Fault("canonical", "text holds half a character");
    return JSON.stringify(value);
  }
  if (typeof value === "number") {
    if (!Number.isSafeInteger(value) || Object.is(value, -0)) throw new Fault("canonical", `${value} is no whole number`);
    return String(value);
  }
  if (Array.isArray(value)) return `[${value.map((inner) => canonical(inner, depth + 1)).join(",")}]`;
  const keys = Object.keys(value).sort();
  if (!keys.every((key) => /^[\x00-\x7f]*$/.test(key))) throw new Fault("canonical", "a key is not ASCII");
  return `{${keys.map((key) => `${JSON.stringify(key)}:${canonical(value[key], depth + 1)}`).join(",")}}`;
}

/** Read canonical bytes; every other spelling of the same value is refused. */
export function parseCanonical(bytes) {
  let text, value;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(text);
  } catch {
    throw new Fault("canonical", "not JSON in UTF-8");
  }
  if (canonical(value, 0) !== text) throw new Fault("canonical", "not in canonical form");
  return value;
}

/** Read one entry and hold it to its place. `previous`: hash of the bytes of the entry before, hexadecimal. */
export function checkedEntry(bytes, index, previous) {
  const entry = parseCanonical(bytes);
  const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  if (!isObject(entry) || Object.keys(entry).join() !== ENTRY_FIELDS || !isObject(entry.body)) {
    throw new Fault("entry", `entry ${index} has not the fields of an entry`);
  }
  if (entry.sequence !== index) {
    throw new Fault("chain", `entry ${JSON.stringify(entry.sequence)} stands where entry ${index} belongs`);
  }
  if (entry.previous !== previous) {
    throw new Fault("chain", `entry ${index} does not follow entry ${index - 1}: one of them was altered or replaced`);
  }
  return entry;
}

// ---- the Merkle tree ------------------------------------------------------------------------------------------------

export function leafHash(bytes) {
  return sha256(joined([0], bytes));
}

export function nodeHash(left, right) {
  return sha256(joined([1], left, right));
}

/** The root of a growing list of leaf hashes; it keeps one hash for each complete subtree on the right edge. */
export class Tree {
  constructor() {
    this.size = 0;
    this.edge = []; // edge[k]: root of the newest complete subtree of 2^k leaves, while it has no right neighbour
  }

  async push(hashes) {
    this.size += hashes.length;
    for (let level = 0, row = hashes; row.length; level += 1) {
      if (this.edge[level]) row = [this.edge[level], ...row];
      const pairs = [];
      for (let at = 0; at + 1 < row.length; at += 2) pairs.push(nodeHash(row[at], row[at + 1]));
      this.edge[level] = row.length % 2 ? row[row.length - 1] : null;
      row = await Promise.all(pairs);
    }
  }

  async root() {
    let root = null;
    for (const hash of this.edge) {
      if (hash) root = root ? await nodeHash(hash, root) : hash;
    }
    return root ?? sha256(new Uint8Array());
  }
}

// Sizes pass 2^31: halve with arithmetic, not with shifts.
const half = (number) => Math.floor(number / 2);
const isHash = (value) => value instanceof Uint8Array && value.length === 32;

/** Whether the proof leads from a leaf's hash to the root (RFC 9162, 2.1.3.2); false for whatever does not fit. */
export async function verifyInclusion({ leaf, index, size, proof, root }) {
  if (!(index >= 0 && index < size && size <= LARGEST) || ![leaf, root, ...proof].every(isHash)) return false;
  let [position, last, current] = [index, size - 1, leaf];
  for (const sibling of proof) {
    if (last === 0) return false;
    if (position % 2 || position === last) {
      current = await nodeHash(sibling, current);
      while (position % 2 === 0 && position) [position, last] = [half(position), half(last)];
    } else {
      current = await nodeHash(current, sibling);
    }
    [position, last] = [half(position), half(last)];
  }
  return last === 0 && same(current, root);
}

/** Whether the tree of `oldRoot` is the beginning of the tree of `root` (RFC 9162, 2.1.4.2). */
export async function verifyConsistency({ oldSize, size, proof, oldRoot, root }) {
  if (!(oldSize >= 1 && oldSize <= size && size <= LARGEST) || ![oldRoot, root, ...proof].every(isHash)) return false;
  if (oldSize === size) return proof.length === 0 && same(oldRoot, root);
  let [position, last] = [oldSize - 1, size - 1];
  let isWhole = true; // oldSize is a power of two: its root is a node of the larger tree
  for (let rest = oldSize; rest > 1; rest /= 2) if (rest % 2) isWhole = false;
  const hashes = isWhole ? [oldRoot, ...proof] : proof;
  if (!hashes.length) return false;
  while (position % 2) [position, last] = [half(position), half(last)];
  let [first, second] = [hashes[0], hashes[0]];
  for (const sibling of hashes.slice(1)) {
    if (last === 0) return false;
    if (position % 2 || position === last) {
      [first, second] = [await nodeHash(sibling, first), await nodeHash(sibling, second)];
      while (position % 2 === 0 && position) [position, last] = [half(position), half(last)];
    } else {
      second = await nodeHash(second, sibling);
    }
    [position, last] = [half(position), half(last)];
  }
  return last === 0 && same(first, oldRoot) && same(second, root);
}

// ---- signed checkpoints ---------------------------------------------------------------------------------------------

/** Read `name+hash+key`, as auditors write a ledger's public key. */
export async function readKey(text) {
  const [name, keyHash, ...rest] = String(text).split("+");
  const raw = base64Bytes(rest.join("+"));
  if (!NAME.test(name) || raw.length !== 33 || raw[0] !== ED25519) throw new Fault("key", "no Ed25519 key of a ledger");
  const head = new TextEncoder().encode(`${name}\n`);
  const hash = (await sha256(joined(head, raw))).slice(0, 4);
  if (hex(hash) !== keyHash) throw new Fault("key", "the hash in the key is not that of its name and bytes");
  return { name, hash, raw: raw.slice(1), text: String(text) };
}

/** The checkpoint of a signed note, its signature by `key` verified. */
export async function openCheckpoint(note, key) {
  const end = note.lastIndexOf("\n\n");
  if (end < 0 || !note.endsWith("\n")) throw new Fault("note", "no signed note");
  const text = note.slice(0, end + 1);
  const lines = text.split("\n");
  if (lines.length !== 4 || !SIZE.test(lines[1]) || Number(lines[1]) > LARGEST) throw new Fault("note", "no checkpoint");
  const root = base64Bytes(lines[2]);
  if (lines[0] !== key.name || root.length !== 32) throw new Fault("note", "no checkpoint of this ledger");
  let isSigned = false;
  for (const line of note.slice(end + 2, -1).split("\n")) {
    const parts = line.split(" ");
    if (parts.length !== 3 || parts[0] !== DASH) throw new Fault("note", "no signature line");
    const raw = base64Bytes(parts[2]);
    if (parts[1] !== key.name || !same(raw.slice(0, 4), key.hash)) continue;
    await checkSignature(key, raw.slice(4), new TextEncoder().encode(text));
    isSigned = true;
  }
  if (!isSigned) throw new Fault("signature", `there is no signature of ${key.name}`);
  return { origin: lines[0], size: Number(lines[1]), root, note };
}

async function checkSignature(key, signature, data) {
  let known;
  try {
    known = await crypto.subtle.importKey("raw", key.raw, { name: "Ed25519" }, false, ["verify"]);
  } catch (error) {
    if (error.name !== "NotSupportedError") throw new Fault("key", "the ledger's key is none of Ed25519");
    throw new Unable(
      "this browser can not check Ed25519 signatures (Chromium can since version 137, Firefox since 129, Safari since " +
        "17); use a newer one, or `motet audit verify`",
    );
  }
  if (!(await crypto.subtle.verify({ name: "Ed25519" }, known, signature, data))) {
    throw new Fault("signature", "the signature does not fit what was signed");
  }
}

/** SHA-256 of the key's text in groups of four digits: short enough to read out over the telephone. */
export async function fingerprint(key) {
  return hex((await sha256(new TextEncoder().encode(key.text))).slice(0, 16)).match(/..../g).join(" ");
}

// What a browser checks of a coordinator's ledger, step by step. Nothing here believes what the coordinator answers.

import {
  Fault,
  FIRST_PREVIOUS,
  Tree,
  Unable,
  checkedEntry,
  fingerprint,
  fromHex,
  hex,
  leafHash,
  openCheckpoint,
  parseCanonical,
  readKey,
  same,
  sha256,
  verifyConsistency,
  verifyInclusion,
} from "./ledger.js";

const PAGE = 1000;
const HASH_BYTES = 32;
const MOST_PROOF = 80;
export const MEMORY = "motet-ledger-head";

/** Where the coordinator tells its ledger: the paths of coordinator/dashboard/proofs.py. */
export class Source {
  constructor(base) {
    this.base = base;
  }

  async checkpoint() {
    return this.#json("checkpoint.json", {});
  }

  async consistency(oldSize, size) {
    return this.#json("consistency.json", { old_size: oldSize, size });
  }

  async inclusion(sequence, size) {
    return this.#json("inclusion.json", { sequence, size });
  }

  async entries(start, end) {
    return (await this.#answer("entries.jsonl", { start, end })).arrayBuffer();
  }

  async hashes(start, end) {
    return (await this.#answer("hashes.bin", { start, end })).arrayBuffer();
  }

  async #json(path, query) {
    const answer = await this.#answer(path, query);
    try {
      return await answer.json();
    } catch {
      throw new Fault("format", `${path} is no JSON`);
    }
  }

  async #answer(path, query) {
    let answer;
    try {
      answer = await fetch(`${this.base}/${path}?${new URLSearchParams(query)}`, { cache: "no-store" });
    } catch {
      throw new Unable("the coordinator does not answer");
    }
    if (!answer.ok) throw new Unable(`the coordinator refuses ${path} (${answer.status})`);
    return answer;
  }
}

/** The head that this browser saw last, of the address in its bar. */
export class Memory {
  constructor(storage) {
    this.storage = storage;
  }

  /** `{key, size, root, note, at}`; null before the first look. */
  recall() {
    let text;
    try {
      text = this.storage.getItem(MEMORY);
    } catch {
      throw new Unable("this browser keeps nothing for this page, so that a ledger put back from a copy is not seen");
    }
    if (text === null) return null;
    try {
      const seen = JSON.parse(text);
      if (typeof seen.key !== "string" || !Number.isSafeInteger(seen.size) || seen.size < 1) throw new TypeError();
      return { ...seen, root: fromHex(seen.root) };
    } catch {
      throw new Fault("memory", "what this browser remembered of the ledger can not be read");
    }
  }

  /** Remember a head that was checked; one that another window remembered meanwhile stays if it is newer. */
  keep(key, head) {
    const seen = this.recall();
    if (seen && seen.size >= head.size) return;
    const at = new Date().toISOString();
    const text = JSON.stringify({ key: key.text, size: head.size, root: hex(head.root), note: head.note, at });
    try {
      this.storage.setItem(MEMORY, text);
    } catch {
      throw new Unable("this browser keeps nothing for this page, so that a ledger put back from a copy is not seen");
    }
  }

  forget() {
    this.storage.removeItem(MEMORY);
  }
}

/** Runs steps, times them and tells each: `{name, state, text, ms}` with state holds, fault, unable or note. */
export class Steps {
  constructor(tell) {
    this.tell = tell;
    this.worst = "holds";
  }

  async run(name, work) {
    const begin = performance.now();
    const finish = (state, text) => {
      if (state === "fault" || (state === "unable" && this.worst === "holds")) this.worst = state;
      this.tell({ name, state, text, ms: performance.now() - begin });
    };
    try {
      const { text, state = "holds", value } = await work();
      finish(state, text);
      return value;
    } catch (error) {
      finish(error instanceof Unable ? "unable" : "fault", error instanceof Error ? error.message : String(error));
      return undefined;
    }
  }
}

/** Key, signature and growth since the last look: a few hundred bytes. The head, or null where it is not to be used. */
export async function checkHead(source, memory, steps) {
  if (!globalThis.crypto?.subtle) {
    const text = "a browser checks nothing on a page that came without TLS; use https, or the coordinator's own machine";
    await steps.run("Key", async () => {
      throw new Unable(text);
    });
    return null;
  }
  let seen; // before the head is asked for: another window may remember a newer one meanwhile
  const recalled = await steps.run("Memory of this browser", async () => {
    seen = memory.recall();
    if (seen === null) return { state: "note", text: "this browser sees this ledger for the first time", value: true };
    return { state: "note", text: `saw ${seen.size} entries last, on ${String(seen.at).slice(0, 16).replace("T", " ")} UTC`, value: true };
  });
  const key = await steps.run("Key", async () => {
    const told = await source.checkpoint();
    if (told.note === null && seen) {
      throw new Fault("rollback", `no ledger is shown any more; this browser saw one of ${seen.size} entries`);
    }
    if (told.note === null) throw new Unable("nothing was signed yet: the first run or charge is, as it starts");
    const found = await readKey(told.key);
    const value = { ...found, note: String(told.note), mayRead: told.may_read === true };
    return { text: `${found.text}, fingerprint ${await fingerprint(found)}`, value };
  });
  if (!key) return null;
  const head = await steps.run("Signature", async () => {
    const value = await openCheckpoint(key.note, key);
    return { text: `${value.size} entries, root ${hex(value.root)}`, value };
  });
  if (!head) return null;
  if (recalled) {
    await steps.run("Growth", () => checkGrowth(source, seen, key, head));
    if (steps.worst === "holds") await keepHead(memory, steps, key, head);
  }
  return { key, head };
}

async function keepHead(memory, steps, key, head) {
  try {
    memory.keep(key, head);
  } catch (error) {
    await steps.run("Memory of this browser", async () => {
      throw error;
    });
  }
}

async function checkGrowth(source, seen, key, head) {
  if (seen === null) return { state: "note", text: "nothing to compare with; from now on this browser remembers" };
  if (seen.key !== key.text) {
    throw new Fault("another", `this is another ledger: the one seen before has the key ${seen.key}`);
  }
  return { text: await grownFrom(source, { size: seen.size, root: seen.root }, head, "seen before") };
}

/** Words for: the ledger of `old` is the beginning of that of `head`. */
async function grownFrom(source, old, head, what) {
  if (old.size > head.size) {
    throw new Fault(
      "rollback",
      `the ledger went back: it has ${head.size} entries now, the one ${what} had ${old.size}. Charges may be forgotten`,
    );
  }
  if (old.size === head.size) {
    if (!same(old.root, head.root)) {
      throw new Fault("fork", `another ledger of ${head.size} entries: its root is not the one ${what}`);
    }
    return `the same ${head.size} entries as ${what}`;
  }
  let proof;
  try {
    proof = proofOf(await source.consistency(old.size, head.size));
  } catch (error) {
    throw new Fault("fork", `nothing shows that the ${old.size} entries ${what} are still there: ${error.message}`);
  }
  const isGrown = await verifyConsistency({
    oldSize: old.size,
    size: head.size,
    proof,
    oldRoot: old.root,
    root: head.root,
  });
  if (!isGrown) throw new Fault("fork", `the ${old.size} entries ${what} are not the beginning of these ${head.size}`);
  return `the ${old.size} entries ${what} are unchanged; ${head.size - old.size} came since`;
}

function proofOf(told) {
  if (!Array.isArray(told?.hashes) || told.hashes.length > MOST_PROOF) throw new Fault("format", "no proof");
  return told.hashes.map(fromHex);
}

/** Every entry: its form, its place in the chain, the root over all. `progress(done, all)` is called for each page. */
export async function checkEntries(source, { key, head }, steps, progress) {
  const read = key.mayRead ? readEntries : readHashes;
  return steps.run(key.mayRead ? "Entries" : "Hashes of entries", async () => {
    const tree = new Tree();
    const text = await read(source, key, head, tree, progress);
    if (!same(await tree.root(), head.root)) {
      throw new Fault("root", `the ${head.size} entries do not make the root that was signed: some were altered`);
    }
    return { text: `${text}; together they make the signed root`, value: true };
  });
}

async function readEntries(source, key, head, tree, progress) {
  const kinds = new Map();
  let previous = FIRST_PREVIOUS;
  let next = source.entries(0, Math.min(PAGE, head.size));
  while (tree.size < head.size) {
    const leaves = lines(new Uint8Array(await next));
    const [begin, end] = [tree.size, tree.size + leaves.length];
    checkCount(leaves.length, begin, head.size);
    if (end < head.size) {
      next = source.entries(end, Math.min(end + PAGE, head.size)); // comes while these are worked on
      next.catch(() => null); // told where it is awaited
    }
    const [links, hashes] = await Promise.all([Promise.all(leaves.map(sha256)), Promise.all(leaves.map(leafHash))]);
    leaves.forEach((leaf, at) => {
      const entry = checkedEntry(leaf, begin + at, previous);
      previous = hex(links[at]);
      checkGenesis(entry, key);
      kinds.set(entry.kind, (kinds.get(entry.kind) ?? 0) + 1);
    });
    await tree.push(hashes);
    progress(tree.size, head.size);
  }
  const told = [...kinds].sort().map(([kind, count]) => `${kind} ${count}`);
  return `${head.size} read, each in canonical form and linked to the one before (${told.join(", ")})`;
}

async function readHashes(source, key, head, tree, progress) {
  while (tree.size < head.size) {
    const page = new Uint8Array(await source.hashes(tree.size, Math.min(tree.size + PAGE, head.size)));
    if (page.length % HASH_BYTES) throw new Fault("format", "half a hash");
    const hashes = Array.from({ length: page.length / HASH_BYTES }, (_, at) =>
      page.slice(at * HASH_BYTES, (at + 1) * HASH_BYTES),
    );
    checkCount(hashes.length, tree.size, head.size);
    await tree.push(hashes);
    progress(tree.size, head.size);
  }
  return `${head.size} hashes read; your role does not show what they stand for`;
}

function checkCount(count, begin, size) {
  if (count < 1 || begin + count > size) {
    throw new Fault("missing", `${size} entries were signed; after ${begin} of them ${count} came`);
  }
}

function checkGenesis(entry, key) {
  if ((entry.kind === "genesis") !== (entry.sequence === 0)) {
    throw new Fault("genesis", "a ledger begins with its one genesis entry");
  }
  if (entry.sequence === 0 && (entry.body.key !== key.text || entry.body.origin !== key.name)) {
    throw new Fault("genesis", "the ledger began with another key than the one that signs");
  }
}

function lines(bytes) {
  const found = [];
  for (let begin = 0; begin < bytes.length; ) {
    const end = bytes.indexOf(10, begin);
    if (end < 0) throw new Fault("format", "half an entry");
    found.push(bytes.subarray(begin, end));
    begin = end + 1;
  }
  return found;
}

/** One entry under the head. Gives `{entry}` where the role may read it. */
export async function checkInclusion(source, { key, head }, sequence, steps) {
  return steps.run(`Entry ${sequence}`, async () => {
    if (!(Number.isSafeInteger(sequence) && sequence >= 0 && sequence < head.size)) {
      throw new Unable(`there are entries 0 to ${head.size - 1}`);
    }
    const told = await source.inclusion(sequence, head.size);
    const proof = proofOf(told);
    let leaf = fromHex(told.leaf_hash);
    let entry = null;
    if (key.mayRead) {
      const bytes = new TextEncoder().encode(String(told.entry));
      entry = parseCanonical(bytes);
      if (entry?.sequence !== sequence) throw new Fault("chain", `another entry was given for entry ${sequence}`);
      leaf = await leafHash(bytes);
    }
    if (!(await verifyInclusion({ leaf, index: sequence, size: head.size, proof, root: head.root }))) {
      throw new Fault("inclusion", `entry ${sequence} is not in the ledger that was signed`);
    }
    return { text: `is in the signed ledger, by ${proof.length} hashes; its own is ${hex(leaf)}`, value: { entry } };
  });
}

/** Another's head against the present one: a signed note, or the file that a client keeps (ledger-seen.json). */
export async function checkOther(source, { key, head }, text, steps) {
  return steps.run("Another's head", async () => {
    const other = await openCheckpoint(noteIn(text), key);
    return { text: await grownFrom(source, other, head, "of that head"), value: true };
  });
}

function noteIn(text) {
  const trimmed = text.trim();
  if (!trimmed.startsWith("{")) return `${trimmed.replaceAll("\r\n", "\n")}\n`;
  try {
    return String(JSON.parse(trimmed).checkpoint);
  } catch {
    throw new Unable("this is neither a signed checkpoint nor a ledger-seen.json");
  }
}

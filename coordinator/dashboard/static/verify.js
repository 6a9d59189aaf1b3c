// Draws the checks of checks.js into the element that names a ledger: <section data-ledger="/ledger"></section>.
// Everything that a coordinator says is set as text, never as markup.

import { MEMORY, Memory, Source, Steps, checkEntries, checkHead, checkInclusion, checkOther } from "./checks.js";

const WORDS = { holds: "holds", fault: "DOES NOT HOLD", unable: "not checked", note: "note" };
const MARKS = { holds: "✓", fault: "✗", unable: "?", note: "·" };
const VERDICTS = {
  checking: "Checking …",
  holds: "The head is signed, and contradicts nothing that this browser saw before.",
  whole: "Every entry is in the signed ledger, in order and unaltered.",
  fault: "This ledger does not hold. Do not rely on its figures; keep a copy of this page and ask the operator.",
  unable: "Not everything could be checked.",
};
const LIMITS = [
  "That the coordinator shows the same ledger to everybody. Compare the head below with what clients and auditors " +
    "hold: each client keeps it in ledger-seen.json.",
  "That the key is the coordinator's. Compare its fingerprint by another way: telephone, paper.",
  "That the charges are right, or epsilon. motet audit verify recomputes both, on your own machine.",
  "That this page is honest: the coordinator sent it. motet audit verify needs no page.",
  "That nobody trained outside the ledger.",
];

function make(tag, { text, ...properties } = {}, children = []) {
  const element = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

class Page {
  constructor(place) {
    this.place = place;
    this.source = new Source(place.dataset.ledger);
    this.memory = new Memory(globalThis.localStorage);
    this.trusted = null;
    this.build();
  }

  build() {
    this.verdict = make("p", { className: "ledger-verdict" });
    this.verdict.setAttribute("role", "status");
    this.list = make("ol", { className: "ledger-steps" });
    this.bar = make("progress", { max: 1, value: 0, hidden: true });
    this.bar.setAttribute("aria-label", "Entries checked");
    this.all = make("button", { type: "button", text: "Check every entry", disabled: true });
    this.all.addEventListener("click", () => this.checkAll());
    this.again = make("button", { type: "button", text: "Check the head again" });
    this.again.addEventListener("click", () => this.look());
    this.forget = make("button", { type: "button", text: "Forget what this browser saw", hidden: true });
    this.forget.addEventListener("click", () => this.forgetSeen());
    const buttons = make("p", { className: "ledger-buttons" }, [this.all, this.again, this.forget]);
    this.note = make("pre", { className: "ledger-note", tabIndex: 0 });
    this.note.setAttribute("aria-label", "Signed head");
    this.seen = make("pre", { className: "ledger-note", tabIndex: 0 });
    this.seen.setAttribute("aria-label", "Head seen before");
    const words = "Signed with the same key, it and the head below are evidence together. motet audit verify takes it.";
    this.evidence = make("div", { hidden: true }, [
      make("h2", { text: "The head that this browser saw before" }),
      make("p", { text: words }),
      this.seen,
    ]);
    this.place.replaceChildren(
      this.verdict,
      this.list,
      this.bar,
      buttons,
      this.evidence,
      make("h2", { text: "One entry" }),
      this.entryForm(),
      make("h2", { text: "Another's head" }),
      this.otherForm(),
      make("h2", { text: "What this does not prove" }),
      make("ul", {}, LIMITS.map((text) => make("li", { text }))),
      make("h2", { text: "The signed head" }),
      this.note,
    );
  }

  entryForm() {
    const number = make("input", { type: "number", min: 0, step: 1, value: 0, required: true });
    const shown = make("pre", { className: "ledger-entry", hidden: true, tabIndex: 0 });
    shown.setAttribute("aria-label", "Entry");
    const label = make("label", { text: "Number of the entry, from 0 " }, [number]);
    const list = make("ol", { className: "ledger-steps" });
    return this.form([label], "Check this entry", list, [shown], async (steps) => {
      const found = await checkInclusion(this.source, this.trusted, number.valueAsNumber, steps);
      shown.hidden = !found?.entry;
      shown.textContent = found?.entry ? JSON.stringify(found.entry, null, 1) : "";
    });
  }

  otherForm() {
    const text = make("textarea", { rows: 5, spellcheck: false, required: true });
    const label = make("label", { text: "A signed checkpoint, or a client's ledger-seen.json " }, [text]);
    const list = make("ol", { className: "ledger-steps" });
    return this.form([label], "Compare", list, [], (steps) => checkOther(this.source, this.trusted, text.value, steps));
  }

  form(fields, name, list, more, work) {
    const button = make("button", { type: "submit", text: name });
    const form = make("form", { className: "ledger-form" }, [...fields, button, list, ...more]);
    list.setAttribute("aria-live", "polite");
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      list.replaceChildren();
      if (!this.trusted) {
        this.tell(list, { name, state: "unable", text: "there is no head that could be relied on", ms: 0 });
        return;
      }
      button.disabled = true;
      const steps = new Steps((step) => this.tell(list, step));
      await work(steps);
      if (steps.worst === "fault") this.say("fault");
      button.disabled = false;
    });
    return form;
  }

  /** A fault is never taken back by a later check that holds; only a new look at the head clears the page. */
  say(state) {
    this.place.dataset.state = state;
    this.verdict.setAttribute("role", state === "fault" ? "alert" : "status");
    this.verdict.textContent = VERDICTS[state];
  }

  tell(list, { name, state, text, ms }) {
    const figure = make("span", { className: "ledger-ms", text: ` ${ms < 1 ? "<1" : Math.round(ms)} ms` });
    const word = make("strong", { className: "ledger-word", text: `${MARKS[state]} ${WORDS[state]}` });
    const row = make("li", {}, [make("span", { text: `${name}: ` }), word, ` ${text}`, figure]);
    row.dataset.state = state;
    row.dataset.step = name;
    list.append(row);
  }

  async look() {
    this.say("checking");
    this.list.replaceChildren();
    this.again.disabled = this.all.disabled = true;
    this.trusted = null;
    const steps = new Steps((step) => this.tell(this.list, step));
    const found = await checkHead(this.source, this.memory, steps);
    this.note.textContent = found?.head.note ?? "";
    this.trusted = steps.worst === "fault" ? null : found;
    this.all.disabled = !this.trusted;
    this.again.disabled = false;
    this.forget.hidden = this.evidence.hidden = steps.worst !== "fault";
    this.seen.textContent = this.remembered();
    this.say(steps.worst);
  }

  remembered() {
    try {
      return this.memory.recall()?.note ?? "";
    } catch {
      return "";
    }
  }

  async checkAll() {
    this.all.disabled = this.again.disabled = true;
    this.bar.hidden = false;
    const before = this.place.dataset.state;
    this.say("checking");
    const steps = new Steps((step) => this.tell(this.list, step));
    const isWhole = await checkEntries(this.source, this.trusted, steps, (done, all) => {
      this.bar.max = all;
      this.bar.value = done;
    });
    this.bar.hidden = true;
    this.all.disabled = this.again.disabled = false;
    this.say(isWhole ? (before === "holds" ? "whole" : before) : steps.worst);
  }

  forgetSeen() {
    const seen = globalThis.localStorage.getItem(MEMORY);
    const question = "The next look will be the first. Keep this as evidence before you go on:\n\n";
    if (globalThis.confirm(question + seen)) {
      this.memory.forget();
      this.look();
    }
  }
}

const place = document.querySelector("[data-ledger]");
if (place) new Page(place).look();

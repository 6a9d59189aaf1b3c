"""Every transition of a run, a round, a contribution and a charge, in one table.

The store makes no other: it asks ``moves`` before it writes, in the transaction that writes. The crash points
(``coordinator.crashpoints``), the page docs/rounds.md and the crash matrix are generated from this table.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.errors import IllegalTransitionError

ABSENT = ""
"""The state of what is not there yet."""

RUN_STATES = ("PROPOSED", "HELD", "QUEUED", "RUNNING", "FINISHED", "FAILED", "CANCELLED")
WAITS_FOR_A_WORD = ("PROPOSED", "HELD")
"""PROPOSED: for an operator's; HELD: for that of whoever submitted it."""
ENDED = ("FINISHED", "FAILED", "CANCELLED")
ROUND_STATES = ("PLANNED", "CLOSED", "ABORTED")
CONTRIBUTION_STATES = ("ORDERED", "RECEIVED", "FAILED", "LATE", "SKIPPED")
CHARGE_STATES = ("RESERVED", "SETTLED")
STATES = {
    "run": RUN_STATES,
    "round": ROUND_STATES,
    "contribution": CONTRIBUTION_STATES,
    "charge": CHARGE_STATES,
}
"""What has states, and which; ``ABSENT`` comes before all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One way from a state to a state, or one note beside a state.

    Attributes:
      subject: run, round, contribution, charge, lease.
      verb: what happens to it.
      before: states from which it happens. Empty: a note, which is written in any state and changes none.
      after: the state it leads to; that of ``before`` where it is a note about that state.
      unmoved: states in which the same, told once more or overtaken by another answer, changes nothing.
      within: name of the transition whose transaction it is part of; empty where it has its own.
      effect: what leaves after the commit; empty where nothing does.
    """

    subject: str
    verb: str
    before: tuple[str, ...] = ()
    after: str = ABSENT
    unmoved: tuple[str, ...] = ()
    within: str = ""
    effect: str = ""

    @property
    def name(self) -> str:
        """``subject.verb``: unique in the table."""
        return f"{self.subject}.{self.verb}"

    @property
    def is_note(self) -> bool:
        """Whether no state changes."""
        return not self.before


SUBMIT = Transition(subject="run", verb="submit", before=(ABSENT,), after="QUEUED", unmoved=RUN_STATES)
PROPOSE = Transition(subject="run", verb="propose", before=(ABSENT,), after="PROPOSED", unmoved=RUN_STATES)
HOLD = Transition(subject="run", verb="hold", before=(ABSENT,), after="HELD", unmoved=RUN_STATES)
APPROVE = Transition(
    subject="run", verb="approve", before=("PROPOSED",), after="QUEUED", unmoved=("QUEUED", "RUNNING", *ENDED)
)
RELEASE = Transition(
    subject="run", verb="release", before=("HELD",), after="QUEUED", unmoved=("QUEUED", "RUNNING", *ENDED)
)
START = Transition(
    subject="run", verb="start", before=("QUEUED",), after="RUNNING", unmoved=("RUNNING", *ENDED)
)
FINISH = Transition(
    subject="run",
    verb="finish",
    before=("RUNNING",),
    after="FINISHED",
    unmoved=ENDED,
    effect="the ledger is published",
)
FAIL = Transition(subject="run", verb="fail", before=("QUEUED", "RUNNING"), after="FAILED", unmoved=ENDED)
CANCEL = Transition(
    subject="run",
    verb="cancel",
    before=(*WAITS_FOR_A_WORD, "QUEUED", "RUNNING"),
    after="CANCELLED",
    unmoved=ENDED,
)
RESUME = Transition(
    subject="run", verb="resume", before=("FAILED",), after="QUEUED", unmoved=("QUEUED", "RUNNING")
)
ASK_CANCEL = Transition(subject="run", verb="ask_cancel", effect="its clients are told to stop")
SAY_REASON = Transition(subject="run", verb="say_reason")
SET_PRIORITY = Transition(subject="run", verb="set_priority")

PLAN = Transition(
    subject="round",
    verb="plan",
    before=(ABSENT,),
    after="PLANNED",
    unmoved=ROUND_STATES,
    effect="the ledger is published",
)
CLOSE = Transition(subject="round", verb="close", before=("PLANNED",), after="CLOSED", unmoved=("CLOSED",))
ABORT = Transition(subject="round", verb="abort", before=("PLANNED",), after="ABORTED", unmoved=("ABORTED",))
COUNT = Transition(subject="round", verb="count")
NOTE_FIGURE = Transition(subject="round", verb="note_figure")

ANSWERED = ("RECEIVED", "FAILED", "LATE")
ORDER = Transition(
    subject="contribution",
    verb="order",
    before=(ABSENT,),
    after="ORDERED",
    within=PLAN.name,
    effect="the order leaves",
)
SKIP = Transition(subject="contribution", verb="skip", before=(ABSENT,), after="SKIPPED", within=PLAN.name)
SEND = Transition(subject="contribution", verb="send", before=("ORDERED",), after="ORDERED", unmoved=ANSWERED)
RECEIVE = Transition(
    subject="contribution", verb="receive", before=("ORDERED",), after="RECEIVED", unmoved=ANSWERED
)
REFUSE = Transition(
    subject="contribution", verb="refuse", before=("ORDERED",), after="FAILED", unmoved=ANSWERED
)
BE_LATE = Transition(
    subject="contribution", verb="be_late", before=("FAILED",), after="LATE", unmoved=("RECEIVED", "LATE")
)

RESERVE = Transition(subject="charge", verb="reserve", before=(ABSENT,), after="RESERVED", within=PLAN.name)
SETTLE = Transition(
    subject="charge",
    verb="settle",
    before=("RESERVED",),
    after="SETTLED",
    unmoved=("SETTLED",),
    within=RECEIVE.name,
)

TAKE_LEAD = Transition(subject="lease", verb="take")
KEEP_LEAD = Transition(subject="lease", verb="keep")
RETURN_LEAD = Transition(subject="lease", verb="give_back")

TRANSITIONS = (
    SUBMIT, PROPOSE, HOLD, APPROVE, RELEASE, START, FINISH, FAIL, CANCEL, RESUME, ASK_CANCEL, SAY_REASON, SET_PRIORITY,
    PLAN, CLOSE, ABORT, COUNT, NOTE_FIGURE,
    ORDER, SKIP, SEND, RECEIVE, REFUSE, BE_LATE,
    RESERVE, SETTLE,
    TAKE_LEAD, KEEP_LEAD, RETURN_LEAD,
)  # fmt: skip
"""All of them."""

END = {t.after: t for t in (FINISH, FAIL, CANCEL)}
"""State in which a run ends -> how it gets there."""


def moves(transition: Transition, state: str, *, what: str) -> bool:
    """Whether a transition happens in a state.

    Args:
      transition: of ``TRANSITIONS``.
      state: what the subject is in; ``ABSENT`` where it is not there.
      what: the subject in words, for the message.

    Returns:
      True where it happens; False where it has happened before or was overtaken: nothing is written then.

    Raises:
      IllegalTransitionError: the table has no such way.
    """
    if transition.is_note or state in transition.before:
        return True
    if state in transition.unmoved:
        return False
    raise refusal(transition, state, what=what)


def refusal(transition: Transition, state: str, *, what: str) -> IllegalTransitionError:
    """The error of a transition that a state does not allow."""
    wanted = " or ".join(s or "new" for s in transition.before)
    opened = "open" if transition.before == ("PLANNED",) else wanted
    return IllegalTransitionError(
        f"{what} is not {opened}: it is {state or 'not there'} ({transition.name})",
        hint="two coordinators work on one database, or rows were changed by hand; stop one of them",
    )

"""A client's whole work on one order: check, charge, train, protect, answer. The base model stays loaded.

Steps, in this order: 1 the order is undamaged and for this client; 2 an order that was answered gets the same
bytes again; 3 the policy allows it, and the owner where the policy asks for that; 4 the budget is charged,
durably; 5 training; 6 what may leave is made and stored; 7 the charge is settled. A crash between 4 and 6 leaves a
charge that counts in full; the order, done again, is charged again.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aggregation.control import shifted, trained_values
from aggregation.errors import MalformedUpdateError
from aggregation.serialize import from_bytes, sha256_hex
from client.adapters import attach, detach, read_state
from client.base import loaded_base
from client.capacity import Capacity, OverCapacityError
from client.control import OwnControls
from client.errors import BadOrderError, CancelledError, ClientError, PolicyRefusedError
from client.evaluation import score_model
from client.held_out import split
from client.inputs import prepare
from client.leave import RUN_ID, Approvals, LeaveDesk
from client.ledger import ClientLedger
from client.lineage import Lineage, Lineages
from client.packing import Residuals, packed, whole
from client.personal import PersonalParts
from client.policy import Policy, check_hours, check_policy
from client.policy_file import PolicyFile
from client.protect import DATA_UNUSABLE, judge, offer, refuse, release
from client.pruning import pruned
from client.seen_ledger import SeenLedger
from client.training import train_round
from motet.abandoned import Abandoned, order_key
from motet.data import DataError, NoExamplesError, read_data
from motet.durable import write_whole
from motet.errors import MotetError
from motet.logs import about
from motet.modeling import layer_shapes
from motet.recipe import Recipe, from_canonical_json, resolve_noise_multiplier, round_event
from motet.recipe.method import feeds_back, local_start, method_of, scheme_of
from motet.wire.messages import TrainOrder, TrainReply
from privacy.noise import SystemNoise

if TYPE_CHECKING:
    from aggregation.adapter import AdapterState
    from client.evaluation import Scores
    from client.inputs import Prepared
    from client.packing import Packed
    from motet.data import Example
    from privacy.events import PoissonGaussianEvent
    from privacy.noise import NoiseSource

log = logging.getLogger(__name__)
Handler = Callable[[TrainOrder], TrainReply]
_Stamp = tuple[tuple[str, int, int, int], ...]


class ClientWorker:
    """One data owner's trainer.

    Args:
      client_id: orders for others are refused.
      data_path: JSONL or CSV file of examples, or a folder of pictures.
      state_dir: finished replies and the ledger; made if missing.
      policy: the floor, or the file of it, which is followed as it changes; none means no clauses.
      noise: source of private noise and sampling; the operating system's by default. A predictable one
        (``is_test_only``) is refused in private runs.
      allows_test_noise: let a predictable source through all the same; only tests may.
      now: for the hours of the policy; knows its zone.
      on_step: told before each training step of an order how many are done, of how many, and once more at the end.
    """

    def __init__(
        self,
        client_id: str,
        data_path: Path,
        state_dir: Path,
        policy: Policy | PolicyFile | None = None,
        noise: NoiseSource | None = None,
        *,
        allows_test_noise: bool = False,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
        on_step: Callable[[TrainOrder, int, int], None] | None = None,
    ) -> None:
        self._one_at_a_time = threading.Lock()
        self._on_step = on_step or (lambda _order, _done, _total: None)
        self._now = now
        self._client_id = client_id
        self._data_path = data_path
        self._replies = state_dir / "replies"
        self._personal = PersonalParts(state_dir / "personal")
        self._residuals = Residuals(state_dir / "residuals")
        self._controls = OwnControls(state_dir / "control")
        self._ledger = ClientLedger(state_dir / "ledger.jsonl")
        self._lineages = Lineages(state_dir)
        self._lineage: tuple[tuple[_Stamp, str | None], Lineage] | None = None
        self._policy_file = policy if isinstance(policy, PolicyFile) else PolicyFile.fixed(policy)
        self._policy = self._policy_file.current()
        self._noise = noise or SystemNoise()
        self._desk = LeaveDesk(client_id, state_dir, self._policy_file, now)
        self._approvals = Approvals(state_dir, client_id)
        self._seen_ledger = SeenLedger(state_dir)
        self._abandoned = Abandoned(state_dir)
        self._capacity_path = state_dir / "capacity.json"
        self._allows_test_noise = allows_test_noise
        self._ready: tuple[str, tuple[Prepared, Prepared | None]] | None = None

    def handle(self, order: TrainOrder) -> TrainReply:
        """Answer one order. Facts of the world become error replies; nothing is raised for them.

        A question for leave may be asked from another thread, beside an order.
        """
        if order.asks_leave:
            return self._desk.answer(order)
        with (
            self._one_at_a_time,  # whatever a coordinator sends, and by which way
            about(run_id=order.run_id, round_index=order.round_index, client_id=order.client_id),
        ):
            return self._handled(order)

    def _handled(self, order: TrainOrder) -> TrainReply:
        try:
            return self._answer(order)
        except OverCapacityError as e:
            return self._less(order, e)
        except ClientError as e:
            log.warning("round %s of %s refused: %s", order.round_index, order.run_id, e.code)
            said_no = e.message.startswith("clause approval:")
            return refuse(
                order, e.code, e.message, leave=self._desk.refusal(order.recipe_sha256) if said_no else None
            )
        except MalformedUpdateError as e:
            return refuse(order, "bad_order", str(e))
        except DataError as e:
            hint = f" ({e.hint})" if e.hint else ""
            log.warning("round %s of %s: %s%s", order.round_index, order.run_id, e.message, hint)
            return refuse(order, "client_failed", self._told_of_data(order, e))
        except MotetError as e:
            log.warning("round %s of %s failed: %s", order.round_index, order.run_id, type(e).__name__)
            return refuse(order, "client_failed", e.message)

    def _answer(self, order: TrainOrder) -> TrainReply:
        recipe = self._checked(order)
        if order.asks_score:
            return self._judged(order, recipe)
        stored = self._stored_reply(order)
        if stored is not None:
            return stored
        if recipe.trains_privately and self._noise.is_test_only and not self._allows_test_noise:
            raise ClientError("private noise would come from a predictable source; nothing was trained")
        noise_multiplier = resolve_noise_multiplier(recipe) if recipe.privacy else None
        self._policy = self._policy_file.current()  # for this order, however long it takes
        self._check_not_taken_back(order)
        check_hours(self._policy, self._now())
        if order.asks_rank:
            self._approvals.check(self._policy, order.recipe_sha256)
            check_policy(self._policy, recipe, lora_rank=1, noise_multiplier=noise_multiplier)
            return offer(order, self._capacity().offer(recipe, order.lora_rank, noise_multiplier))
        if recipe.privacy is not None:
            self._seen_ledger.check(order.ledger_json)
        check_policy(self._policy, recipe, lora_rank=order.lora_rank, noise_multiplier=noise_multiplier)
        if self._approvals.check(self._policy, order.recipe_sha256) is None:
            self._approvals.decide_by_rule(
                self._policy, order.recipe_sha256, int(self._now().timestamp() * 1000)
            )
        self._capacity().check(recipe, order.lora_rank, noise_multiplier)
        received = from_bytes(order.payload)
        stamp = self._stamp()
        examples, held_out = self._prepared(recipe, stamp)
        self._check_basis(order, recipe)
        self._check_not_taken_back(order)
        reservation = self._charge(order, recipe, stamp)
        trained, scores = self._train(order, recipe, received, examples, held_out, noise_multiplier)
        reply = release(
            order,
            recipe,
            trained,
            num_steps=recipe.training.local_steps,
            num_examples=len(examples),
            offered_lora_rank=self._offered(order),
            shares_metrics=self._policy.share_metrics,
            scores=scores,
            shares_accuracy=self._policy.share_accuracy,
        )
        self._store_reply(order, reply)
        if reservation is not None:
            self._ledger.settle(reservation)
        return reply

    def _judged(self, order: TrainOrder, recipe: Recipe) -> TrainReply:
        """How the last adapter does on the held-out examples, where the owner's policy lets that leave."""
        if recipe.evaluation is None or order.round_index != recipe.training.rounds:
            raise BadOrderError(
                "the recipe asks for no score, or the question does not come after its last round"
            )
        self._policy = self._policy_file.current()
        check_hours(self._policy, self._now())
        self._approvals.check(self._policy, order.recipe_sha256)
        check_policy(self._policy, recipe, lora_rank=order.lora_rank, noise_multiplier=None)
        if not self._policy.tells_scores:
            raise PolicyRefusedError("clause share_accuracy: the owner tells no loss and no accuracy")
        received = from_bytes(order.payload)
        self._check_not_taken_back(order)
        _, held_out = self._prepared(recipe, self._stamp())
        start, base = self._start(order, recipe, received), loaded_base(recipe)
        with base.lock:
            attached = attach(
                base.model,
                recipe,
                start,
                bases=base.bases_for(recipe, start),
                scale=recipe.scale_of(order.lora_rank),
            )
            try:
                scores = self._scores(recipe, base.model, held_out)
            finally:
                detach(attached)
        return judge(order, recipe, scores, self._policy)

    def _scores(self, recipe: Recipe, model: torch.nn.Module, held_out: Prepared | None) -> Scores | None:
        """Of the held-out examples under the model as it is; None where nothing of it could leave."""
        if held_out is None or recipe.privacy is not None or not self._policy.tells_scores:
            return None
        return score_model(recipe, model, held_out)

    def _capacity(self) -> Capacity:
        return Capacity(self._capacity_path, self._policy)

    def _epsilon_cap(self, lineage: Lineage) -> float | None:
        """Of the data set under any of its names, and of the file under its own."""
        path = self._data_path
        return self._policy.epsilon_cap(*lineage.names, str(path), str(path.absolute()), path.name)

    def _before_step(self, order: TrainOrder, total: int, steps: Iterator[int]) -> None:
        self._check_not_taken_back(order)
        self._on_step(order, next(steps), total)

    def _check_not_taken_back(self, order: TrainOrder) -> None:
        if self._abandoned.holds(order_key(order.run_id, order.round_index, order.attempt)):
            raise CancelledError("the coordinator took the order back")

    def _check_basis(self, order: TrainOrder, recipe: Recipe) -> None:
        """Make a basis of public examples before anything is charged; this client's own data is not public."""
        asked = recipe.method.public_data
        if asked is None or not recipe.method.train_adapter:
            return
        own = self._data_path
        if asked.sha256 is not None and own.is_file() and sha256_hex(own.read_bytes()) == asked.sha256:
            raise BadOrderError("the recipe calls this client's own data public")
        base = loaded_base(recipe)
        with base.lock:
            base.bases_of(recipe, order.lora_rank)

    def _told_of_data(self, order: TrainOrder, error: DataError) -> str:
        """What leaves of a mistake in the data, whoever found it: with a privacy section only that it is there."""
        if from_canonical_json(order.recipe_json).privacy is not None:
            return DATA_UNUSABLE
        if self._data_path.is_dir():  # names of files stay here
            return "its pictures can not be read; its own log says which and why"
        return error.message

    def _less(self, order: TrainOrder, error: OverCapacityError) -> TrainReply:
        """A refusal that tells the rank which would be taken."""
        try:
            return refuse(order, error.code, error.message, offered_lora_rank=self._offered(order))
        except ClientError as e:
            return refuse(order, e.code, e.message)

    def _offered(self, order: TrainOrder) -> int:
        """What this client carries now, at most the recipe's rank; 0 where the recipe assigns ranks."""
        recipe = from_canonical_json(order.recipe_json)
        if recipe.adapter.rank_policy != "measured":
            return 0
        noise_multiplier = resolve_noise_multiplier(recipe) if recipe.privacy else None
        return self._capacity().offer(recipe, recipe.most_rank, noise_multiplier)

    def _checked(self, order: TrainOrder) -> Recipe:
        if order.client_id != self._client_id:
            raise BadOrderError(f"the order is for {order.client_id!r}, this is {self._client_id!r}")
        if (
            sha256_hex(order.payload) != order.payload_sha256
            or sha256_hex(order.recipe_json.encode()) != order.recipe_sha256
        ):
            raise BadOrderError("the order was damaged on its way: a hash does not match")
        if (
            not RUN_ID.fullmatch(order.run_id)
            or min(order.round_index, order.attempt, order.lora_rank - 1) < 0
            or not 0 <= order.counted_round <= order.round_index
        ):
            raise BadOrderError(
                "the order's run, round, attempt or rank is none"
            )  # run ids become file names
        return from_canonical_json(order.recipe_json)

    def _stamp(self) -> _Stamp:
        """Changes when the data file is written; reading it again is then due."""
        try:
            files = [self._data_path, *sorted(self._data_path.rglob("*"))]
            return tuple((str(f), s.st_ino, s.st_size, s.st_mtime_ns) for f in files for s in (f.stat(),))
        except OSError:
            return ()  # reading it says what is wrong

    def _identified(self, stamp: _Stamp, person_column: str | None) -> Lineage:
        """Which data set the file is; its budget follows it through edits, copies and other names."""
        if self._lineage is None or self._lineage[0] != (stamp, person_column):
            self._lineages.check_knows([charge.data_set for charge in self._ledger.charges()])
            lineage = self._lineages.identify(self._data_path, person_column=person_column)
            log.info(
                "data set %s: %s rows, %s of them known before%s",
                lineage.name,
                lineage.num_rows,
                lineage.known_rows,
                "".join(f"; {o.shared_rows} shared with {o.lineage}" for o in lineage.overlaps),
            )
            self._lineage = (stamp, person_column), lineage
        return self._lineage[1]

    def _charge(self, order: TrainOrder, recipe: Recipe, stamp: _Stamp) -> str | None:
        event = round_event(recipe)
        if event is None or recipe.privacy is None:
            return None
        lineage = self._identified(stamp, recipe.privacy.unit_column)
        if self._stamp() != stamp:
            raise DataError("the data changed while it was read; nothing was trained")
        if not recipe.privacy.noise_is_local:
            return self._charge_run(order, recipe, event, lineage)
        return self._ledger.reserve(
            data_set=lineage.name,
            joined=lineage.names,
            run_id=order.run_id,
            round_index=order.round_index,
            attempt=order.attempt,
            event=event,
            epsilon_cap=self._epsilon_cap(lineage),
            target_delta=min(self._policy.target_delta, recipe.privacy.target_delta),
        )

    def _charge_run(
        self, order: TrainOrder, recipe: Recipe, event: PoissonGaussianEvent, lineage: Lineage
    ) -> str | None:
        """Charge every round of the run at its first order: rounds in which this client is not drawn cost as much."""
        if recipe.privacy is None:
            return None
        made = {
            (c.round_index, c.attempt): c.reservation_id
            for c in self._ledger.charges()
            if c.run_id == order.run_id and c.event == event and c.data_set in lineage.names
        }
        here = (order.round_index, order.attempt)
        places = [(i, 0) for i in range(recipe.training.rounds)]
        missing = [p for p in dict.fromkeys([*places, here]) if p not in made]
        names = self._ledger.reserve_all(
            missing,
            data_set=lineage.name,
            joined=lineage.names,
            run_id=order.run_id,
            event=event,
            epsilon_cap=self._epsilon_cap(lineage),
            target_delta=min(self._policy.target_delta, recipe.privacy.target_delta),
        )
        return (made | dict(zip(missing, names, strict=True)))[here]

    def _train(
        self,
        order: TrainOrder,
        recipe: Recipe,
        received: AdapterState,
        examples: Prepared,
        held_out: Prepared | None,
        noise_multiplier: float | None,
    ) -> tuple[Packed, Scores | None]:
        """What is sent, and what the start of the round scores on examples that do not train."""
        method = method_of(recipe)
        scale = recipe.scale_of(order.lora_rank)
        start = self._start(order, recipe, received)
        own = self._own_control(order, recipe)
        base = loaded_base(recipe)
        with base.lock:
            bases = base.bases_for(recipe, start)
            trains = method.trained_factors(order.round_index)
            rests = recipe.sketches_in(order.round_index)
            attached = attach(
                base.model, recipe, start, bases=bases, scale=scale, trains=trains, heads_rest=rests
            )
            try:
                scores = self._scores(recipe, base.model, held_out)
                train_round(
                    attached,
                    recipe,
                    examples,
                    round_index=order.round_index,
                    client_id=order.client_id,
                    noise=self._noise,
                    noise_multiplier=noise_multiplier,
                    control_shift=_difference(received.control, own),
                    before_step=partial(self._before_step, order, recipe.training.local_steps, count()),
                )
                self._on_step(order, recipe.training.local_steps, recipe.training.local_steps)
                state = pruned(recipe, read_state(attached), start)
            finally:
                detach(attached)
        begun, ended = (method.trained_part(s, order.round_index) for s in (start, state))
        message = self._packed(order, recipe, ended, begun)
        self._keep_control(order, recipe, received, own, begun, message.read)
        kept = method.personal_part(state)
        self._personal.keep(order.run_id, order.round_index, kept, model=state, recipe_json=order.recipe_json)
        return message, scores

    def _start(self, order: TrainOrder, recipe: Recipe, received: AdapterState) -> AdapterState:
        """What this client's model begins from: what came, at its own rank, with the part that stays here."""
        return local_start(
            recipe,
            method_of(recipe),
            received,
            layer_shapes=layer_shapes(recipe) if recipe.method.train_adapter else {},
            lora_rank=order.lora_rank,
            round_index=order.round_index,
            client_id=order.client_id,
            personal=self._personal.before(order.run_id, order.round_index),
        )

    def _packed(
        self, order: TrainOrder, recipe: Recipe, trained: AdapterState, start: AdapterState
    ) -> Packed:
        scheme = scheme_of(recipe)
        if scheme is None:
            return whole(trained)
        before = self._residuals.before(order.run_id, order.round_index) if feeds_back(recipe) else {}
        message, left = packed(trained, start, scheme, before)
        if feeds_back(recipe):
            self._residuals.keep(order.run_id, order.round_index, left)
        return message

    def _own_control(self, order: TrainOrder, recipe: Recipe) -> Mapping[str, torch.Tensor]:
        if recipe.training.algorithm != "scaffold":
            return {}
        return self._controls.in_force(order.run_id, order.counted_round)

    def _keep_control(
        self,
        order: TrainOrder,
        recipe: Recipe,
        received: AdapterState,
        own: Mapping[str, torch.Tensor],
        start: AdapterState,
        sent: AdapterState,
    ) -> None:
        """Made of what is released and of what was received, so that a private run's variate needs no charge."""
        if recipe.training.algorithm != "scaffold":
            return
        ended = trained_values(sent)
        rates = {
            key: recipe.learning_rate_of(order.round_index, head=key.startswith("dense/")) for key in ended
        }
        next_own = shifted(
            own,
            received.control,
            trained_values(start),
            ended,
            num_steps=recipe.training.local_steps,
            rates=rates,
        )
        self._controls.keep(order.run_id, order.round_index, next_own, counted_round=order.counted_round)

    def _prepared(self, recipe: Recipe, stamp: _Stamp) -> tuple[Prepared, Prepared | None]:
        """What trains, and what is judged on; None where the recipe holds nothing out, or nothing was."""
        key = (
            f"{stamp}"
            + recipe.task.model_dump_json()
            + recipe.base_model.model_dump_json()
            + recipe.data.model_dump_json()
            + str(recipe.privacy and recipe.privacy.unit_column)
            + (f"{recipe.evaluation.model_dump_json()}{recipe.seed}" if recipe.evaluation else "")
        )
        if self._ready is None or self._ready[0] != key:
            base, parts = loaded_base(recipe), split(recipe, self._read(recipe))
            judged = parts.held_out[: recipe.evaluation.max_examples] if recipe.evaluation else ()
            made = prepare(recipe, base, parts.training), prepare(recipe, base, judged) if judged else None
            self._ready = (key, made)
        return self._ready[1]

    def _read(self, recipe: Recipe) -> list[Example]:
        """The examples; under DP-SGD there may be none."""
        try:
            return read_data(recipe, self._data_path)
        except NoExamplesError:
            if recipe.trains_privately:
                return []
            raise

    def _reply_path(self, order: TrainOrder) -> Path:
        return (
            self._replies / f"{order.run_id}-{order.round_index}-{order.attempt}-{order.payload_sha256[:16]}"
        )

    def _stored_reply(self, order: TrainOrder) -> TrainReply | None:
        path = self._reply_path(order)
        if not path.with_suffix(".json").exists():
            return None
        fields = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        payload = path.with_suffix(".safetensors").read_bytes()
        if sha256_hex(payload) != fields["payload_sha256"]:
            raise BadOrderError(f"the stored reply {path.name} is damaged on this client's disk")
        return TrainReply(payload=payload, **fields)

    def _store_reply(self, order: TrainOrder, reply: TrainReply) -> None:
        path = self._reply_path(order)
        fields = {f.name: getattr(reply, f.name) for f in dataclasses.fields(reply) if f.name != "payload"}
        try:
            self._replies.mkdir(parents=True, exist_ok=True)
            write_whole(path.with_suffix(".safetensors"), reply.payload)
            write_whole(path.with_suffix(".json"), json.dumps(fields).encode())
        except OSError as e:
            raise ClientError(
                f"the reply can not be stored: {e.strerror}", hint="check the client's disk"
            ) from e


def _difference(
    left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """``left - right`` by key; a missing one is zero."""
    parts = {key: (left.get(key), right.get(key)) for key in sorted({*left, *right})}
    made = {}
    for key, (one, other) in parts.items():
        if one is not None:
            made[key] = one if other is None else one - other
        elif other is not None:
            made[key] = -other
    return made


def build_handler(spec: Mapping[str, Any]) -> Handler:
    """A handler from plain values, for grids that start their own processes.

    Reads client_id, data_path, state_dir, and policy_path where there is a policy. Who simulates a client without one
    holds its data: it tells its held-out figures.
    """
    torch.set_num_threads(1)
    path = spec.get("policy_path")
    policy = PolicyFile(Path(path)) if path else PolicyFile.fixed(Policy(share_accuracy=True))
    worker = ClientWorker(str(spec["client_id"]), Path(spec["data_path"]), Path(spec["state_dir"]), policy)
    return worker.handle

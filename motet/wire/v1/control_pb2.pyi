from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorDetail(_message.Message):
    __slots__ = ("kind", "message", "hint", "exit_code", "request_id")
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    kind: str
    message: str
    hint: str
    exit_code: int
    request_id: str
    def __init__(self, kind: _Optional[str] = ..., message: _Optional[str] = ..., hint: _Optional[str] = ..., exit_code: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class EnrolRequest(_message.Message):
    __slots__ = ("token", "csr_pem", "fleet_public_key_pem", "proof_of_possession", "software_version")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CSR_PEM_FIELD_NUMBER: _ClassVar[int]
    FLEET_PUBLIC_KEY_PEM_FIELD_NUMBER: _ClassVar[int]
    PROOF_OF_POSSESSION_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    token: str
    csr_pem: str
    fleet_public_key_pem: str
    proof_of_possession: bytes
    software_version: str
    def __init__(self, token: _Optional[str] = ..., csr_pem: _Optional[str] = ..., fleet_public_key_pem: _Optional[str] = ..., proof_of_possession: _Optional[bytes] = ..., software_version: _Optional[str] = ...) -> None: ...

class JoinInformation(_message.Message):
    __slots__ = ("address", "gateway_ca_pem", "bundle_sha256", "control_address")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_CA_PEM_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_SHA256_FIELD_NUMBER: _ClassVar[int]
    CONTROL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    address: str
    gateway_ca_pem: str
    bundle_sha256: str
    control_address: str
    def __init__(self, address: _Optional[str] = ..., gateway_ca_pem: _Optional[str] = ..., bundle_sha256: _Optional[str] = ..., control_address: _Optional[str] = ...) -> None: ...

class EnrolResponse(_message.Message):
    __slots__ = ("certificate_pem", "ca_pem", "federation", "role", "name", "not_after", "join")
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    CA_PEM_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    JOIN_FIELD_NUMBER: _ClassVar[int]
    certificate_pem: str
    ca_pem: str
    federation: str
    role: str
    name: str
    not_after: float
    join: JoinInformation
    def __init__(self, certificate_pem: _Optional[str] = ..., ca_pem: _Optional[str] = ..., federation: _Optional[str] = ..., role: _Optional[str] = ..., name: _Optional[str] = ..., not_after: _Optional[float] = ..., join: _Optional[_Union[JoinInformation, _Mapping]] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("csr_pem",)
    CSR_PEM_FIELD_NUMBER: _ClassVar[int]
    csr_pem: str
    def __init__(self, csr_pem: _Optional[str] = ...) -> None: ...

class RenewSignedRequest(_message.Message):
    __slots__ = ("certificate_pem", "signed_at", "signature")
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    SIGNED_AT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    certificate_pem: str
    signed_at: int
    signature: bytes
    def __init__(self, certificate_pem: _Optional[str] = ..., signed_at: _Optional[int] = ..., signature: _Optional[bytes] = ...) -> None: ...

class RenewResponse(_message.Message):
    __slots__ = ("certificate_pem", "ca_pem", "not_after")
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    CA_PEM_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    certificate_pem: str
    ca_pem: str
    not_after: float
    def __init__(self, certificate_pem: _Optional[str] = ..., ca_pem: _Optional[str] = ..., not_after: _Optional[float] = ...) -> None: ...

class IssueTokenRequest(_message.Message):
    __slots__ = ("role", "name", "lifetime_s", "capacity_class", "enrol_address")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_S_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_CLASS_FIELD_NUMBER: _ClassVar[int]
    ENROL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    role: str
    name: str
    lifetime_s: float
    capacity_class: str
    enrol_address: str
    def __init__(self, role: _Optional[str] = ..., name: _Optional[str] = ..., lifetime_s: _Optional[float] = ..., capacity_class: _Optional[str] = ..., enrol_address: _Optional[str] = ...) -> None: ...

class IssueTokenResponse(_message.Message):
    __slots__ = ("token", "not_after", "enrol_address")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    ENROL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    token: str
    not_after: float
    enrol_address: str
    def __init__(self, token: _Optional[str] = ..., not_after: _Optional[float] = ..., enrol_address: _Optional[str] = ...) -> None: ...

class IdentityRecord(_message.Message):
    __slots__ = ("role", "name", "serial", "issued_at", "not_after", "revoked_at", "revocation_reason", "fingerprint")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    REVOKED_AT_FIELD_NUMBER: _ClassVar[int]
    REVOCATION_REASON_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    role: str
    name: str
    serial: str
    issued_at: float
    not_after: float
    revoked_at: float
    revocation_reason: str
    fingerprint: str
    def __init__(self, role: _Optional[str] = ..., name: _Optional[str] = ..., serial: _Optional[str] = ..., issued_at: _Optional[float] = ..., not_after: _Optional[float] = ..., revoked_at: _Optional[float] = ..., revocation_reason: _Optional[str] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class ListIdentitiesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListIdentitiesResponse(_message.Message):
    __slots__ = ("identities", "next_page_token")
    IDENTITIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    identities: _containers.RepeatedCompositeFieldContainer[IdentityRecord]
    next_page_token: str
    def __init__(self, identities: _Optional[_Iterable[_Union[IdentityRecord, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RevokeIdentityRequest(_message.Message):
    __slots__ = ("role", "name", "serial", "reason")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    role: str
    name: str
    serial: str
    reason: str
    def __init__(self, role: _Optional[str] = ..., name: _Optional[str] = ..., serial: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RevokeIdentityResponse(_message.Message):
    __slots__ = ("serials", "role", "name", "is_client_out")
    SERIALS_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    IS_CLIENT_OUT_FIELD_NUMBER: _ClassVar[int]
    serials: _containers.RepeatedScalarFieldContainer[str]
    role: str
    name: str
    is_client_out: bool
    def __init__(self, serials: _Optional[_Iterable[str]] = ..., role: _Optional[str] = ..., name: _Optional[str] = ..., is_client_out: bool = ...) -> None: ...

class IssueIdentityRequest(_message.Message):
    __slots__ = ("role", "name", "csr_pem", "lifetime_s")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CSR_PEM_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_S_FIELD_NUMBER: _ClassVar[int]
    role: str
    name: str
    csr_pem: str
    lifetime_s: float
    def __init__(self, role: _Optional[str] = ..., name: _Optional[str] = ..., csr_pem: _Optional[str] = ..., lifetime_s: _Optional[float] = ...) -> None: ...

class IssueIdentityResponse(_message.Message):
    __slots__ = ("certificate_pem", "ca_pem", "federation", "not_after", "control_address")
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    CA_PEM_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    CONTROL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    certificate_pem: str
    ca_pem: str
    federation: str
    not_after: float
    control_address: str
    def __init__(self, certificate_pem: _Optional[str] = ..., ca_pem: _Optional[str] = ..., federation: _Optional[str] = ..., not_after: _Optional[float] = ..., control_address: _Optional[str] = ...) -> None: ...

class Client(_message.Message):
    __slots__ = ("client_id", "capacity_class", "registered_at", "last_seen_at", "is_online")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_CLASS_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_AT_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_AT_FIELD_NUMBER: _ClassVar[int]
    IS_ONLINE_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    capacity_class: str
    registered_at: float
    last_seen_at: float
    is_online: bool
    def __init__(self, client_id: _Optional[str] = ..., capacity_class: _Optional[str] = ..., registered_at: _Optional[float] = ..., last_seen_at: _Optional[float] = ..., is_online: bool = ...) -> None: ...

class ListClientsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListClientsResponse(_message.Message):
    __slots__ = ("clients", "next_page_token")
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    clients: _containers.RepeatedCompositeFieldContainer[Client]
    next_page_token: str
    def __init__(self, clients: _Optional[_Iterable[_Union[Client, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetClientRequest(_message.Message):
    __slots__ = ("client_id",)
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    def __init__(self, client_id: _Optional[str] = ...) -> None: ...

class RegisterClientRequest(_message.Message):
    __slots__ = ("client_id", "public_key_pem", "capacity_class")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_PEM_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_CLASS_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    public_key_pem: str
    capacity_class: str
    def __init__(self, client_id: _Optional[str] = ..., public_key_pem: _Optional[str] = ..., capacity_class: _Optional[str] = ...) -> None: ...

class Recipe(_message.Message):
    __slots__ = ("recipe_sha256", "name", "recipe_json")
    RECIPE_SHA256_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    RECIPE_JSON_FIELD_NUMBER: _ClassVar[int]
    recipe_sha256: str
    name: str
    recipe_json: str
    def __init__(self, recipe_sha256: _Optional[str] = ..., name: _Optional[str] = ..., recipe_json: _Optional[str] = ...) -> None: ...

class CheckRecipeRequest(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class GetRecipeRequest(_message.Message):
    __slots__ = ("recipe_sha256",)
    RECIPE_SHA256_FIELD_NUMBER: _ClassVar[int]
    recipe_sha256: str
    def __init__(self, recipe_sha256: _Optional[str] = ...) -> None: ...

class ListRecipesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListRecipesResponse(_message.Message):
    __slots__ = ("recipes", "next_page_token")
    RECIPES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    recipes: _containers.RepeatedCompositeFieldContainer[Recipe]
    next_page_token: str
    def __init__(self, recipes: _Optional[_Iterable[_Union[Recipe, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("run_id", "name", "state", "reason", "rounds_total", "rounds_closed", "adapter_sha256", "recipe_sha256", "created_at", "finished_at", "cancel_requested", "submitted_by", "priority", "approved_by", "waiting_for", "actions")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_CLOSED_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_SHA256_FIELD_NUMBER: _ClassVar[int]
    RECIPE_SHA256_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_BY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    APPROVED_BY_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    name: str
    state: str
    reason: str
    rounds_total: int
    rounds_closed: int
    adapter_sha256: str
    recipe_sha256: str
    created_at: float
    finished_at: float
    cancel_requested: bool
    submitted_by: str
    priority: int
    approved_by: _containers.RepeatedScalarFieldContainer[str]
    waiting_for: _containers.RepeatedScalarFieldContainer[str]
    actions: _containers.RepeatedCompositeFieldContainer[RunAction]
    def __init__(self, run_id: _Optional[str] = ..., name: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., rounds_total: _Optional[int] = ..., rounds_closed: _Optional[int] = ..., adapter_sha256: _Optional[str] = ..., recipe_sha256: _Optional[str] = ..., created_at: _Optional[float] = ..., finished_at: _Optional[float] = ..., cancel_requested: bool = ..., submitted_by: _Optional[str] = ..., priority: _Optional[int] = ..., approved_by: _Optional[_Iterable[str]] = ..., waiting_for: _Optional[_Iterable[str]] = ..., actions: _Optional[_Iterable[_Union[RunAction, _Mapping]]] = ...) -> None: ...

class RunAction(_message.Message):
    __slots__ = ("action", "made_by", "serial", "fingerprint", "at", "detail")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    MADE_BY_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    action: str
    made_by: str
    serial: str
    fingerprint: str
    at: float
    detail: str
    def __init__(self, action: _Optional[str] = ..., made_by: _Optional[str] = ..., serial: _Optional[str] = ..., fingerprint: _Optional[str] = ..., at: _Optional[float] = ..., detail: _Optional[str] = ...) -> None: ...

class SubmitRunRequest(_message.Message):
    __slots__ = ("recipe_text", "run_id", "priority", "hold")
    RECIPE_TEXT_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    recipe_text: str
    run_id: str
    priority: int
    hold: bool
    def __init__(self, recipe_text: _Optional[str] = ..., run_id: _Optional[str] = ..., priority: _Optional[int] = ..., hold: bool = ...) -> None: ...

class GetRunRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "state")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    state: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., state: _Optional[str] = ...) -> None: ...

class ListRunsResponse(_message.Message):
    __slots__ = ("runs", "next_page_token")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    next_page_token: str
    def __init__(self, runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ApproveRunRequest(_message.Message):
    __slots__ = ("run_id", "recipe_sha256")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RECIPE_SHA256_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    recipe_sha256: str
    def __init__(self, run_id: _Optional[str] = ..., recipe_sha256: _Optional[str] = ...) -> None: ...

class StartRunRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class CancelRunRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class ResumeRunRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class SetPriorityRequest(_message.Message):
    __slots__ = ("run_id", "priority")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    priority: int
    def __init__(self, run_id: _Optional[str] = ..., priority: _Optional[int] = ...) -> None: ...

class WatchRunRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class RunEvent(_message.Message):
    __slots__ = ("number", "at", "run", "round", "heartbeat")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    number: int
    at: float
    run: Run
    round: Round
    heartbeat: Heartbeat
    def __init__(self, number: _Optional[int] = ..., at: _Optional[float] = ..., run: _Optional[_Union[Run, _Mapping]] = ..., round: _Optional[_Union[Round, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Round(_message.Message):
    __slots__ = ("run_id", "round_index", "attempt", "state", "reason", "started_at", "closed_at", "deadline_at", "start_sha256", "adapter_sha256", "relative_error", "truncation_error", "contributions")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_INDEX_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    CLOSED_AT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_AT_FIELD_NUMBER: _ClassVar[int]
    START_SHA256_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_SHA256_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_ERROR_FIELD_NUMBER: _ClassVar[int]
    TRUNCATION_ERROR_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round_index: int
    attempt: int
    state: str
    reason: str
    started_at: float
    closed_at: float
    deadline_at: float
    start_sha256: str
    adapter_sha256: str
    relative_error: float
    truncation_error: float
    contributions: _containers.RepeatedCompositeFieldContainer[Contribution]
    def __init__(self, run_id: _Optional[str] = ..., round_index: _Optional[int] = ..., attempt: _Optional[int] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., started_at: _Optional[float] = ..., closed_at: _Optional[float] = ..., deadline_at: _Optional[float] = ..., start_sha256: _Optional[str] = ..., adapter_sha256: _Optional[str] = ..., relative_error: _Optional[float] = ..., truncation_error: _Optional[float] = ..., contributions: _Optional[_Iterable[_Union[Contribution, _Mapping]]] = ...) -> None: ...

class Contribution(_message.Message):
    __slots__ = ("client_id", "state", "lora_rank", "bytes_up", "bytes_down", "change_norm", "share", "outcome", "compression_error", "error_code", "error_message", "held_out_loss", "held_out_accuracy", "held_out_examples")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LORA_RANK_FIELD_NUMBER: _ClassVar[int]
    BYTES_UP_FIELD_NUMBER: _ClassVar[int]
    BYTES_DOWN_FIELD_NUMBER: _ClassVar[int]
    CHANGE_NORM_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_ERROR_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_LOSS_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    state: str
    lora_rank: int
    bytes_up: int
    bytes_down: int
    change_norm: float
    share: float
    outcome: str
    compression_error: float
    error_code: str
    error_message: str
    held_out_loss: float
    held_out_accuracy: float
    held_out_examples: int
    def __init__(self, client_id: _Optional[str] = ..., state: _Optional[str] = ..., lora_rank: _Optional[int] = ..., bytes_up: _Optional[int] = ..., bytes_down: _Optional[int] = ..., change_norm: _Optional[float] = ..., share: _Optional[float] = ..., outcome: _Optional[str] = ..., compression_error: _Optional[float] = ..., error_code: _Optional[str] = ..., error_message: _Optional[str] = ..., held_out_loss: _Optional[float] = ..., held_out_accuracy: _Optional[float] = ..., held_out_examples: _Optional[int] = ...) -> None: ...

class ListRoundsRequest(_message.Message):
    __slots__ = ("run_id", "page_size", "page_token")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    page_size: int
    page_token: str
    def __init__(self, run_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListRoundsResponse(_message.Message):
    __slots__ = ("rounds", "next_page_token")
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    rounds: _containers.RepeatedCompositeFieldContainer[Round]
    next_page_token: str
    def __init__(self, rounds: _Optional[_Iterable[_Union[Round, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetRoundRequest(_message.Message):
    __slots__ = ("run_id", "round_index", "attempt")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_INDEX_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round_index: int
    attempt: int
    def __init__(self, run_id: _Optional[str] = ..., round_index: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ("rounds_done", "client_id", "loss", "accuracy", "num_examples")
    ROUNDS_DONE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    NUM_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    rounds_done: int
    client_id: str
    loss: float
    accuracy: float
    num_examples: int
    def __init__(self, rounds_done: _Optional[int] = ..., client_id: _Optional[str] = ..., loss: _Optional[float] = ..., accuracy: _Optional[float] = ..., num_examples: _Optional[int] = ...) -> None: ...

class ListScoresRequest(_message.Message):
    __slots__ = ("run_id", "page_size", "page_token")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    page_size: int
    page_token: str
    def __init__(self, run_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListScoresResponse(_message.Message):
    __slots__ = ("scores", "next_page_token")
    SCORES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedCompositeFieldContainer[Score]
    next_page_token: str
    def __init__(self, scores: _Optional[_Iterable[_Union[Score, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Metric(_message.Message):
    __slots__ = ("round_index", "name", "value")
    ROUND_INDEX_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    round_index: int
    name: str
    value: float
    def __init__(self, round_index: _Optional[int] = ..., name: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class ListMetricsRequest(_message.Message):
    __slots__ = ("run_id", "name", "page_size", "page_token")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    name: str
    page_size: int
    page_token: str
    def __init__(self, run_id: _Optional[str] = ..., name: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListMetricsResponse(_message.Message):
    __slots__ = ("metrics", "next_page_token")
    METRICS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    metrics: _containers.RepeatedCompositeFieldContainer[Metric]
    next_page_token: str
    def __init__(self, metrics: _Optional[_Iterable[_Union[Metric, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Artifact(_message.Message):
    __slots__ = ("sha256", "kind", "num_bytes", "created_at")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    kind: str
    num_bytes: int
    created_at: float
    def __init__(self, sha256: _Optional[str] = ..., kind: _Optional[str] = ..., num_bytes: _Optional[int] = ..., created_at: _Optional[float] = ...) -> None: ...

class ListArtifactsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListArtifactsResponse(_message.Message):
    __slots__ = ("artifacts", "next_page_token")
    ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    artifacts: _containers.RepeatedCompositeFieldContainer[Artifact]
    next_page_token: str
    def __init__(self, artifacts: _Optional[_Iterable[_Union[Artifact, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DownloadArtifactRequest(_message.Message):
    __slots__ = ("sha256", "offset")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    offset: int
    def __init__(self, sha256: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class ArtifactChunk(_message.Message):
    __slots__ = ("offset", "data", "num_bytes")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    num_bytes: int
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ..., num_bytes: _Optional[int] = ...) -> None: ...

class CollectGarbageRequest(_message.Message):
    __slots__ = ("dry_run", "keep_updates", "keep_adapters", "grace_s")
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    KEEP_UPDATES_FIELD_NUMBER: _ClassVar[int]
    KEEP_ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    GRACE_S_FIELD_NUMBER: _ClassVar[int]
    dry_run: bool
    keep_updates: int
    keep_adapters: int
    grace_s: float
    def __init__(self, dry_run: bool = ..., keep_updates: _Optional[int] = ..., keep_adapters: _Optional[int] = ..., grace_s: _Optional[float] = ...) -> None: ...

class CollectGarbageResponse(_message.Message):
    __slots__ = ("files", "num_bytes", "kept", "reasons", "missing")
    FILES_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    files: int
    num_bytes: int
    kept: int
    reasons: _containers.RepeatedCompositeFieldContainer[GarbageReason]
    missing: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, files: _Optional[int] = ..., num_bytes: _Optional[int] = ..., kept: _Optional[int] = ..., reasons: _Optional[_Iterable[_Union[GarbageReason, _Mapping]]] = ..., missing: _Optional[_Iterable[str]] = ...) -> None: ...

class GarbageReason(_message.Message):
    __slots__ = ("reason", "files")
    REASON_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    reason: str
    files: int
    def __init__(self, reason: _Optional[str] = ..., files: _Optional[int] = ...) -> None: ...

class TakeReceiptsRequest(_message.Message):
    __slots__ = ("document",)
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    document: bytes
    def __init__(self, document: _Optional[bytes] = ...) -> None: ...

class TakeReceiptsResponse(_message.Message):
    __slots__ = ("client_id", "charges", "added")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    CHARGES_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    charges: int
    added: int
    def __init__(self, client_id: _Optional[str] = ..., charges: _Optional[int] = ..., added: _Optional[int] = ...) -> None: ...

class Budget(_message.Message):
    __slots__ = ("client_id", "unit", "target_delta", "spent", "reserved", "total", "limit", "remaining", "charges", "open_charges", "runs", "witnessed_charges", "data_sets")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    TARGET_DELTA_FIELD_NUMBER: _ClassVar[int]
    SPENT_FIELD_NUMBER: _ClassVar[int]
    RESERVED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    CHARGES_FIELD_NUMBER: _ClassVar[int]
    OPEN_CHARGES_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    WITNESSED_CHARGES_FIELD_NUMBER: _ClassVar[int]
    DATA_SETS_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    unit: str
    target_delta: float
    spent: float
    reserved: float
    total: float
    limit: float
    remaining: float
    charges: int
    open_charges: int
    runs: _containers.RepeatedCompositeFieldContainer[RunBudget]
    witnessed_charges: int
    data_sets: _containers.RepeatedCompositeFieldContainer[DataSetBudget]
    def __init__(self, client_id: _Optional[str] = ..., unit: _Optional[str] = ..., target_delta: _Optional[float] = ..., spent: _Optional[float] = ..., reserved: _Optional[float] = ..., total: _Optional[float] = ..., limit: _Optional[float] = ..., remaining: _Optional[float] = ..., charges: _Optional[int] = ..., open_charges: _Optional[int] = ..., runs: _Optional[_Iterable[_Union[RunBudget, _Mapping]]] = ..., witnessed_charges: _Optional[int] = ..., data_sets: _Optional[_Iterable[_Union[DataSetBudget, _Mapping]]] = ...) -> None: ...

class DataSetBudget(_message.Message):
    __slots__ = ("data_set", "epsilon", "charges", "told_at")
    DATA_SET_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    CHARGES_FIELD_NUMBER: _ClassVar[int]
    TOLD_AT_FIELD_NUMBER: _ClassVar[int]
    data_set: str
    epsilon: float
    charges: int
    told_at: float
    def __init__(self, data_set: _Optional[str] = ..., epsilon: _Optional[float] = ..., charges: _Optional[int] = ..., told_at: _Optional[float] = ...) -> None: ...

class RunBudget(_message.Message):
    __slots__ = ("run_id", "epsilon", "charges")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    CHARGES_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    epsilon: float
    charges: int
    def __init__(self, run_id: _Optional[str] = ..., epsilon: _Optional[float] = ..., charges: _Optional[int] = ...) -> None: ...

class ListBudgetsRequest(_message.Message):
    __slots__ = ("client_id", "page_size", "page_token")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    page_size: int
    page_token: str
    def __init__(self, client_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListBudgetsResponse(_message.Message):
    __slots__ = ("budgets", "next_page_token")
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    budgets: _containers.RepeatedCompositeFieldContainer[Budget]
    next_page_token: str
    def __init__(self, budgets: _Optional[_Iterable[_Union[Budget, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetCheckpointRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ("origin", "size", "root", "signed_note", "public_key")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    SIGNED_NOTE_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    origin: str
    size: int
    root: bytes
    signed_note: str
    public_key: str
    def __init__(self, origin: _Optional[str] = ..., size: _Optional[int] = ..., root: _Optional[bytes] = ..., signed_note: _Optional[str] = ..., public_key: _Optional[str] = ...) -> None: ...

class GetInclusionProofRequest(_message.Message):
    __slots__ = ("sequence", "size")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    size: int
    def __init__(self, sequence: _Optional[int] = ..., size: _Optional[int] = ...) -> None: ...

class InclusionProof(_message.Message):
    __slots__ = ("sequence", "size", "leaf", "hashes", "root", "leaf_hash")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    LEAF_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    LEAF_HASH_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    size: int
    leaf: bytes
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    root: bytes
    leaf_hash: bytes
    def __init__(self, sequence: _Optional[int] = ..., size: _Optional[int] = ..., leaf: _Optional[bytes] = ..., hashes: _Optional[_Iterable[bytes]] = ..., root: _Optional[bytes] = ..., leaf_hash: _Optional[bytes] = ...) -> None: ...

class GetConsistencyProofRequest(_message.Message):
    __slots__ = ("old_size", "size")
    OLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    old_size: int
    size: int
    def __init__(self, old_size: _Optional[int] = ..., size: _Optional[int] = ...) -> None: ...

class ConsistencyProof(_message.Message):
    __slots__ = ("old_size", "size", "old_root", "root", "hashes")
    OLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    OLD_ROOT_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    old_size: int
    size: int
    old_root: bytes
    root: bytes
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, old_size: _Optional[int] = ..., size: _Optional[int] = ..., old_root: _Optional[bytes] = ..., root: _Optional[bytes] = ..., hashes: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ListEntriesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class LedgerEntry(_message.Message):
    __slots__ = ("sequence", "leaf")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LEAF_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    leaf: bytes
    def __init__(self, sequence: _Optional[int] = ..., leaf: _Optional[bytes] = ...) -> None: ...

class ListEntriesResponse(_message.Message):
    __slots__ = ("entries", "next_page_token")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[LedgerEntry]
    next_page_token: str
    def __init__(self, entries: _Optional[_Iterable[_Union[LedgerEntry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ExportAuditRequest(_message.Message):
    __slots__ = ("run_id", "countersignatures")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    COUNTERSIGNATURES_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    countersignatures: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, run_id: _Optional[str] = ..., countersignatures: _Optional[_Iterable[bytes]] = ...) -> None: ...

class AuditChunk(_message.Message):
    __slots__ = ("data", "checkpoint")
    DATA_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    checkpoint: Checkpoint
    def __init__(self, data: _Optional[bytes] = ..., checkpoint: _Optional[_Union[Checkpoint, _Mapping]] = ...) -> None: ...

class GetInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Info(_message.Message):
    __slots__ = ("software_version", "federation", "role", "name", "at", "refused_calls")
    class RefusedCallsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_CALLS_FIELD_NUMBER: _ClassVar[int]
    software_version: str
    federation: str
    role: str
    name: str
    at: float
    refused_calls: _containers.ScalarMap[str, int]
    def __init__(self, software_version: _Optional[str] = ..., federation: _Optional[str] = ..., role: _Optional[str] = ..., name: _Optional[str] = ..., at: _Optional[float] = ..., refused_calls: _Optional[_Mapping[str, int]] = ...) -> None: ...

class IssueDashboardLinkRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DashboardLink(_message.Message):
    __slots__ = ("url", "not_after")
    URL_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    url: str
    not_after: float
    def __init__(self, url: _Optional[str] = ..., not_after: _Optional[float] = ...) -> None: ...

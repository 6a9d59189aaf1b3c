from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class TrainOrder(_message.Message):
    __slots__ = ("run_id", "round_index", "attempt", "client_id", "recipe_json", "recipe_sha256", "lora_rank", "reservation_id", "payload", "payload_sha256", "counted_round", "asks_rank", "asks_leave", "ledger_json", "asks_score")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_INDEX_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    RECIPE_JSON_FIELD_NUMBER: _ClassVar[int]
    RECIPE_SHA256_FIELD_NUMBER: _ClassVar[int]
    LORA_RANK_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_SHA256_FIELD_NUMBER: _ClassVar[int]
    COUNTED_ROUND_FIELD_NUMBER: _ClassVar[int]
    ASKS_RANK_FIELD_NUMBER: _ClassVar[int]
    ASKS_LEAVE_FIELD_NUMBER: _ClassVar[int]
    LEDGER_JSON_FIELD_NUMBER: _ClassVar[int]
    ASKS_SCORE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round_index: int
    attempt: int
    client_id: str
    recipe_json: str
    recipe_sha256: str
    lora_rank: int
    reservation_id: str
    payload: bytes
    payload_sha256: str
    counted_round: int
    asks_rank: bool
    asks_leave: bool
    ledger_json: str
    asks_score: bool
    def __init__(self, run_id: _Optional[str] = ..., round_index: _Optional[int] = ..., attempt: _Optional[int] = ..., client_id: _Optional[str] = ..., recipe_json: _Optional[str] = ..., recipe_sha256: _Optional[str] = ..., lora_rank: _Optional[int] = ..., reservation_id: _Optional[str] = ..., payload: _Optional[bytes] = ..., payload_sha256: _Optional[str] = ..., counted_round: _Optional[int] = ..., asks_rank: bool = ..., asks_leave: bool = ..., ledger_json: _Optional[str] = ..., asks_score: bool = ...) -> None: ...

class TrainReply(_message.Message):
    __slots__ = ("run_id", "round_index", "attempt", "client_id", "payload", "payload_sha256", "aggregation_weight", "num_steps", "num_examples", "is_private", "error_code", "error_message", "offered_lora_rank", "compression_error", "leave_json", "withholds_metrics", "held_out_examples", "held_out_loss", "held_out_accuracy")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_INDEX_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_SHA256_FIELD_NUMBER: _ClassVar[int]
    AGGREGATION_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    NUM_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    IS_PRIVATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    OFFERED_LORA_RANK_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_ERROR_FIELD_NUMBER: _ClassVar[int]
    LEAVE_JSON_FIELD_NUMBER: _ClassVar[int]
    WITHHOLDS_METRICS_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_LOSS_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round_index: int
    attempt: int
    client_id: str
    payload: bytes
    payload_sha256: str
    aggregation_weight: float
    num_steps: int
    num_examples: int
    is_private: bool
    error_code: str
    error_message: str
    offered_lora_rank: int
    compression_error: float
    leave_json: str
    withholds_metrics: bool
    held_out_examples: int
    held_out_loss: float
    held_out_accuracy: float
    def __init__(self, run_id: _Optional[str] = ..., round_index: _Optional[int] = ..., attempt: _Optional[int] = ..., client_id: _Optional[str] = ..., payload: _Optional[bytes] = ..., payload_sha256: _Optional[str] = ..., aggregation_weight: _Optional[float] = ..., num_steps: _Optional[int] = ..., num_examples: _Optional[int] = ..., is_private: bool = ..., error_code: _Optional[str] = ..., error_message: _Optional[str] = ..., offered_lora_rank: _Optional[int] = ..., compression_error: _Optional[float] = ..., leave_json: _Optional[str] = ..., withholds_metrics: bool = ..., held_out_examples: _Optional[int] = ..., held_out_loss: _Optional[float] = ..., held_out_accuracy: _Optional[float] = ...) -> None: ...

class SignedReply(_message.Message):
    __slots__ = ("reply", "signature")
    REPLY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    reply: bytes
    signature: bytes
    def __init__(self, reply: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

"""The contract, the tables and the code say the same."""

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from coordinator.authority.renewal import ROLE
from coordinator.rpc.enrolment import EnrolmentServicer
from coordinator.rpc.roles import ALLOWED, ANYONE, ROLES, may_call
from coordinator.rpc.server import SERVICERS, called_methods
from motet.connection.errors import RecipeRefusedError
from motet.connection.faults import FAULTS, raised, told
from motet.recipe import canonical_json, load_recipe, parse_recipe, recipe_sha256
from motet.wire import control
from motet.wire.control_codec import decode, encode, message_of
from motet.wire.v1 import control_pb2

ROOT = Path(__file__).resolve().parents[4]


def test_every_call_of_the_contract_has_an_entry_in_the_table_of_roles():
    assert set(called_methods()) <= set(ALLOWED)
    ours = {m for m in ALLOWED if m.startswith("/motet.")}
    assert ours == set(called_methods())
    assert all(ALLOWED[m] <= {*ROLES, ANYONE} and ALLOWED[m] for m in ALLOWED)
    open_ones = {f"/motet.v1.EnrolmentService/{name}" for name in ("Enrol", "RenewSigned")}
    assert {m for m in ALLOWED if ANYONE in ALLOWED[m]} == open_ones
    assert not may_call("operator", "/motet.v1.RunService/NoSuchCall")


def test_nobody_but_a_client_makes_its_own_certificate_last_longer():
    renewals = [m for m in ALLOWED if "Renew" in m.rpartition("/")[2]]
    assert {role for m in renewals for role in ROLES if role in ALLOWED[m]} == {"client"}
    assert ROLE == "client"  # of RenewSigned, which anybody may call


def test_every_call_of_the_contract_is_served():
    for service in control_pb2.DESCRIPTOR.services_by_name.values():
        served = SERVICERS.get(service.name, EnrolmentServicer)  # that one has an authority of its own
        assert all(method.name in vars(served) for method in service.methods), service.name


def test_every_list_has_pages():
    for service in control_pb2.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            if method.name.startswith("List"):
                assert {"page_size", "page_token"} <= set(method.input_type.fields_by_name)
                assert "next_page_token" in method.output_type.fields_by_name


RECORDS = [
    kind for kind in vars(control).values() if isinstance(kind, type) and kind.__module__ == control.__name__
]


@pytest.mark.parametrize("kind", RECORDS, ids=lambda k: k.__name__)
def test_a_record_has_the_fields_of_its_message(kind):
    there = {f.name for f in message_of(kind).DESCRIPTOR.fields}
    assert {f.name for f in fields(kind)} == there - ({"refused_calls"} if kind is control.Info else set())


@pytest.mark.parametrize("kind", RECORDS, ids=lambda k: k.__name__)
def test_a_record_survives_the_wire(kind):
    full = decode(_filled(message_of(kind)()), kind)
    empty = decode(message_of(kind)(), kind)
    for record in (full, empty):
        data = encode(record).SerializeToString()
        assert decode(message_of(kind).FromString(data), kind) == record
    assert not fields(kind) or full != empty


def _filled(message):
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        repeated = field.is_repeated
        if field.message_type is not None:
            inner = _filled(getattr(message, field.name).add() if repeated else getattr(message, field.name))
            if not repeated:
                inner.SetInParent()
            continue
        text = field.type == FieldDescriptor.TYPE_STRING
        value = "x" if text else b"y" if field.type == FieldDescriptor.TYPE_BYTES else 1
        if repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
    return message


def test_every_error_of_the_table_comes_back_as_itself_with_its_exit_code():
    for fault in FAULTS:
        error = (
            fault.error("words", hint="do this")
            if fault.kind != "RecipeError"
            else RecipeRefusedError("words")
        )
        row, message, hint = told(error)
        assert row.kind == fault.kind
        again = raised(row.kind, row.status, message, hint)
        assert isinstance(again, fault.raised or fault.error)
        assert again.exit_code == fault.exit_code
        assert (message == "words") is fault.is_told


def test_the_tables_of_the_documentation_are_those_of_the_code():
    done = subprocess.run(
        [sys.executable, "scripts/gen_api_reference.py", "--check"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_importing_motet_loads_neither_torch_nor_grpc():
    code = "import sys, motet; assert not {'torch', 'grpc', 'sqlalchemy'} & set(sys.modules); assert motet.__all__"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


LOADED = """
import coordinator.control  # with everything that is served
from motet.connection.faults import fault_of
from motet.errors import MotetError

def below(kind):
    for inner in kind.__subclasses__():
        yield inner
        yield from below(inner)

found = {k for k in below(MotetError) if fault_of(k.__new__(k)).kind == "ServerFaultError"}
print(*sorted(k.__name__ for k in found if not k.__module__.startswith("coordinator.engine")))
"""


def test_every_error_that_a_servicer_can_raise_has_a_row():
    """In a process of its own: what other tests have loaded is not served."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    # of the start of a coordinator, of files that commands write, and of bundles that auditors read
    assert set(done.stdout.split()) <= {
        *("ControlServerError", "CertificateError", "ServerFaultError"),
        *("InputAsOutputError", "BundleError"),
    }


@pytest.mark.parametrize("path", sorted((ROOT / "examples/recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_recipe_is_the_same_after_its_way_to_the_server(path):
    recipe = load_recipe(path, combinations=False)
    text = canonical_json(recipe)  # what motet.connect sends, and the server reads as any recipe's text
    assert recipe_sha256(parse_recipe(text, combinations=False)) == recipe_sha256(recipe)


def test_a_command_that_asks_a_home_loads_neither_torch_nor_flower_nor_an_accountant():
    code = (
        "import sys, coordinator.rpc.local, motet.cli.run\n"
        "print(*sorted({'torch', 'flwr', 'dp_accounting', 'scipy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr

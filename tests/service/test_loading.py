"""A target on the command line names a service, or the error says what is missing, and where."""

from __future__ import annotations

import sys

import pytest

from amqp_rpc import Service
from amqp_rpc.errors import ConfigurationError
from amqp_rpc.service.loading import ImportFailed, NoSuchModule, NoSuchService, load


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The current folder; modules that a test writes there are forgotten after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


ONE = "from amqp_rpc import Service\nservice = Service()\n"


def test_a_module_of_the_current_folder_is_found(here):
    (here / "single.py").write_text(ONE)
    assert [service.name for service in load("single")] == [None]


def test_a_module_in_a_package_is_found(here):
    (here / "things").mkdir()
    (here / "things" / "one.py").write_text(ONE)
    assert [type(service) for service in load("things.one")] == [Service]


def test_an_attribute_behind_a_colon_is_the_service(here):
    (here / "several.py").write_text("from amqp_rpc import Service\na = Service('a')\nb = Service('b')\n")
    assert load("several:b")[0].name == "b"


def test_the_only_service_of_a_module_may_have_any_name(here):
    (here / "only.py").write_text("from amqp_rpc import Service\nbilling = also = Service('billing')\n")
    assert load("only")[0].name == "billing"


def test_the_one_named_service_is_taken_among_several(here):
    (here / "named.py").write_text("from amqp_rpc import Service\na = Service('a')\nservice = Service('b')\n")
    assert load("named")[0].name == "b"


def test_several_services_without_a_choice_are_listed(here):
    (here / "several.py").write_text("from amqp_rpc import Service\na = Service('a')\nb = Service('b')\n")
    with pytest.raises(
        NoSuchService, match=r"module 'several' has several services \(it has: a, b\); name one: module:name$"
    ):
        load("several")


def test_a_module_without_a_service_says_what_to_write(here):
    (here / "empty.py").write_text("x = 1\n")
    with pytest.raises(NoSuchService, match=r"module 'empty' has no service; write `service = Service\(\)` in it"):
        load("empty")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("single:nothing", r"single:nothing is no service: there is no such name in it \(it has: service\)"),
        ("single:x", "single:x is no service: that is int, not a Service"),
        ("single:", "is no service"),
    ],
)
def test_an_attribute_that_is_no_service_says_what_it_is(here, target, reason):
    (here / "single.py").write_text(ONE + "x = 1\n")
    with pytest.raises(NoSuchService, match=reason):
        load(target)


def test_a_missing_module_says_where_it_was_looked_for(here):
    with pytest.raises(NoSuchModule, match=f"there is no module 'nowhere' in {here}, nor where Python looks"):
        load("nowhere")


def test_a_missing_module_in_a_package_names_the_part(here):
    (here / "things").mkdir()
    with pytest.raises(NoSuchModule, match=r"there is no module 'things\.none'"):
        load("things.none")
    with pytest.raises(NoSuchModule, match=": 'other' is missing"):
        load("other.none")


@pytest.mark.parametrize("path", ["services/fib.py", "./services/fib.py", "services/fib"])
def test_a_path_is_answered_with_the_name_to_write(path):
    with pytest.raises(NoSuchModule, match=r"write it as Python imports it: services.fib$"):
        load(path)


@pytest.mark.parametrize("target", ["", ":", ":service", "a..b", "1st", "../up"])
def test_what_can_name_no_module_is_refused(target):
    with pytest.raises(NoSuchModule):
        load(target)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import nowhere_at_all\n", r"ModuleNotFoundError: No module named 'nowhere_at_all' \(.*broken.py:1\)"),
        ("x = 1\nraise ValueError('no key')\n", r"ValueError: no key \(.*broken.py:2\)"),
        ("x = (\n", r"SyntaxError: '\(' was never closed \(.*broken.py:1\)"),
        ("import sys\nsys.exit(3)\n", r"SystemExit: 3 \(.*broken.py:2\)"),
    ],
)
def test_an_error_inside_the_module_is_told_apart_with_its_line(here, source, reason):
    (here / "broken.py").write_text(source)
    with pytest.raises(ImportFailed, match=f"module 'broken' fails to import: {reason}"):
        load("broken")


def test_a_wrong_service_keeps_its_own_message(here):
    (here / "wrong.py").write_text(ONE + "@service.rpc\ndef f(timeout: int) -> int:\n    return 1\n")
    with pytest.raises(ConfigurationError, match=r"wrong.py:\d: f\(\) has a parameter named 'timeout'") as caught:
        load("wrong")
    assert type(caught.value) is ConfigurationError

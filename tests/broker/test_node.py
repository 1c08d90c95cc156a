"""A private node: it keeps to itself, keeps its data, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from amqp_rpc.broker import processes
from amqp_rpc.broker.errors import ControlFailed, NotAvailable, StartFailed
from amqp_rpc.broker.node import Node
from amqp_rpc.broker.ports import greet


def left_of(node: Node) -> dict[int, str]:
    return processes.started_with(f"RABBITMQ_NODENAME={node.name}")


def test_a_node_stops_starts_again_with_its_data_and_parameters_and_leaves_nothing(new_node):
    asked = "application:get_env(rabbit, dead_letter_worker_publisher_confirm_timeout)."
    node = new_node(parameters={"rabbit": {"dead_letter_worker_publisher_confirm_timeout": "5000"}})
    assert node.version == greet(node.port)
    node.ctl("add_vhost", "kept")
    assert node.ctl("eval", asked).strip() == "{ok,5000}"

    node.stop()
    assert node.pid == 0
    assert greet(node.port) is None
    assert set(left_of(node).values()) <= {"epmd"}

    node.start()
    assert "kept" in node.ctl("list_vhosts").split()
    assert node.ctl("eval", asked).strip() == "{ok,5000}"

    node.kill()
    assert node.pid == 0
    node.start()
    assert "kept" in node.ctl("list_vhosts").split()

    node.close()
    assert left_of(node) == {}
    assert not node.folder.exists()


def test_two_nodes_with_one_port_mapper_form_a_cluster_and_one_may_be_closed(new_node):
    one = new_node()
    two = new_node(port_mapper=one.port_mapper, cookie=one.cookie)
    two.ctl("stop_app")
    two.ctl("join_cluster", one.name)
    two.ctl("start_app")
    assert one.name in two.ctl("cluster_status")

    one.close()  # it started the port mapper, which the other one still uses
    assert two.name in two.ctl("eval", "node().")
    two.close()
    assert processes.started_with(f"ERL_EPMD_PORT={one.port_mapper}") == {}


def test_a_node_listens_on_loopback_only(node):
    listening = _listeners(node.pid)
    assert node.port in {port for _, port in listening}
    assert {address for address, _ in listening} == {"127.0.0.1"}


def test_a_failed_rabbitmqctl_says_why(node):
    with pytest.raises(ControlFailed, match=r"delete_vhost nowhere failed: .*nowhere"):
        node.ctl("delete_vhost", "nowhere")


def test_a_node_whose_settings_are_wrong_says_so_and_leaves_nothing(new_node):
    node = new_node(start=False, settings=["no.such.setting = 1"])
    with pytest.raises(StartFailed, match=r"no\.such\.setting.*log: "):
        node.start(timeout=60)
    assert set(left_of(node).values()) <= {"epmd"}
    node.close()
    assert left_of(node) == {}


def test_a_node_that_is_not_ready_in_time_is_ended(new_node):
    node = new_node(start=False)
    with pytest.raises(StartFailed, match="not ready in time"):
        node.start(timeout=0.5)
    assert set(left_of(node).values()) <= {"epmd"}


def test_a_command_that_cannot_be_run_is_a_failed_start(tmp_path: Path):
    node = Node(folder=tmp_path / "node", command=("/no/such/program",))
    with pytest.raises(StartFailed, match="/no/such/program could not be run"):
        node.start()
    node.close()
    assert not node.folder.exists()


def test_a_program_that_ends_at_once_is_a_failed_start_with_its_last_words(tmp_path: Path):
    node = Node(folder=tmp_path / "node", command=("sh", "-c", "echo it is broken; exit 3"))
    with pytest.raises(StartFailed, match=r"ended while it started: its last words: it is broken \(log: "):
        node.start()


def test_an_interrupted_start_leaves_no_process(tmp_path: Path):
    node = Node(folder=tmp_path / "node", command=("sh", "-c", "sleep 600 & sleep 600"))

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            node.start()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert left_of(node) == {}


def test_without_rabbitmq_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("amqp_rpc.broker.node.find_program", lambda _name: None)
    with pytest.raises(NotAvailable, match=r"rabbitmq-server is not on this machine; .*apt-get install"):
        Node(folder=tmp_path / "node").start()


def test_settings_of_the_shell_do_not_reach_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RABBITMQ_MNESIA_DIR", "/var/lib/rabbitmq/mnesia/rabbit")
    monkeypatch.setenv("ERL_FLAGS", "-sname rabbit")
    node = Node(folder=tmp_path / "node")
    assert not {"RABBITMQ_MNESIA_DIR", "ERL_FLAGS"} & node._environment().keys()


def test_a_program_before_rabbitmq_keeps_its_own_home(tmp_path: Path):
    node = Node(folder=tmp_path / "node", command=("env",))
    assert node._environment()["HOME"] == os.environ["HOME"]


def _listeners(pid: int) -> set[tuple[str, int]]:
    """The addresses on which a process listens, from /proc."""
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(entry.readlink().name)
        except OSError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in links:
                address, port = fields[1].split(":")
                octets = [str(byte) for byte in reversed(bytes.fromhex(address))]
                found.add((".".join(octets), int(port, 16)))
    return found

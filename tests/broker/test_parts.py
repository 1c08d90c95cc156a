"""The parts of the throwaway broker that need no RabbitMQ."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amqp_rpc.broker import docker, node, processes, programs, record
from amqp_rpc.broker.errors import CleanupRefused, ControlFailed, InstallFailed, NotAvailable, StartFailed
from amqp_rpc.broker.ports import PRIVATE_PORTS, free_port, greet, is_free
from tests.waiting import until

START = b"\x00\x0a\x00\x0a\x00\x09\x00\x00\x00\x10\x07versionS\x00\x00\x00\x053.9.1"


def frame(payload: bytes) -> bytes:
    return b"\x01\x00\x00" + len(payload).to_bytes(4, "big") + payload + b"\xce"


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[int]:
    """A server that sends ``request.param`` once it receives something, then closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(8)
                connection.sendall(request.param)

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


@pytest.mark.parametrize("answering", [frame(START)], indirect=True)
def test_a_broker_reports_its_version(answering: int):
    assert greet(answering) == "3.9.1"


@pytest.mark.parametrize("answering", [frame(b"\x00\x0a\x00\x0a")], indirect=True)
def test_a_broker_that_reports_no_version_is_a_broker(answering: int):
    assert greet(answering) == ""


@pytest.mark.parametrize(
    "answering", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"AMQP\x00\x00\x09\x01", b""], indirect=True
)
def test_a_server_that_does_not_speak_amqp_is_no_broker(answering: int):
    assert greet(answering) is None


def test_a_silent_server_is_abandoned_in_time():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert greet(listener.getsockname()[1], timeout=0.05) is None


def test_free_ports_are_free_and_outside_the_range_of_outgoing_connections():
    port = free_port()
    assert port in PRIVATE_PORTS
    assert is_free(port)
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port)


def test_a_process_is_found_by_its_environment_and_killed(tmp_path: Path):
    setting = f"AMQP_RPC_TEST_MARK={tmp_path}/x"
    name, _, value = setting.partition("=")
    with subprocess.Popen(["sleep", "300"], env=os.environ | {name: value}) as started:
        until(lambda: processes.started_with(setting) == {started.pid: "sleep"}, timeout=5)
        assert processes.started_with(f"{name}={tmp_path}/") == {started.pid: "sleep"}
        assert processes.started_with(f"{name}={tmp_path}") == {}
        assert processes.started_with(setting, without="sleep") == {}
        assert processes.end(setting)
        assert started.wait() == -9


def test_a_record_is_read_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    entry = record.Record(way="private node", port=5672, version="3.10.8", name="n", folder="/tmp/n", pid=1)
    with record.locked():
        record.write(entry)
    assert record.read() == entry
    record.forget()
    assert record.read() is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"way": "spell", "port": 1}',
        '{"port": 1}',
        '{"way": "private node", "port": 1}',
        '{"way": "private node", "port": 1, "folder": "relative"}',
        '{"way": "private node", "port": 1, "folder": "/", "extra": 1}',
    ],
)
def test_a_damaged_record_is_no_record(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with record.locked():
        (record.state_folder() / "broker.json").write_text(text)
    assert record.read() is None


def test_a_nodes_folder_is_removed_with_all_that_was_made_in_it(tmp_path: Path):
    folder = tmp_path / "node"
    node.lay_out(folder, shared=False)
    (folder / "data" / "queue").write_text("x")
    node.remove_folder(folder)
    assert not folder.exists()


def test_nothing_else_in_a_folder_is_removed(tmp_path: Path):
    folder = tmp_path / "node"
    node.lay_out(folder, shared=False)
    (folder / "mine").write_text("x")
    node.remove_folder(folder)
    assert [path.name for path in folder.iterdir()] == ["mine"]


def test_a_folder_of_another_program_is_neither_used_nor_emptied(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis").write_text("x")
    with pytest.raises(StartFailed, match="files in it that are not a node's"):
        node.lay_out(tmp_path, shared=False)
    node.remove_folder(tmp_path)
    assert (tmp_path / "data" / "thesis").exists()


def test_nothing_is_removed_through_a_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "a node"
    node.lay_out(folder, shared=False)
    point = str(folder / "home" / "dev").replace(" ", "\\040")
    table = tmp_path / "mountinfo"
    table.write_text(f"22 1 0:5 / / rw - ext4 /dev/vda rw\n29 22 0:6 / {point} rw - devtmpfs devtmpfs rw\n")
    assert node.mounted_below(folder, table) == [folder / "home" / "dev"]
    assert node.mounted_below(tmp_path / "a nod", table) == []
    monkeypatch.setattr(node, "mounted_below", lambda folder: [folder / "home" / "dev"])
    with pytest.raises(CleanupRefused, match="home/dev is mounted in it"):
        node.remove_folder(folder)
    assert (folder / "home").is_dir()


def test_the_first_error_in_the_log_is_the_reason(tmp_path: Path):
    (tmp_path / "node.log").write_text(
        "2026-01-01 10:00:00.1+00:00 [info] <0.1.0> all well\n"
        "2026-01-01 10:00:00.2+00:00 [error] <0.1.0> \n"
        "2026-01-01 10:00:00.2+00:00 [error] <0.1.0> port in use\n"
        "2026-01-01 10:00:00.3+00:00 [error] <0.1.0> and so on\n"
    )
    assert node.reason(tmp_path) == f"port in use (log: {tmp_path}/node.log)"


def test_a_missing_log_has_no_reason(tmp_path: Path):
    assert node.reason(tmp_path) == f"it logged nothing (log: {tmp_path})"


def test_services_stay_off_while_installing_and_the_policy_is_removed(tmp_path: Path):
    policy = tmp_path / "policy-rc.d"
    with programs._services_stay_off([], policy):
        assert subprocess.run([policy], check=False).returncode == 101
    assert not policy.exists()
    with pytest.raises(NotAvailable), programs._services_stay_off([], policy):
        raise NotAvailable
    assert not policy.exists()


def test_an_existing_policy_is_not_touched(tmp_path: Path):
    policy = tmp_path / "policy-rc.d"
    policy.write_text("mine")
    with programs._services_stay_off([], policy):
        pass
    assert policy.read_text() == "mine"


def test_a_policy_that_cannot_be_written_is_an_error_of_its_own(tmp_path: Path):
    with pytest.raises(InstallFailed, match="could not write"), programs._services_stay_off([], tmp_path / "no" / "x"):
        pass


def test_install_needs_apt_and_the_right_to_run_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.which", lambda _name, **_options: None)
    with pytest.raises(NotAvailable, match="needs apt-get"):
        programs.install()
    monkeypatch.setattr("shutil.which", lambda name, **_options: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(NotAvailable, match="needs root or sudo"):
        programs.install()


def test_a_failed_apt_get_says_why_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    apt = tmp_path / "apt-get"
    apt.write_text("#!/bin/sh\necho noise >&2; echo 'E: Unable to locate package' >&2; exit 100\n")
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(InstallFailed, match=r"^apt-get install failed: E: Unable to locate package$"):
        programs._apt([], ["install", "x"], timeout=10)


def test_a_program_of_the_user_goes_before_a_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mine = tmp_path / "rabbitmq-server"
    mine.write_text("")
    mine.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert programs.find_program("rabbitmq-server") == str(mine)
    assert programs.find_program("no-such-program") is None


def test_docker_without_an_engine_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not docker.engine_answers()
    fake = tmp_path / "docker"
    for script, answers in (("echo; exit 0", False), ("exit 1", False), ("echo 28.0", True), ("exec sleep 60", False)):
        fake.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
        fake.chmod(0o755)
        assert docker.engine_answers(timeout=0.5) is answers, script


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a program on an otherwise empty PATH; ``said`` then lists how it was called."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def make(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\necho $0 $* >>{tmp_path}/said\n{script}\n")
        (tmp_path / name).chmod(0o755)

    return make


def test_without_compose_nothing_is_pulled_and_there_is_nothing_to_remove(fake: Callable[..., None], tmp_path: Path):
    fake("docker", 'echo "unknown command: docker compose" >&2; exit 1')
    project = docker.Project(name="p", port=1)
    with pytest.raises(NotAvailable, match=r"^Docker answers, but its compose plugin is not installed$"):
        project.up(timeout=5)
    assert not project.runs()
    project.down()
    assert "pull" not in (tmp_path / "said").read_text()


def test_the_older_program_docker_compose_is_used(fake: Callable[..., None], tmp_path: Path):
    fake("docker", 'test "$1" = image')
    fake("docker-compose", "echo 1f2e3d")
    project = docker.Project(name="p", port=1)
    project.up(timeout=5)
    assert project.runs()
    project.down()
    ran = [line for line in (tmp_path / "said").read_text().splitlines() if "/docker-compose " in line]
    assert [line.partition(" --project-name p ")[2].split()[0] for line in ran] == ["up", "ps", "down"]


def test_an_image_that_cannot_be_pulled_is_reported_with_the_reason(fake: Callable[..., None]):
    fake("docker", 'case $1 in compose) ;; *) echo "noise" >&2; echo "no such host" >&2; exit 1;; esac')
    with pytest.raises(NotAvailable, match=r"^no such host: the image rabbitmq:4-management cannot be pulled$"):
        docker.Project(name="p", port=1).up(timeout=5)


def test_a_failed_removal_is_not_a_failed_start(fake: Callable[..., None]):
    fake("docker", 'case "$*" in *down*) echo "engine lost" >&2; exit 1;; esac')
    with pytest.raises(ControlFailed, match="project p may be left: engine lost"):
        docker.Project(name="p", port=1).down()


def test_a_command_of_docker_that_does_not_end_is_ended_with_its_plugin(fake: Callable[..., None], tmp_path: Path):
    fake("docker", f'case "$*" in *up*) sleep 300 & echo $! >{tmp_path}/plugin; wait;; esac')
    with pytest.raises(StartFailed, match=r"up --detach did not end in 0\.5 s"):
        docker.Project(name="p", port=1).up(timeout=0.5)
    plugin = Path("/proc", (tmp_path / "plugin").read_text().strip(), "stat")
    until(lambda: not plugin.exists() or ") Z " in plugin.read_text(), timeout=5)


def test_ctrl_c_in_a_terminal_does_not_reach_the_commands_of_docker(fake: Callable[..., None], tmp_path: Path):
    fake("docker", f'case "$*" in *down*) ps -o pgid= -p $$ >{tmp_path}/group;; esac')
    docker.Project(name="p", port=1).down()
    assert int((tmp_path / "group").read_text()) != os.getpgrp()


def test_compose_yaml_publishes_on_loopback_only():
    text = docker.compose_file().read_text()
    published = [line for line in text.splitlines() if ":5672" in line or ":15672" in line]
    assert len(published) == 2
    assert all('- "127.0.0.1:$' in line for line in published)
    assert docker.IMAGE in text


def test_the_data_of_the_development_broker_is_found_again_by_a_new_container():
    """RabbitMQ's data has the host's name in its path, which is a container's id unless it is given."""
    assert "\n    hostname: rabbitmq\n" in (Path(__file__).parents[2] / "compose.yaml").read_text()

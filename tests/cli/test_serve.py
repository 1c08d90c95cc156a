"""`amqp-rpc serve` as a user meets it: the banner, several processes, signals, and what is wrong in one line."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from amqp_rpc import Client
from amqp_rpc.cli.exits import Exit
from chaos.proxy import Proxy
from tests.forwarding import forwarding
from tests.programs import Program, run, serving
from tests.waiting import until

ONE_SERVICE = (
    "from amqp_rpc import Service\nservice = Service('tcli')\n@service.rpc\ndef f(n: int) -> int:\n    return n\n"
)


def test_the_banner_has_broker_functions_and_how_to_stop(url: str) -> None:
    with serving("services.fib", "tests.served", "--threads", "3", "--prefetch", "5", url=url) as server:
        said = server.text()
        assert "guest:***@" in said
        assert "guest:guest" not in said
        for words in ("rpc_queue ", "fib(n: int) -> int", "rpc_queue.tserved", "hold(seconds: float)", "Ctrl-C to stop",
                      "1 process × 3 threads, prefetch 5"):  # fmt: skip
            assert words in said
        assert server.end(signal.SIGINT) == Exit.OK
        assert "Stopped. 0 results" in server.text()


def test_a_service_of_tasks_alone_is_served(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_tasks.py").write_text(ONE_SERVICE.replace("@service.rpc", "@service.task(queue='tcli_tasks')"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with serving("only_tasks", url=url) as server:
        assert server.end(signal.SIGINT) == Exit.OK


def test_options_are_read_from_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMQP_RPC_THREADS", "2")
    monkeypatch.setenv("AMQP_RPC_URL", url)
    with serving("services.fib", url="amqp://nowhere.invalid") as server:
        assert "1 process × 2 threads" in server.text()


def test_processes_share_the_load(url: str) -> None:
    arguments = ("tests.served", "--processes", "3", "--threads", "1", "--prefetch", "1")
    with serving(*arguments, url=url) as server, Client(url) as client:
        assert "3 processes × 1 thread" in server.text()
        held = list(client.map("tserved.hold", [0.1] * 30, in_flight=30))
        share = {pid: [(begin, end) for p, begin, end in held if p == pid] for pid, _, _ in held}
        assert sorted(share) == sorted(server.children())
        # Each serves its share, and they do it at the same time: that is what makes it three times as fast.
        assert all(5 <= len(calls) <= 15 for calls in share.values())
        first, second, third = share.values()
        assert sum(_overlap(a, b) for a in first for b in second) > 0
        assert sum(_overlap(a, b) for a in second for b in third) > 0


def test_processes_that_are_stopped_say_what_they_have_done(url: str) -> None:
    with serving("tests.served", "--processes", "2", url=url) as server, Client(url) as client:
        list(client.map("tserved.echo", ["a"] * 5))
        children = server.children()
        assert server.end() == 0
        assert server.text().count("Stopping: running handlers have 30 s to finish") == 1
        counts = [
            int(n) for n in re.findall(r"^Process \d+: Stopped\. (\d+) results?, 0 raised", server.text(), re.MULTILINE)
        ]
        assert (len(counts), sum(counts)) == (len(children), 5)


def test_a_killed_process_is_replaced_and_calls_go_on(url: str) -> None:
    with serving("tests.served", "--processes", "2", url=url) as server, Client(url) as client:
        before = set(server.children())
        victim = client.call("tserved.pid")
        assert victim in before
        client.submit("tserved.die")
        until(lambda: len(set(server.children()) - before) == 1, what="a new process")
        until(lambda: {client.call("tserved.pid") for _ in range(20)} == set(server.children()), what="all to serve")
        assert "was killed by SIGKILL; starting another in" in server.text()
        assert server.end() == Exit.OK


def test_a_parent_that_is_killed_takes_its_processes_with_it(url: str) -> None:
    with serving("tests.served", "--processes", "2", url=url) as server:
        children = server.children()
        assert len(children) == 2
        server.send(signal.SIGKILL)
        until(lambda: not any(_runs(child) for child in children), what="the children to end")


def test_stopping_finishes_the_calls_in_flight(url: str) -> None:
    with serving("tests.served", "--threads", "2", url=url) as server, Client(url) as client:
        futures = [client.submit("tserved.hold", 0.5), client.submit("tserved.hold_async", 0.5)]
        pid = client.call("tserved.pid")
        assert server.end() == Exit.OK
        assert [futures[0].result()[0], futures[1].result()] == [pid, pid]
        assert "Stopped. 3 results" in server.text()


def test_a_drain_that_takes_too_long_ends_with_its_own_code(url: str) -> None:
    with serving("tests.served", "--drain-timeout", "0.1", url=url) as server, Client(url) as client:
        client.submit("tserved.hold", 30)
        assert client.call("tserved.pid") == server.pid
        assert server.end() == Exit.DRAIN_TIMEOUT


def test_a_later_signal_ends_at_once(url: str) -> None:
    with serving("tests.served", url=url) as server, Client(url) as client:
        client.submit("tserved.hold", 30)
        assert client.call("tserved.pid") == server.pid

        def ended() -> bool:
            server.send(signal.SIGINT)
            return server.process.poll() is not None

        until(ended, what="a second signal that is not the same request")
        assert server.process.returncode == Exit.INTERRUPTED
        assert "Stopping" in server.text()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_two_signals_together_are_one_request(url: str, processes: str) -> None:
    """`timeout` signals its child and then its process group; systemd signals a supervisor and its processes."""
    with serving("tests.served", "--processes", processes, url=url) as server, Client(url) as client:
        future = client.submit("tserved.hold", 2)
        assert client.call("tserved.pid")
        for process in server.children():
            os.kill(process, signal.SIGTERM)
        server.send(signal.SIGTERM)
        assert server.end() == Exit.OK
        assert future.result()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs tgkill and /proc")
@pytest.mark.parametrize("processes", ["1", "2"])
def test_signals_that_the_kernel_gives_to_another_thread_are_handled_at_once(url: str, processes: str) -> None:
    """As it may do with two that come within microseconds: the main thread waits, and hears of neither."""
    with serving("tests.served", "--processes", processes, url=url) as server:
        threads = [int(each.name) for each in Path(f"/proc/{server.pid}/task").iterdir()]
        for number in (signal.SIGINT, signal.SIGTERM):
            assert ctypes.CDLL(None).tgkill(server.pid, max(threads), number) == 0
        server.until_said("Stopping")
        assert server.process.wait(30) == Exit.OK


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_signal_at_the_start_ends_it_as_a_stop(tmp_path: Path, processes: str) -> None:
    # An attempt to connect lasts longer than the test.
    patient = "from amqp_rpc.amqp import connection\nconnection.CONNECT_TIMEOUT = 600.0\n"
    (tmp_path / "patient.py").write_text(ONE_SERVICE + patient)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        nobody = f"amqp://127.0.0.1:{silent.getsockname()[1]}"
        server = Program("serve", "patient", "--processes", processes, url=nobody, cwd=tmp_path)
        with silent.accept()[0]:
            assert server.end() == Exit.OK


def test_a_signal_while_a_module_is_imported_ends_it_as_a_stop(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import sys, time\nprint('importing', file=sys.stderr, flush=True)\ntime.sleep(60)\n"
    )
    server = Program("serve", "slow", url="amqp://nowhere.invalid", cwd=tmp_path)
    server.until_said("importing")
    assert server.end() == Exit.OK


def test_interrupt_main_in_a_handler_is_no_signal_of_the_operator(url: str) -> None:
    with serving("tests.served", url=url) as server, Client(url) as client:
        client.call("tserved.interrupt")
        future = client.submit("tserved.hold", 2)
        assert client.call("tserved.pid") == server.pid
        server.send(signal.SIGTERM)
        server.until_said("Stopping")
        assert server.process.wait(30) == Exit.OK
        assert future.result()[0] == server.pid


def test_a_fork_in_a_handler_has_the_default_signals_and_none_of_our_connections(url: str) -> None:
    with serving("tests.served", url=url) as server, Client(url) as client:
        assert client.call("tserved.seen_in_a_fork") == [[True, True], []]
        assert [client.call("tserved.squares") for _ in range(10)] == [4950] * 10
        assert client.call("tserved.pid") == server.pid
        assert server.end() == Exit.OK


def test_the_broker_sees_a_killed_server_at_once_though_its_forks_live(url: str) -> None:
    with serving("tests.served", "--heartbeat", "60", url=url) as server, Client(url) as client:
        fork = client.call("tserved.leave_a_fork")
        try:
            server.send(signal.SIGKILL)
            until(lambda: (s := client.queue_states(["rpc_queue.tserved"])["rpc_queue.tserved"]) and not s.consumers,
                  what="its consumer to be gone, long before a heartbeat is missed")  # fmt: skip
        finally:
            os.kill(fork, signal.SIGKILL)


def test_a_drain_that_takes_too_long_leaves_no_processes_behind(url: str) -> None:
    with serving("tests.served", "--drain-timeout", "0.1", url=url) as server, Client(url) as client:
        left = client.call("tserved.leave_a_process", 60)
        client.submit("tserved.hold", 30)
        assert client.call("tserved.pid") == server.pid
        assert server.end() == Exit.DRAIN_TIMEOUT
        until(lambda: not _runs(left), what="the handler's process to end")


MODULES = {
    "nosuch": (None, Exit.NO_MODULE, "there is no module 'nosuch'"),
    "imports": ("import nosuch\n", Exit.IMPORT_FAILED, "No module named 'nosuch' ("),
    "raises": ("1 / 0\n", Exit.IMPORT_FAILED, "ZeroDivisionError: division by zero ("),
    "syntax": ("def f(:\n", Exit.IMPORT_FAILED, "SyntaxError: invalid syntax ("),
    "exits": ("raise SystemExit(0)\n", Exit.IMPORT_FAILED, "SystemExit"),
    "empty": ("x = 1\n", Exit.NO_SERVICE, "module 'empty' has no service"),
    "several": ("from amqp_rpc import Service\na, b = Service('a'), Service('b')\n", Exit.NO_SERVICE, "(it has: a, b)"),
    "one:wrong": (ONE_SERVICE, Exit.NO_SERVICE, "one:wrong is no service: there is no such name"),
    "reserved": (ONE_SERVICE + "@service.rpc\ndef g(timeout): ...\n", Exit.CONFIGURATION, "reserved.py:6: g() has a"),
    "twice": (ONE_SERVICE + ONE_SERVICE[ONE_SERVICE.index("@") :], Exit.CONFIGURATION, "twice.py:6: 'f' is registered"),
}  # fmt: skip


@pytest.mark.parametrize("target", MODULES)
def test_a_target_that_can_t_be_served_is_one_line_with_an_exit_code_of_its_own(tmp_path: Path, target: str) -> None:
    source, code, message = MODULES[target]
    if source is not None:
        (tmp_path / f"{target.partition(':')[0]}.py").write_text(source)
    done = run("serve", target, url="amqp://nowhere.invalid", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("processes", ["1", "3"])
def test_a_missing_broker_is_one_line(processes: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"amqp://127.0.0.1:{free.getsockname()[1]}"
        done = run("serve", "services.fib", "--processes", processes, url=nobody)
    assert done.returncode == Exit.NO_BROKER
    assert "connection refused" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_handler_of_three_heartbeats_keeps_its_connection(url: str) -> None:
    with serving("tests.served", "--heartbeat", "1", "--threads", "1", url=url) as server:
        with Client(url, heartbeat=1) as client:
            assert client.call("tserved.hold", 3.5)[0] == server.pid
            assert client.call("tserved.pid") == server.pid
        server.end()
        assert "lost" not in server.text()


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_tasks_are_in_the_banner_in_the_log_and_in_the_counts(url: str) -> None:
    arguments = ("tests.served", "--queues", "tserved_sums,rpc_queue.tserved", "--log-level", "info")
    with serving(*arguments, url=url) as server, Client(url) as client:
        assert "rpc_queue.tserved  pid() -> int" in server.text()
        assert "tserved_sums       task total(*numbers: int) -> int" in server.text()
        assert "tserved_tasks" not in server.text()
        done = client.enqueue("total", 1, 2, queue="tserved_sums")
        assert done.result() == 3
        failed = client.enqueue("fail", "broken", queue="tserved_sums")
        with pytest.raises(ValueError, match="broken"):
            failed.result()
        assert server.end() == Exit.OK
        lines = server.text().splitlines()

    def told(*words: str) -> bool:
        return any(all(word in line for word in words) for line in lines)

    assert told(" INFO ", f"Task total() [{done.id}] received")
    assert told(" INFO ", f"Task total() [{done.id}] succeeded in 0.")
    assert told(" WARNING ", f"Task fail() [{failed.id}] failed after 0.", "retry 1 of 1 in 0.1 s")
    assert told(" ERROR ", f"Task fail() [{failed.id}] failed after 0.", "dead-lettered")
    assert "Stopped. 1 result, 0 raised, 0 refused, 0 expired, 1 retried, 1 dead letter." in lines


def test_queues_that_no_service_has_are_refused_with_a_list_of_queues(url: str) -> None:
    done = run("serve", "tests.served", "--queues", "tserved_sums,nope", url=url)
    assert done.returncode == Exit.USAGE
    assert done.stderr.startswith("amqp-rpc: no service here has a queue 'nope'; there are 'rpc_queue.tserved', ")
    assert len(done.stderr.splitlines()) == 1


def test_processes_consume_the_chosen_queues_alone(url: str) -> None:
    with serving("tests.served", "--processes", "2", "--queues", "tserved_tasks", url=url), Client(url) as client:
        consumers = client.queue_states(["tserved_tasks", "rpc_queue.tserved"])
        assert [state.consumers if state else 0 for state in consumers.values()] == [2, 0]


def test_a_server_may_wait_for_a_broker_that_is_just_starting(url: str) -> None:
    port = int(url.rpartition(":")[2].strip("/"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        later = free.getsockname()
    scheme = url.partition(":")[0]
    server = Program("serve", "tests.served", "--wait-for-broker", "60", url=f"{scheme}://127.0.0.1:{later[1]}")
    server.until_said("Waiting for the broker: no connection to a broker at")
    with forwarding(later, ("127.0.0.1", port)):
        server.until_said("Ready.")
        assert server.end() == Exit.OK


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_signal_while_the_broker_is_away_ends_it_as_a_stop(url: str, processes: str) -> None:
    parts = urlsplit(url)
    proxy = Proxy(parts.port)
    server = Program("serve", "tests.served", "--processes", processes, url=f"{parts.scheme}://127.0.0.1:{proxy.port}")
    server.until_said("Ready.")
    # From now on an attempt to connect takes ten seconds.
    proxy.freeze()
    proxy.cut()
    server.until_said("trying again in")
    server.send(signal.SIGTERM)
    assert server.process.wait(6) == Exit.OK
    proxy.close()


def test_waiting_for_a_broker_ends_at_a_signal_and_at_its_time() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"amqp://127.0.0.1:{free.getsockname()[1]}"
        server = Program("serve", "services.fib", "--wait-for-broker", "60", url=nobody)
        server.until_said("Waiting for the broker")
        assert server.end() == Exit.OK
        done = run("serve", "services.fib", "--wait-for-broker", "0.1", url=nobody)
        assert done.returncode == Exit.NO_BROKER
        assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["Waiting for the broker", "amqp-rpc"]


def test_the_line_of_a_module_that_fails_to_import_is_the_user_s_and_traceback_shows_all(tmp_path: Path) -> None:
    (tmp_path / "settings.py").write_text("import os\n\nkey = os.environ['MISSING_KEY']\n")
    done = run("serve", "settings", url="amqp://nowhere.invalid", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (Exit.IMPORT_FAILED, 1)
    assert f"KeyError: 'MISSING_KEY' ({tmp_path / 'settings.py'}:3)" in done.stderr
    done = run("serve", "settings", "--traceback", url="amqp://nowhere.invalid", cwd=tmp_path)
    assert done.returncode == Exit.IMPORT_FAILED
    assert "Traceback (most recent call last)" in done.stderr
    assert "<frozen os>" in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"], ["--version"], ["schedules", "tests.ticking"]])
def test_an_output_that_can_t_be_written_is_quiet_and_not_0(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "amqp_rpc", *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (Exit.ERROR, "")

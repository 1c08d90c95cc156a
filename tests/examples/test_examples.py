"""Each example is run as its docstring says, and prints what it shows."""

from __future__ import annotations

import ast
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.interop.programs import ROOT, run, serving
from tests.waiting import until


def example(name: str, *words: str, url: str, ends_with: int = 0) -> str:
    return run(sys.executable, "-m", f"examples.{name}", *words, url=url, ends_with=ends_with)


@pytest.fixture
def fib_served(url):
    with serving("services.fib", url=url):
        yield url


def code_lines(name: str) -> int:
    """How many lines a program has without its docstrings and blank lines."""
    tree = ast.parse((ROOT / "examples" / f"{name}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:]
    return len([line for line in ast.unparse(tree).splitlines() if line])


@pytest.mark.parametrize("name", ["new_task", "hello_client", "calling_async", "emit_log", "numbers_producer"])
def test_an_example_without_a_broker_ends_with_one_line_that_says_what_to_do(name):
    said = example(name, url="amqp://127.0.0.1:1/", ends_with=1)
    assert said.startswith("no connection to a broker at amqp://guest:***@127.0.0.1:1/: connection refused.")
    assert "`amqp-rpc broker start` starts one" in said
    assert len(said.splitlines()) == 1


def test_another_error_of_an_example_has_its_traceback():
    said = run(sys.executable, "-m", "examples.new_task", "\udc80", url="amqp://127.0.0.1:1/", ends_with=1)
    assert "Traceback" in said
    assert "Unencodable" in said


def test_hello_is_answered_by_a_server_of_six_lines_to_a_client_of_four(url):
    with serving("examples.hello_server", url=url):
        assert example("hello_client", url=url) == "Hello, world!\n"

    assert code_lines("hello_server") <= 6
    assert code_lines("hello_client") <= 4


def test_the_example_of_tests_passes(url):
    said = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "examples/test_hello.py", url=url)
    assert "2 passed" in said


def test_calling(fib_served):
    printed = example("calling", url=fib_served).splitlines()

    assert printed[:6] == [
        "by name: 832040",
        "named argument, at most 2.5 seconds: 832040",
        "by the function object: 222232244629420445529739893461909967206666939096499764990979600",
        "the same with options: 832040",
        "it raised ValueError: n must be from 0 to 10000, not -1",
        "it did not run: fib(): parameter 'n': expected int, got str; it was 'thirty'",
    ]
    assert printed[6].startswith("nobody there: ")
    assert len(printed) == 7


def test_calling_without_a_server_says_how_to_start_one(url):
    printed = example("calling", url=url, ends_with=1)

    assert printed == "There is no server yet. Start one: amqp-rpc serve services.fib\n"


def test_calling_many(fib_served):
    first_ten = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]

    assert example("calling_many", url=fib_served).splitlines() == [
        f"submit: {first_ten}",
        "as_completed: 4 calls",
        "map: the first even ones are [2, 8, 34, 144, 610]",
        f"map with chunksize: {_fib(1001) % 1_000_000 - 1}",
        f"threads: {first_ten}",
    ]


def test_calling_async(fib_served):
    first_ten = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]

    printed = example("calling_async", url=fib_served).splitlines()

    assert printed[:3] == ["one call: 832040", f"gather: {first_ten}", f"map: {first_ten}"]
    assert re.fullmatch(r"timeout: .* \| may have run: True", printed[3])


def test_own_errors(url):
    with serving("examples.shop", url=url):
        printed = example("own_errors", url=url).splitlines()

    assert printed[:4] == [
        "total: 14.85",
        "arrives: 2026-02-02T12:30:00+00:00",
        "size: Size.SMALL",
        "out of stock: only 3 of teapot left | item: teapot | left: 3",
    ]
    assert printed[4].startswith("wrong arguments: buy(): parameter 'order': expected int, got str - at order.quantity")


def test_several_processes_prints_the_rate_of_each_and_their_ratio(url):
    printed = example("several_processes", "0.3", url=url)

    assert re.fullmatch(
        r"--processes 1: \d+ calls/s\n--processes 2: \d+ calls/s\nratio: \d+\.\d\d, on \d+ cores\n", printed
    )


def test_several_processes_does_not_measure_a_server_that_is_there_already(fib_served):
    assert "stop it first" in example("several_processes", "0.3", url=fib_served, ends_with=1)


def test_deadlines_and_retries(url):
    with serving("examples.report", url=url):
        lines = example("deadlines_and_retries", url=url).splitlines()
        # The reply to the call that ended too early may come while the program still runs.
        assert [line for line in lines if "late or unknown" not in line] == [
            "a handler sees what is left: True",
            "within its time: 7.0",
            "not within its time: may have run: True",
            "idempotent: 3.0",
        ]


def test_schedule(url, capfd):
    printed = ""

    def both_ran() -> bool:
        nonlocal printed
        printed += capfd.readouterr().out
        return "cleaning up\n" in printed and "report for " in printed

    with serving("examples.schedule", url=url):
        until(both_ran, timeout=40)

    assert all(int(second) % 5 == 0 for second in re.findall(r"report for (\d\d)", printed))
    [snippet] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "schedules.md").read_text(), re.DOTALL)
    assert snippet in (ROOT / "examples" / "schedule.py").read_text()


def _fib(n: int) -> int:
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def test_a_task_of_six_lines_is_enqueued_and_its_result_is_printed(url):
    with serving("examples.thumbnails", url=url):
        assert example("make_thumbnails", url=url) == "a.png in 64 x 64\n"

    assert code_lines("thumbnails") <= 6
    assert code_lines("make_thumbnails") <= 4


def together(*programs: tuple[str, ...], url: str) -> list[str]:
    """Run examples at the same time, and return their outputs."""
    with ThreadPoolExecutor() as threads:
        running = [threads.submit(example, *program, url=url) for program in programs]
        return [each.result() for each in running]


def test_a_producer_with_a_consumer_of_even_and_one_of_odd_numbers(url):
    produced, even, odd = together(
        ("numbers_producer",), ("numbers_consumer", "even"), ("numbers_consumer", "odd"), url=url
    )

    assert produced == "all are put; waiting until they are done\nall are done\n"
    assert even.splitlines() == [f"even {number}" for number in range(0, 10, 2)]
    assert odd.splitlines() == [f"odd {number}" for number in range(1, 10, 2)]


def test_a_queue_from_asyncio(url):
    assert example("numbers_async", url=url) == "1\n"


def test_a_duplex_pipe_of_two_queues(url):
    asks, answers = together(("duplex", "asks"), ("duplex", "answers"), url=url)

    assert asks.splitlines() == ["1 squared is 1", "2 squared is 4", "3 squared is 9"]
    assert answers == "the other end has closed the pipe\n"


def test_the_page_about_queues_shows_the_examples():
    page = (ROOT / "docs" / "queues.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    sources = [path.read_text() for path in (ROOT / "examples").glob("*.py")]

    assert len(snippets) >= 3
    assert all(any(snippet in source for source in sources) for snippet in snippets)


def test_who_may_not_have_a_function_run_is_refused(url):
    assert example("authorized", url=url).splitlines() == [
        "order 1174 is charged",
        "order 1174 is refunded",
        "refused: refund() does not run for key web",
    ]

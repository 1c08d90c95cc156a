"""A stream joins what is written, hands up whole frames, and ends once, whatever the peer does."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqp_rpc.amqp.loop import Loop
from amqp_rpc.amqp.stream import Stream


class Protocol:
    """Takes notes of what a stream tells it."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.frames: list[bytes] = []
        self.ended: list[BaseException | None] = []
        self.stop_after = 0

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.frames.append(bytes(data))
        if data[7:-1] == b"bad":
            raise ValueError("pika would raise this")
        if len(self.frames) == self.stop_after:
            self.loop.stop()

    def eof_received(self):
        return False

    def connection_lost(self, error):
        self.ended.append(error)
        self.loop.stop()


class Wire:
    """A stream on one end of a pair of sockets, and the peer's end."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.ours, self.peer = socket.socketpair()
        self.ours.setblocking(False)
        self.peer.setblocking(False)
        self.protocol = Protocol(self.loop)
        self.stream = Stream(self.loop, self.ours, self.protocol)
        self.stream.start()

    def receive(self, count: int) -> list[bytes]:
        """Run until that many frames came."""
        self.protocol.stop_after = count
        self.loop.run()
        return self.protocol.frames

    def end(self) -> BaseException | None:
        """Run until the protocol hears that it is over."""
        self.loop.run()
        (error,) = self.protocol.ended
        return error

    def turn(self) -> None:
        """Run one turn and what it left to do."""
        self.loop.post(self.loop.post, self.loop.stop)
        self.loop.run()

    def close(self) -> None:
        self.ours.close()
        self.peer.close()
        self.loop.close()


@pytest.fixture
def wire():
    made = Wire()
    yield made
    made.close()


def frame(payload: bytes, kind: int = 1) -> bytes:
    return struct.pack(">BHL", kind, 1, len(payload)) + payload + b"\xce"


class TestReading:
    def test_frames_that_came_together_are_handed_up_one_by_one(self, wire):
        frames = [frame(b""), frame(b"one", 2), frame(b"\xce" * 9, 3), frame(b"", 8)]
        wire.peer.send(b"".join(frames))
        assert frames == wire.receive(4)

    def test_a_frame_that_came_in_pieces_is_handed_up_whole(self, wire):
        whole = frame(b"payload")
        for n in range(len(whole) - 1):
            wire.peer.send(whole[n : n + 1])
            wire.turn()
        assert wire.protocol.frames == []
        wire.peer.send(whole[-1:])
        assert [whole] == wire.receive(1)

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.binary(max_size=30), min_size=1, max_size=6), st.lists(st.integers(0, 250), max_size=6))
    def test_frames_survive_any_cutting(self, payloads, cuts):
        frames = [frame(payload) for payload in payloads if payload != b"bad"]
        sent = b"".join(frames)
        with contextlib.closing(Wire()) as wire:
            for start, end in itertools.pairwise([0, *sorted(cuts), len(sent)]):
                wire.peer.send(sent[start:end])
                wire.turn()
            assert frames == wire.protocol.frames

    def test_the_protocol_header_of_another_version_is_handed_up(self, wire):
        wire.peer.send(b"AMQP\x00\x00\x09\x01")
        assert wire.receive(1) == [b"AMQP\x00\x00\x09\x01"]

    def test_a_peer_that_does_not_speak_amqp_is_named(self, wire):
        wire.peer.send(b"HTTP/1.1 400 Bad Request\r\n")
        assert "what answers does not speak AMQP: it sent b'HTTP/1.1 400 Bad Req'" in str(wire.end())

    def test_a_frame_that_the_protocol_cannot_read_ends_the_stream_with_the_reason(self, wire):
        wire.peer.send(frame(b"good") + frame(b"bad") + frame(b"never"))
        assert str(wire.end()) == "pika would raise this"
        assert [frame(b"good"), frame(b"bad")] == wire.protocol.frames

    def test_a_peer_that_closes_ends_the_stream(self, wire):
        wire.peer.close()
        assert wire.end() is None

    def test_frames_that_came_before_the_end_are_handed_up(self, wire):
        wire.peer.send(frame(b"last"))
        wire.peer.close()
        wire.end()
        assert wire.protocol.frames == [frame(b"last")]

    def test_a_stream_that_was_aborted_by_a_frame_hands_up_no_more(self, wire):
        wire.protocol.data_received = wire.stream._feed = lambda _data: wire.stream.abort()
        wire.peer.send(frame(b"one") * 3)
        assert wire.end() is None
        assert wire.protocol.frames == []


class TestWriting:
    def test_what_is_written_in_one_turn_leaves_in_one_piece(self, wire, monkeypatch):
        pieces = []
        monkeypatch.setattr(wire.stream, "_sock", Spy(wire.ours, pieces))
        for payload in (b"one", b"two", b"three"):
            wire.stream.write(payload)
        assert pieces == []
        wire.turn()
        assert pieces == [b"onetwothree"]

    def test_more_than_the_kernel_takes_leaves_as_the_peer_reads(self, wire):
        pieces = [bytes([n % 251]) * 5000 for n in range(1500)]
        for piece in pieces:
            wire.stream.write(piece)
        received = bytearray()

        def read():
            try:
                while data := wire.peer.recv(1 << 20):
                    received.extend(data)
            except BlockingIOError:
                pass
            (wire.loop.stop if len(received) == 5000 * 1500 else again)()

        def again():
            wire.loop.call_later(0, read)

        again()
        wire.loop.run()
        assert b"".join(pieces) == received
        assert wire.stream.get_write_buffer_size() == 0

    def test_the_buffer_counts_what_has_not_left(self, wire):
        wire.stream.write(b"12345")
        assert wire.stream.get_write_buffer_size() == 5
        wire.turn()
        assert wire.stream.get_write_buffer_size() == 0

    def test_it_is_said_when_all_that_was_written_has_left_and_not_before(self, wire):
        said = []
        wire.stream.write(b"x" * 10_000_000)
        wire.stream.when_sent(lambda: said.append("sent"))
        wire.stream.write(b"later")
        wire.turn()
        assert said == []
        while len(wire.peer.recv(1 << 20)) and not said:
            wire.turn()
        assert said == ["sent"]

    def test_it_is_never_said_after_the_stream_broke(self, wire):
        said = []
        wire.stream.write(b"x" * 10_000_000)
        wire.stream.when_sent(lambda: said.append("sent"))
        wire.peer.close()
        wire.end()
        assert said == []

    def test_a_peer_that_is_gone_ends_the_stream_with_the_systems_reason(self, wire):
        wire.peer.close()
        wire.stream.write(b"x")
        assert isinstance(wire.end(), OSError)

    def test_what_was_written_before_an_abort_still_leaves(self, wire):
        wire.stream.write(b"good-bye")
        wire.stream.abort()
        assert wire.end() is None
        assert wire.peer.recv(100) == b"good-bye"


class TestTheEnd:
    def test_the_protocol_hears_of_it_in_a_later_turn_and_once(self, wire):
        wire.stream.abort()
        assert wire.protocol.ended == []
        wire.stream.abort()
        wire.peer.close()
        assert wire.end() is None
        wire.turn()
        assert wire.protocol.ended == [None]

    def test_the_socket_is_closed(self, wire):
        wire.stream.abort()
        assert wire.ours.fileno() == -1

    def test_a_stream_that_ended_before_its_start_does_not_start(self, wire):
        wire.stream.abort()
        wire.stream.start()
        assert wire.end() is None


class Spy:
    """A socket that notes what is sent."""

    def __init__(self, sock: socket.socket, pieces: list[bytes]) -> None:
        self._sock = sock
        self._pieces = pieces

    def send(self, data):
        self._pieces.append(bytes(data))
        return self._sock.send(data)

    def __getattr__(self, name):
        return getattr(self._sock, name)

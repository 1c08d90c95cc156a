"""The way to a broker: look-up, TCP, TLS and the first bytes of AMQP, at each address of its name.

It is a seam: it knows sockets, and nothing of pika. The addresses of a name are tried a quarter of a second apart, and
the first one that answers in AMQP wins. So an address that is dead, or where something else listens, costs no more than
that: RFC 8305, "Happy Eyeballs", which stops at TCP. Here the race goes on to the broker's first bytes, because a
forwarded port often accepts connections and then says nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import chain, zip_longest
from typing import Any

from amqp_rpc.amqp.loop import READ, WRITE, Loop, Timer
from amqp_rpc.amqp.stream import FIRST_OCTETS, IS_TLS, NOT_AMQP, READ_SIZE, TLS_ALERT
from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.settings import TLS, Address, Addresses, first_line, read_file
from amqp_rpc.message.text import quoted

#: The first bytes of a client, AMQP 0-9-1 specification, section 4.2.2. The broker says nothing before them.
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
#: Seconds until the next address is tried as well: RFC 8305, section 5.
NEXT_ADDRESS = 0.25
#: The error of a peer that closes the connection in answer to the header.
CLOSED_EARLY = "the connection was closed during the AMQP handshake"

#: The numbers of OpenSSL for certificates that are not accepted: https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/
_NO_CRL, _NOT_YET, _EXPIRED, _REVOKED, _WRONG_HOST, _WRONG_ADDRESS = 3, 9, 10, 23, 62, 64
#: Those for an authority that is not known.
_UNKNOWN_SIGNER = (2, 18, 19, 20, 21, 27)
#: OpenSSL's reasons for an answer that is not TLS; and for a peer with other versions of it.
_NOT_TLS = (
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "UNKNOWN_PROTOCOL",
    "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG",
)
_NO_VERSION = ("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE", "UNSUPPORTED_SSL_VERSION")
#: The alerts of a peer that does not accept the client's certificate, RFC 8446, section 6.2.
_OWN_REFUSED = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")
#: The most names of a certificate, and characters of each text in it, that are shown.
_NAMES, _TEXT = 10, 100

#: The numbers of errors that say nothing about the other side.
_OF_THIS_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN, errno.EPERM, errno.EACCES)
_TLS_PORT = 5671
_IN_PROGRESS = (0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN)


def context_of(tls: TLS) -> ssl.SSLContext:
    """Return a context for one connection, made of the files as they are now.

    Raises:
        ConfigurationError: A file can't be read, or does not hold what it should.
    """
    if tls.ssl_context is not None:
        if not isinstance(tls.ssl_context, ssl.SSLContext):
            raise ConfigurationError(f"ssl_context must be an ssl.SSLContext, not {type(tls.ssl_context).__name__}")
        return tls.ssl_context
    if tls.cacertfile is not None:
        read_file("cacertfile", tls.cacertfile)
    elif file := os.environ.get("SSL_CERT_FILE"):
        # OpenSSL reads it by itself, and ignores a missing one.
        read_file("SSL_CERT_FILE", file)
    try:
        context = ssl.create_default_context(cafile=tls.cacertfile)
    except OSError:
        raise ConfigurationError(f"cacertfile={tls.cacertfile!r} has no certificate in PEM") from None
    if tls.certfile is not None:
        _load_own(context, tls, tls.certfile)
    if tls.minimum_version is not None:
        context.minimum_version = ssl.TLSVersion[tls.minimum_version.replace("tlsv", "TLSv").replace(".", "_")]
    if not tls.verifies:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _load_own(context: ssl.SSLContext, tls: TLS, certfile: str) -> None:
    """Load the client's certificate and its key."""
    key, keyfile = ("certfile", certfile) if tls.keyfile is None else ("keyfile", tls.keyfile)
    read_file("certfile", certfile)
    read_file(key, keyfile)

    def password() -> str:
        if tls.keyfile_password_file is None:
            raise ConfigurationError(f"the key in {keyfile!r} is encrypted: keyfile_password_file= has its password")
        return first_line("keyfile_password_file", tls.keyfile_password_file)

    try:
        # Without a function OpenSSL asks for the password on the terminal.
        context.load_cert_chain(certfile, tls.keyfile, password)
    except ssl.SSLError as error:
        why = f"certfile={certfile!r} has no certificate in PEM, or {key}={keyfile!r} has no key"
        if error.reason == "KEY_VALUES_MISMATCH":
            why = f"keyfile={keyfile!r} is not the key of certfile={certfile!r}"
        elif tls.keyfile_password_file is not None:
            why += f", or keyfile_password_file={tls.keyfile_password_file!r} has not the password of the key"
        raise ConfigurationError(why) from None


def checked(addresses: Addresses) -> Addresses:
    """Return addresses whose files can be read: a wrong one is found where a program starts.

    Raises:
        ConfigurationError: One can't be read, or does not hold what it should.
    """
    for address in addresses:
        address.current_password()
        if address.tls is not None:
            context_of(address.tls)
    return addresses


class TLSFailed(ConnectionError):
    """TLS did not come about: what the peer has shown, what was expected, and, in `advice`, what to set."""

    def __init__(self, words: str, advice: str) -> None:
        super().__init__(words)
        self.advice = advice


class Dial:
    """One attempt to reach a broker; all of it belongs to the I/O thread.

    Args:
        loop: The loop of that thread.
        host: Its name or its address.
        port: Its port.
        tls: How it is encrypted; None without TLS.
        context: Made of that; None without TLS.
        on_answered: Called with the socket, in non-blocking mode, and the first bytes that the broker sent.
        on_failed: Called with the error when every address has failed.
    """

    def __init__(
        self,
        loop: Loop,
        host: str,
        port: int,
        tls: TLS | None,
        context: ssl.SSLContext | None,
        *,
        on_answered: Callable[[socket.socket, bytes], object],
        on_failed: Callable[[Exception], object],
    ) -> None:
        self._loop = loop
        self._host, self._port, self._tls, self._context = host, port, tls, context
        self._on_answered, self._on_failed = on_answered, on_failed
        self._left: deque[Any] = deque()
        self._attempts: set[_Attempt] = set()
        self._next: Timer | None = None
        self._error: Exception | None = None
        self._over = False

    def start(self) -> None:
        """Look the name up.

        The look-up has a thread of its own: it can take many seconds, in which calls must end at their deadlines.
        """

        def look_up() -> None:
            try:
                found: Any = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                found = error
            self._loop.post(self._found, found)

        try:
            threading.Thread(target=look_up, name=f"amqp_rpc look-up of {self._host}", daemon=True).start()
        except RuntimeError as error:  # the process may have no more threads
            self._loop.post(self._found, OSError(errno.EAGAIN, str(error)))

    def cancel(self) -> None:
        """Give it up: nothing is called back any more."""
        self._over = True
        if self._next is not None:
            self._next.cancel()
        for attempt in self._attempts:
            attempt.close()
        self._attempts.clear()

    def _found(self, found: Any) -> None:
        if self._over:
            return
        if isinstance(found, Exception):
            self._fail(found)
            return
        self._left.extend(_in_turn(found))
        self._try_next()

    def _try_next(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if not self._left:
            return
        address = self._left.popleft()
        try:
            attempt = _Attempt(self, self._loop, address, self._tls, self._context, self._host)
        except OSError as error:  # a family that this system does not have
            self._has_failed(None, error)
            return
        self._attempts.add(attempt)
        if self._left:
            self._next = self._loop.call_later(NEXT_ADDRESS, self._try_next)
        attempt.start()

    def answered(self, attempt: _Attempt, data: bytes) -> None:
        """Take the first address that has answered, and give up the others."""
        self._attempts.discard(attempt)
        self.cancel()
        self._on_answered(attempt.sock, data)

    def failed(self, attempt: _Attempt, error: Exception) -> None:
        """Try the next address at once, or report the error of the last one."""
        attempt.close()
        self._has_failed(attempt, error)

    def _has_failed(self, attempt: _Attempt | None, error: Exception) -> None:
        if attempt is not None:
            self._attempts.discard(attempt)
        # A refused connection says the least: most names have an address where nothing listens.
        if self._error is None or not isinstance(error, ConnectionRefusedError):
            self._error = error
        if self._left:
            self._try_next()
        elif not self._attempts:
            self._fail(self._error)

    def _fail(self, error: Exception) -> None:
        self.cancel()
        self._on_failed(error)


class _Attempt:
    """One address: its socket, up to the first bytes that come from there."""

    def __init__(
        self, dial: Dial, loop: Loop, address: Any, tls: TLS | None, context: ssl.SSLContext | None, host: str
    ) -> None:
        self._dial = dial
        self._loop = loop
        family, kind, protocol, _, self._address = address
        self._tls = tls
        self._context = context
        #: The name that the certificate must have.
        self._name = tls.server_name_indication or host if tls is not None else host
        #: The handshake that the peer interrupts if it closes the connection.
        self._stage = "TLS" if tls is not None else "AMQP"
        self.sock: socket.socket = socket.socket(family, kind, protocol)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        """Connect."""
        code = self.sock.connect_ex(self._address)
        if code in _IN_PROGRESS:
            self._loop.watch(self.sock, WRITE, self._connected)
        else:
            # In a later turn, since the dial is in the middle of its own work now.
            self._loop.post(self._fail, OSError(code, os.strerror(code)))

    def close(self) -> None:
        """Close the socket; nothing is called back any more."""
        self._loop.unwatch(self.sock)
        self.sock.close()

    def _fail(self, error: Exception) -> None:
        if self.sock.fileno() < 0:
            return
        if self._tls is not None and isinstance(self.sock, ssl.SSLSocket):
            error = _explained(error, self.sock, self._tls, self._name, stage=self._stage)
        self._dial.failed(self, error)

    def _connected(self, _events: int) -> None:
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            # OSError picks the subclass for the number: ConnectionRefusedError says more than OSError.
            self._fail(OSError(code, os.strerror(code)))
            return
        self._loop.unwatch(self.sock)
        if self._context is None:
            self._greet()
            return
        try:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self._name, do_handshake_on_connect=False)
        except (OSError, ValueError) as error:
            self._fail(error)
            return
        self._shake()

    def _shake(self, _events: int = 0) -> None:
        assert isinstance(self.sock, ssl.SSLSocket)
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            self._loop.watch(self.sock, READ, self._shake)
        except ssl.SSLWantWriteError:
            self._loop.watch(self.sock, WRITE, self._shake)
        except OSError as error:
            self._fail(error)
        else:
            self._greet()

    def _greet(self) -> None:
        self._stage = "AMQP"
        # A peer that has closed may have said why before, in an alert of TLS: reading finds that, or the same error.
        with contextlib.suppress(OSError):
            # Eight bytes fit into the buffer of a new connection.
            self.sock.send(PROTOCOL_HEADER)
        self._loop.watch(self.sock, READ, self._answered)

    def _answered(self, _events: int) -> None:
        try:
            data = self.sock.recv(READ_SIZE)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as error:
            self._fail(error)
            return
        if not data:
            self._fail(ConnectionError(CLOSED_EARLY))
        elif data[0] not in FIRST_OCTETS:
            self._fail(ConnectionError(IS_TLS if data[0] == TLS_ALERT else NOT_AMQP))
        else:
            self._loop.unwatch(self.sock)
            self._dial.answered(self, data)


def _explained(  # noqa: PLR0911 - one return for each kind of failure
    error: Exception, sock: ssl.SSLSocket, tls: TLS, name: str, *, stage: str
) -> Exception:
    """Return an error of TLS in words: what the peer has shown, what was expected, what to set."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _not_believed(error, _presented(sock), tls, name)
    file = "ssl_context" if tls.certfile is None else repr(tls.certfile)
    own = tls.ssl_context is None and tls.certfile is None
    if isinstance(error, ConnectionResetError | BrokenPipeError | ssl.SSLEOFError) or CLOSED_EARLY in str(error):
        words = f"the connection was closed during the {stage} handshake"
        if stage == "TLS":
            return TLSFailed(words, "For a port without TLS the URL starts with amqp://")
        if own:
            # Some peers close without the alert.
            return TLSFailed(words, f"The broker may want a certificate from the client: {_SET_OWN}")
        return TLSFailed(words, f"The broker may not accept the client's certificate, {file}: its log has the reason")
    reason = error.reason or "" if isinstance(error, ssl.SSLError) else ""
    said = reason.lower().replace("_", " ") or str(error)
    alert = reason.partition("ALERT_")[2].lower().replace("_", " ")
    if any(each in reason for each in _NOT_TLS):
        words = f"what answers does not speak TLS ({said})"
        return TLSFailed(words, "For a port without TLS the URL starts with amqp://; TLS usually has port 5671")
    if any(each in reason for each in _NO_VERSION):
        here = (
            f"minimum_version={tls.minimum_version} is set here"
            if tls.minimum_version
            else "Python takes 1.2 and newer"
        )
        return TLSFailed(
            f"there is no version of TLS that both sides take ({alert or said})",
            f"{here}; ssl_options.versions in the broker's rabbitmq.conf has its own",
        )
    if alert and any(each in reason for each in _OWN_REFUSED):
        if own or "required" in alert:
            return TLSFailed(f"the broker wants a certificate from the client, and got none ({alert})", _SET_OWN)
        which = "The broker's ssl_options.cacertfile must have its authority" if "ca" in alert.split() else _SET_OWN
        return TLSFailed(f"the broker does not accept the client's certificate, {file} ({alert})", which)
    if "HANDSHAKE_FAILURE" in reason and own:
        return TLSFailed(f"TLS failed ({alert})", f"The broker may want a certificate from the client: {_SET_OWN}")
    return TLSFailed(f"TLS failed ({alert or said})", "The broker's log may have the reason") if reason else error


_SET_OWN = "certfile= and keyfile= name one that the broker accepts"


def _not_believed(  # noqa: PLR0911 - one return for each kind of failure
    error: ssl.SSLCertVerificationError, shown: list[dict[str, Any]], tls: TLS, name: str
) -> TLSFailed:
    """Return the error for a certificate that is not accepted, with the part of it that matters."""
    own = shown[0] if shown else {}
    if error.verify_code in (_WRONG_HOST, _WRONG_ADDRESS):
        names = [_quoted(value) for kind, value in own.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
        listed = ", ".join(names[:_NAMES]) + (" and others" if len(names) > _NAMES else "")
        return TLSFailed(
            f"its certificate is for {listed or 'no host'}, not for {_quoted(name)}",
            "Write a name that it has as the host, or as server_name_indication=",
        )
    if error.verify_code == _EXPIRED:
        ends = sorted(each["notAfter"] for each in map(_dates, shown) if each)
        return TLSFailed(f"its certificate expired{f' on {ends[0]}' if ends else ''}", "The broker needs a new one")
    if error.verify_code == _NOT_YET:
        starts = sorted((each["notBefore"] for each in map(_dates, shown) if each), reverse=True)
        return TLSFailed(
            f"its certificate is not valid{f' before {starts[0]}' if starts else ' yet'}", "Is the clock right here?"
        )
    if error.verify_code == _REVOKED:
        return TLSFailed("its certificate is revoked", "The broker needs another one")
    if error.verify_code == _NO_CRL:
        return TLSFailed(
            "its authority's list of revoked certificates is not here",
            "ssl_context= asks for it, and must have loaded it",
        )
    if error.verify_code not in _UNKNOWN_SIGNER:
        return TLSFailed(
            f"its certificate is not accepted ({error.verify_message})", "ssl_context= can have rules of your own"
        )
    # The last one of the chain that it sends: the one whose signer is wanted.
    signer = _name_of(shown[-1].get("issuer", ())) if shown else ""
    trusted = (
        "ssl_context=" if tls.ssl_context else f"cacertfile={tls.cacertfile!r}" if tls.cacertfile else "the system"
    )
    return TLSFailed(
        f"its certificate is not trusted ({error.verify_message}): {f'{signer} has signed it, and ' if signer else ''}"
        f"{trusted} does not have that authority",
        "cacertfile= names a file with the certificate of the authority",
    )


def _presented(sock: ssl.SSLSocket) -> list[dict[str, Any]]:
    """Return the certificates that a peer has shown, the peer's own first; none if this Python keeps them to itself."""
    try:
        # Python 3.13 has it without the underscore, and there without the decoding.
        return [each.get_info() for each in sock._sslobj.get_unverified_chain() or ()]  # type: ignore[attr-defined] # noqa: SLF001
    except (AttributeError, ValueError, OSError):
        return []


def _dates(shown: dict[str, Any]) -> dict[str, str]:
    """Return the two dates of a certificate, as ISO 8601."""
    try:
        return {
            each: datetime.fromtimestamp(ssl.cert_time_to_seconds(shown[each]), UTC).strftime("%Y-%m-%d %H:%M UTC")
            for each in ("notBefore", "notAfter")
        }
    except (KeyError, ValueError, OverflowError, OSError):
        return {}


def _name_of(parts: Any) -> str:
    """Return a distinguished name as text: CN=…, O=…."""
    named = {key: value for part in parts for key, value in part}
    wanted = ("commonName", "organizationName", "organizationalUnitName")
    return ", ".join(_quoted(named[key]) for key in wanted if key in named)


def _quoted(text: str) -> str:
    """Return a stranger's text, on one line and bounded."""
    return repr(quoted(text, _TEXT))


def _in_turn(addresses: list[Any]) -> list[Any]:
    """Return addresses with those of IPv4 and IPv6 in turn, in the system's order otherwise: RFC 8305, section 4."""
    families: defaultdict[int, list[Any]] = defaultdict(list)
    for address in addresses:
        families[address[0]].append(address)
    return [each for each in chain.from_iterable(zip_longest(*families.values())) if each is not None]


def words_of(cause: BaseException) -> str:
    """Return the cause of a connection that could not be opened, or was lost, in a few words."""
    if isinstance(cause, socket.gaierror):
        return f"the host's name is not known ({cause.strerror})"
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return str(cause) or type(cause).__name__


def advice_for(cause: BaseException, address: Address) -> str:
    """Return the advice for an address at which no connection could be opened; none for a fault of this machine."""
    if isinstance(cause, TLSFailed):
        return cause.advice
    if IS_TLS in str(cause) or (address.tls is None and address.port == _TLS_PORT):
        return "For a port with TLS the URL starts with amqps://; cacertfile= names the authority's certificate"
    if isinstance(cause, OSError) and cause.errno in _OF_THIS_MACHINE:
        return ""
    return "Is RabbitMQ running there? `amqp-rpc broker start` starts one; AMQP_URL says where it is"

"""Talks to a running service over one kept-alive connection; standard library only."""

import contextlib
import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from contract.errors import InputError, LongsightError

TIMEOUT_S: Final = 30.0
JSON: Final = "application/json"


class ServiceUnreachableError(LongsightError):
    """Nobody answers at the URL, or the connection broke twice in a row."""


class RefusedError(LongsightError):
    """The service answered with an error; `status` is its HTTP status."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """One connection to one service; not for sharing between threads, but `stop` may come from another.

    Raises:
        InputError: the URL is not one of HTTP.

    """

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InputError(f"{url}: {error}") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise InputError(f"{url}: not a URL of a service; give one such as http://127.0.0.1:8000")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, port, timeout=timeout_s)
        self._prefix = parts.path.rstrip("/")
        self._stopped = False
        self.url = url

    def close(self) -> None:
        """Close the connection; it opens again when needed."""
        self._connection.close()

    def stop(self) -> None:
        """End the exchange in progress, which then raises `ServiceUnreachableError`, and all later ones."""
        self._stopped = True
        with contextlib.suppress(OSError, AttributeError):  # not connected, or not any more
            self._connection.sock.shutdown(socket.SHUT_RDWR)
            self._connection.sock.close()

    def get(self, path: str) -> tuple[int, Any]:
        """Return status and body (parsed if JSON) of one GET."""
        return self._exchange("GET", path, None, {})[:2]

    def score(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer of `POST /score`.

        Raises:
            RefusedError: any status but 200, with the service's own words.
            ServiceUnreachableError: no answer at all.

        """
        return self.send_score(json.dumps(request, allow_nan=False).encode(), {"Content-Type": JSON})[0]

    def send_score(self, body: bytes, headers: Mapping[str, str]) -> tuple[dict[str, Any], str]:
        """Return the answer of `POST /score` to a body of any form, and its `Server-Timing`; raises as `score`."""
        status, answer, timing = self._exchange("POST", "/score", body, {"Accept": JSON, **headers})
        if status != http.client.OK or not isinstance(answer, dict):
            raise RefusedError(f"{self.url}/score answered {status}: {_words(answer)}", status=status)
        return answer, timing

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, Any, str]:
        """Return status, body (parsed if JSON) and `Server-Timing`."""
        for last_try in (
            False,
            True,
        ):  # a kept-alive connection may have been closed by the other end meanwhile
            try:
                self._connect()
                self._connection.request(method, self._prefix + path, body, dict(headers))
                response = self._connection.getresponse()
                timing = response.getheader("Server-Timing", "")
                return response.status, _parsed(response.read()), timing
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                if last_try or self._stopped:
                    raise ServiceUnreachableError(
                        f"{self.url}: no service answers ({str(error) or type(error).__name__}); "
                        "start one: longsight serve BUNDLE"
                    ) from error
        raise AssertionError

    def _connect(self) -> None:
        if self._connection.sock is None:
            self._connection.connect()
        if self._stopped:  # looked up after connecting: `stop` either sees the socket or is seen here
            raise ConnectionAbortedError("stopped")


def _parsed(text: bytes) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace")


def _words(body: object) -> str:
    """The human part of a problem document."""
    if not isinstance(body, dict):
        return str(body)[:200] or "an empty body"
    words = [str(body[name]) for name in ("title", "detail") if body.get(name)]
    return ": ".join(words) or str(body)[:200]

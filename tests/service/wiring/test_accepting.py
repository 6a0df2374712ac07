"""Connections of several workers."""

import contextlib
import http.client
import socket

import psutil

from tests.support.serving import service
from tests.support.workers import alive, until, workers_of


def spread(started):
    """How many connections each worker has."""
    return sorted(
        sum(
            each.status == psutil.CONN_ESTABLISHED
            for each in worker.net_connections(kind="tcp")
            if each.laddr and each.laddr.port == started.port
        )
        for worker in workers_of(started)
    )


def connect(stack, started):
    connection = http.client.HTTPConnection("127.0.0.1", started.port, timeout=20)
    stack.callback(connection.close)
    connection.request("GET", "/livez")
    assert connection.getresponse().read()
    return connection


def test_workers_get_even_shares_of_the_connections(house):
    with (
        service(house.bundle, house.redis, "--workers", "2") as started,
        contextlib.ExitStack() as stack,
    ):
        started.wait()
        until(lambda: spread(started) == [0, 0])
        kept = [connect(stack, started) for _ in range(16)]
        assert spread(started) == [8, 8]
        for connection in kept[:12]:
            connection.close()
        until(lambda: sum(spread(started)) == 4)
        for _ in range(12):
            connect(stack, started)
        assert spread(started) == [8, 8]


def test_connections_that_come_at_once_are_shared_too(house):
    with (
        service(house.bundle, house.redis, "--workers", "2") as started,
        contextlib.ExitStack() as stack,
    ):
        started.wait()
        until(lambda: spread(started) == [0, 0])
        for _ in range(40):
            stack.enter_context(socket.create_connection(("127.0.0.1", started.port)))
        until(lambda: sum(spread(started)) == 40)
        assert min(spread(started)) >= 10


def test_a_worker_that_hangs_or_died_keeps_nobody_out(house):
    with (
        service(house.bundle, house.redis, "--workers", "2") as started,
        contextlib.ExitStack() as stack,
    ):
        started.wait()
        hanging = workers_of(started)[0]
        hanging.suspend()
        try:
            for _ in range(6):
                connect(stack, started)
        finally:
            hanging.kill()
        until(lambda: not alive([hanging]))
        for _ in range(6):
            connect(stack, started)

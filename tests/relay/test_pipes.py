"""The pipe pool: bounded, and never a pipe with somebody else's bytes."""

import fcntl
import os

from meshless_core.relay.pipes import PIPE_BYTES, Pipe, PipePool


def take(pool: PipePool) -> Pipe:
    pipe = pool.take()
    assert pipe is not None
    return pipe


def test_a_pipe_has_the_stated_size_and_does_not_block():
    pipe = Pipe()
    assert fcntl.fcntl(pipe.writer, fcntl.F_GETPIPE_SZ) == PIPE_BYTES
    assert not os.get_blocking(pipe.reader)
    assert not os.get_inheritable(pipe.reader)
    pipe.close()


def test_an_empty_pipe_is_handed_out_again():
    pool = PipePool()
    pipe = take(pool)
    pool.give_back(pipe)
    assert pool.take() is pipe
    pool.give_back(pipe)
    pool.close()


def test_a_pipe_that_still_holds_bytes_is_closed_not_kept():
    pool = PipePool()
    pipe = take(pool)
    os.write(pipe.writer, b"x")
    pipe.held = 1
    pool.give_back(pipe)
    assert pool.in_use == 0
    other = take(pool)
    assert other is not pipe
    pool.give_back(other)
    pool.close()


def test_at_the_limit_there_is_none_until_one_comes_back():
    pool = PipePool(limit=1)
    pipe = take(pool)
    assert pool.take() is None
    pool.give_back(pipe)
    assert pool.take() is pipe
    pool.give_back(pipe)
    pool.close()


def test_a_pipe_the_kernel_refuses_is_none_and_leaks_no_descriptor(monkeypatch):
    def refuse(*_args):
        raise PermissionError(1, "Operation not permitted")

    pool = PipePool()
    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert pool.take() is None
    assert set(os.listdir("/proc/self/fd")) == before
    assert pool.in_use == 0

"""Two applications that do anything to their ends of a connection, in an order dealt from a seed, and what holds always."""

import asyncio
import contextlib
import random
import socket
import struct

RESET = struct.pack("ii", 1, 0)
BLOCK = random.Random(1).randbytes((1 << 16) - 1).upper().translate(None, b"!?")[: (1 << 15) - 1]
"""What each sends, over and over: of an odd length, so that no two places of it look alike at a power of two; and without bytes
that the filter of `tests/agent/test_filtering` changes or refuses."""


class Application:
    """One end: what it sent, what it got, and what it can do next."""

    def __init__(self, end, chance):
        self.end, self.family, self.chance = end, end.family, chance
        self.sent = self.got = 0
        self.finished = self.gone = False
        self.saw = None
        """How the other direction ended, as this end saw it: "end", "reset", or None."""

    def act(self):
        deeds = [self.talk] * 4 + [self.fill] * 2 + [self.read] * 4 + [self.drain] * 2 + [self.finish, self.leave, self.reset]
        if not self.gone:
            self.chance.choice(deeds)()

    def talk(self):
        self._send(self.chance.randrange(1, 2000))

    def fill(self):
        while self._send(len(BLOCK)):
            pass

    def read(self):
        self._read(self.chance.randrange(1, 5000))

    def drain(self):
        while self._read(1 << 17):
            pass

    def finish(self):
        if not self.finished:
            self.finished = True
            with contextlib.suppress(OSError):  # the other end is gone already
                self.end.shutdown(socket.SHUT_WR)

    def leave(self):
        self.gone = True
        self.end.close()

    def reset(self):
        if self.family != socket.AF_UNIX:
            self.end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.leave()

    def _send(self, size):
        if self.finished:
            return 0
        at = self.sent % len(BLOCK)
        try:
            taken = self.end.send((BLOCK[at:] + BLOCK[:at])[:size])
        except BlockingIOError:
            return 0
        except OSError:
            if self.family != socket.AF_UNIX:  # TCP tells an error once: the next read would be an end-of-file
                self.saw = self.saw or "reset"
            return 0
        self.sent += taken
        return taken

    def _read(self, size):
        try:
            data = self.end.recv(size)
        except BlockingIOError:
            return 0
        except OSError:
            self.saw = self.saw or "reset"
            return 0
        at = self.got % len(BLOCK)
        expected = BLOCK[at:] + BLOCK * (len(data) // len(BLOCK) + 1)
        assert data == expected[: len(data)], f"other bytes than were sent behind byte {self.got}"
        self.got += len(data)
        if not data:
            self.saw = self.saw or "end"
        return len(data)


async def storm(number, client, service):
    """Both ends at random, then both leave; the applications."""
    chance = random.Random(number)
    ends = [Application(client, chance), Application(service, chance)]
    for _ in range(chance.randrange(1, 40)):
        chance.choice(ends).act()
        for _ in range(chance.choice([0, 0, 1, 5, 50])):
            await asyncio.sleep(0)
    chance.shuffle(ends)
    for end in ends:
        if chance.random() < 0.5 and not end.gone:
            end.drain()
        end.leave()
        for _ in range(chance.choice([0, 1, 50])):
            await asyncio.sleep(0)
    return ends


def judge(ends):
    """Nobody got more than was sent, and who saw an end-of-file got everything (a Unix socket cannot show TCP's reset)."""
    for one, other in (ends, ends[::-1]):
        assert one.got <= other.sent
        assert one.saw != "end" or one.got == other.sent or (one.family, other.family) == (socket.AF_UNIX, socket.AF_INET)

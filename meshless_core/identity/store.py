"""The agent's leaves: the right ones, valid, renewed in time, gone when no longer needed.

An agent holds leaves for the meshlets of its own pods, no others. A leaf is renewed at about half of its life, so that a whole
half is left to find an issuer that is away; a renewal never touches a live connection, it only changes what new ones present.
All decisions are in `step`, which takes no time itself: a clock and a random source are given, so tests need no waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import attrs

from meshless_core.errors import IdentityError
from meshless_core.identity import certificates
from meshless_core.identity.client import LeafIssuer
from meshless_core.identity.keyfiles import make_private_directory, read_public, write_atomically
from meshless_core.identity.leaf import Leaf, LeafCredentials, TrustBundle, find_leaf, keep_only, store_leaf
from meshless_core.types import Identity, MeshletRef

__all__ = ["LeafStore"]

logger = logging.getLogger(__name__)

_FIRST_RETRY: Final = 0.5
_LAST_RETRY: Final = 60.0
_RENEW_SPREAD: Final = 30.0
_LONGEST_WAIT: Final = 3600.0
_PARALLEL_REQUESTS: Final = 4


@attrs.define
class _Entry:
    """What is known about one required meshlet. `due`: Unix time, seconds, of the next attempt; `failures`: in a row."""

    identity: Identity
    directory: str
    leaf: Leaf | None = None
    credentials: LeafCredentials | None = None
    due: float = 0.0
    failures: int = 0
    problem: str = ""


class LeafStore:
    """A `CredentialsSource` that keeps itself current. Life: `start`, `require` at will, `stop`."""

    def __init__(
        self,
        state_dir: str | os.PathLike[str],
        trust_domain: str,
        issuer: LeafIssuer,
        *,
        on_rotated: Callable[[Identity], None] | None = None,
        clock: Callable[[], float] = time.time,
        rng: Callable[[], float] = random.random,
        renew_spread: float = _RENEW_SPREAD,
    ) -> None:
        """Prepare a store; nothing happens before `start`.

        Args:
            state_dir: directory of the agent's keys, made with mode 0700; leaves in it survive a restart.
            trust_domain: the mesh's trust domain.
            issuer: where leaves and the trust bundle come from.
            on_rotated: called in the event loop when the credentials of a local identity changed in any way or went away
                (its leaf was renewed, the bundle changed, the meshlet left): tunnels kept warm with the old ones must go.
            clock: returns Unix time, seconds.
            rng: returns a number in [0, 1): jitter, not secrets.
            renew_spread: seconds over which renewals are spread when the issuing root changes.
        """
        self._directory = os.path.join(os.path.abspath(os.fspath(state_dir)), "leaves")
        self._trust_domain = trust_domain
        self._issuer = issuer
        self._on_rotated = on_rotated
        self._clock = clock
        self._rng = rng
        self._renew_spread = renew_spread
        self._entries: dict[MeshletRef, _Entry] = {}
        self._bundle: TrustBundle | None = None
        self._swept = False
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the directory, take over what is usable in it, begin to follow the issuer.

        Raises:
            IdentityError: the directory is not usable.
        """
        make_private_directory(os.path.dirname(self._directory))
        make_private_directory(self._directory)
        self._load_bundle()
        self._tasks = [
            asyncio.create_task(self._follow_bundle(), name="leaves-bundle"),
            asyncio.create_task(self._renew(), name="leaves-renew"),
        ]

    async def stop(self) -> None:
        """Stop renewing; leaves stay on disk for the next start. Works also after a failed `start`."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                logger.error("a task of the leaf store failed: %r", outcome)

    def require(self, meshlets: Iterable[MeshletRef]) -> None:
        """Hold leaves for exactly these meshlets; the keys of others are deleted at once. Call it after `start`.

        New ones are found on disk or asked for in the background: see `ready`. The first call also deletes what an earlier
        run left for meshlets that are not among these, so call it first when the local pods are known.
        """
        wanted = set(meshlets)
        for ref in set(self._entries) - wanted:
            entry = self._entries.pop(ref)
            entry.leaf = None
            self._tidy(entry)
            if entry.credentials is not None:
                self._tell(entry.identity)
        for ref in sorted(wanted - set(self._entries)):
            identity = Identity(self._trust_domain, ref.namespace, ref.name)
            self._entries[ref] = entry = _Entry(identity, os.path.join(self._directory, f"{ref.name}.{ref.namespace}"))
            self._adopt(entry)
        if not self._swept:
            self._swept = True
            self._sweep()
        self._wake.set()
        self._changed.set()

    async def ready(self) -> None:
        """Return once every required meshlet has a valid leaf. Bound it with a timeout of your own."""
        while not all(self.get(entry.identity) for entry in self._entries.values()):
            self._changed.clear()
            await self._changed.wait()

    # --- CredentialsSource ----------------------------------------------------------------------------------------------

    @property
    def trust_domain(self) -> str:
        """The mesh's trust domain."""
        return self._trust_domain

    def get(self, identity: Identity) -> LeafCredentials | None:
        """Current credentials of a local meshlet; None if there are none, or none that a peer would still accept."""
        entry = self._entries.get(identity.ref)
        if entry is None or entry.identity != identity or entry.leaf is None or entry.leaf.not_after <= self._clock():
            return None
        return entry.credentials

    def expects(self, identity: Identity) -> bool:
        """Whether `identity` is that of a required meshlet, whatever there is of its leaf."""
        entry = self._entries.get(identity.ref)
        return entry is not None and entry.identity == identity

    def problems(self) -> Mapping[Identity, str]:
        """For each local identity whose last renewal failed: why. For `meshless check` and the readiness probe."""
        return {entry.identity: entry.problem for entry in self._entries.values() if entry.problem}

    def expiries(self) -> Mapping[Identity, float]:
        """For each local identity that has a leaf: Unix time, seconds, at which it expires. For metrics."""
        return {entry.identity: entry.leaf.not_after for entry in self._entries.values() if entry.leaf is not None}

    # --- deciding -------------------------------------------------------------------------------------------------------

    async def step(self) -> float:
        """Renew what is due now; returns the seconds until something may be due again.

        Called by the store's own task; public so that a test can play the clock.
        """
        now = self._clock()
        due = [entry for entry in self._entries.values() if entry.due <= now]
        limit = asyncio.Semaphore(_PARALLEL_REQUESTS)
        await asyncio.gather(*(self._renew_one(entry, limit) for entry in due))
        later = min((entry.due for entry in self._entries.values()), default=now + _LONGEST_WAIT)
        # Never sleep long: the wall clock may jump (suspend, NTP), and a leaf must not expire behind our back.
        return min(max(later - self._clock(), 0.0), _LONGEST_WAIT)

    def replace_bundle(self, pem: str) -> TrustBundle:
        """Trust exactly the roots of `pem` from now on; returns them.

        Raises:
            IdentityError: it is no bundle of this trust domain; the old one stays.
        """
        bundle = TrustBundle.parse(pem, self._trust_domain, "the issuer's trust bundle")
        if self._bundle is not None and bundle.pem == self._bundle.pem:
            return self._bundle
        write_atomically(os.path.join(self._directory, "bundle.pem"), bundle.pem.encode("ascii"))
        logger.info("trust bundle of %s now has %d roots", self._trust_domain, len(bundle.roots))
        self._bundle = bundle
        for entry in self._entries.values():
            if entry.leaf is None:
                self._adopt(entry)
            else:
                self._use(entry, entry.leaf)
        self._wake.set()
        return bundle

    async def _renew_one(self, entry: _Entry, limit: asyncio.Semaphore) -> None:
        try:
            async with limit:
                key = certificates.generate_key()
                issued = await self._issuer.issue(entry.identity, certificates.build_request(key))
                if self._entries.get(entry.identity.ref) is not entry:
                    return  # no longer local: the answer is dropped, no key was ever written
                bundle = self.replace_bundle(issued.bundle_pem)
                leaf = store_leaf(entry.directory, entry.identity, issued.chain_pem, certificates.key_to_pem(key), bundle)
        except IdentityError as error:
            self._note_failure(entry, error)
            return
        previous = entry.leaf
        entry.failures, entry.problem = 0, ""
        self._use(entry, leaf)
        self._tidy(entry)
        logger.info("%s a leaf for %s", "got" if previous is None else "renewed", entry.identity)

    def _note_failure(self, entry: _Entry, error: IdentityError) -> None:
        delay = min(_FIRST_RETRY * 2.0 ** min(entry.failures, 16), _LAST_RETRY) * (0.5 + self._rng())
        entry.failures += 1
        entry.problem = str(error)
        entry.due = self._clock() + delay
        left = (
            "it has none" if entry.leaf is None else f"its leaf is valid for {entry.leaf.not_after - self._clock():.0f} s more"
        )
        logger.warning("no new leaf for %s (%s), next try in %.1f s: %s", entry.identity, left, delay, error)

    def _use(self, entry: _Entry, leaf: Leaf) -> None:
        """Make `leaf` under the present bundle what `entry` presents, and plan its renewal."""
        now = self._clock()
        before = entry.credentials
        if self._bundle is None or not leaf.fits(self._bundle):
            entry.leaf, entry.credentials, entry.due = None, None, now
        else:
            life = leaf.not_after - leaf.not_before
            due = leaf.not_before + life * (0.45 + 0.1 * self._rng())
            if not leaf.is_from(self._bundle.roots[0]):
                due = min(due, now + self._renew_spread * self._rng())
            if entry.leaf is not leaf or due < entry.due:
                entry.due = due
            entry.leaf, entry.credentials = leaf, LeafCredentials.of(leaf, self._bundle)
        self._changed.set()
        if before is not None and (entry.credentials is None or entry.credentials.serial != before.serial):
            self._tell(entry.identity)

    def _adopt(self, entry: _Entry) -> None:
        """Take over a leaf an earlier run left on disk, if it is usable."""
        now = datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)
        leaf, problems = find_leaf(entry.directory, entry.identity, now)
        for problem in problems:
            logger.warning("a stored leaf for %s is not used: %s", entry.identity, problem)
        if leaf is not None and self._bundle is not None and leaf.fits(self._bundle):
            self._use(entry, leaf)
            self._tidy(entry)

    def _tell(self, identity: Identity) -> None:
        if self._on_rotated is None:
            return
        try:
            self._on_rotated(identity)
        except Exception:
            logger.exception("the callback for rotated credentials of %s failed", identity)

    # --- disk -----------------------------------------------------------------------------------------------------------

    def _load_bundle(self) -> None:
        path = os.path.join(self._directory, "bundle.pem")
        if not os.path.exists(path):
            return
        try:
            self._bundle = TrustBundle.parse(read_public(path).decode("ascii"), self._trust_domain, path)
        except (IdentityError, UnicodeDecodeError) as error:
            logger.warning("the stored trust bundle is not used, waiting for the issuer: %s", error)

    def _sweep(self) -> None:
        """Delete keys of meshlets that left while no agent ran."""
        known = {entry.directory for entry in self._entries.values()}
        try:
            for found in os.scandir(self._directory):
                if found.is_dir(follow_symlinks=False) and found.path not in known:
                    keep_only(found.path, None)
        except (OSError, IdentityError) as error:
            logger.error("keys of meshlets no longer local stay in %s: %s", self._directory, error)

    def _tidy(self, entry: _Entry) -> None:
        try:
            keep_only(entry.directory, entry.leaf)
        except IdentityError as error:
            logger.error("an old key of %s stays on disk: %s", entry.identity, error)

    # --- tasks ----------------------------------------------------------------------------------------------------------

    async def _renew(self) -> None:
        while True:
            self._wake.clear()
            delay = await self.step()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()

    async def _follow_bundle(self) -> None:
        failures = 0
        while True:
            try:
                async with contextlib.aclosing(self._issuer.watch_bundle()) as bundles:
                    async for pem in bundles:
                        self.replace_bundle(pem)
                        failures = 0
            except IdentityError as error:
                logger.warning("cannot follow the trust bundle, the last one stays in force: %s", error)
            delay = min(_FIRST_RETRY * 2.0 ** min(failures, 16), _LAST_RETRY) * (0.5 + self._rng())
            failures += 1
            await asyncio.sleep(delay)

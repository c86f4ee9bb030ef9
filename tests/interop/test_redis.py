"""Redis with redis-cli, redis-benchmark and redis-py, as the page says."""

from __future__ import annotations

from tests.interop.conftest import Servers
from tests.interop.programs import needs
from tests.interop.recipe import Pod

pytestmark = needs("redis-server", "redis-cli", "redis-benchmark")


def test_redis_does_what_the_page_says(servers: Servers, web: Pod) -> None:
    servers.serve("cache", "Redis")
    web.follow("Redis")
    assert web.run("redis-cli -s redis.sock INFO commandstats | grep -c '^cmdstat_set:calls=[0-9]'") == "1\n"
    assert web.run("redis-cli -s redis.sock DBSIZE") != "0\n"

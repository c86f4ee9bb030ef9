from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from meshless_core.config import Config, PluginSetting
from meshless_core.errors import PluginError
from meshless_core.plugins import LoadedPlugins, PluginLifecycle, load_plugins

BODY = """
log = []

class Living(Thing):
    name = "{name}"
    async def start(self):
        log.append("start")
        {start}
    async def stop(self):
        log.append("stop")
        {stop}

@hookimpl
def meshless_register_authorizer():
    return spec(AuthorizerSpec, create=Living)
"""


def living(install: Any, calls: list[str], **plugins: tuple[str, str]) -> LoadedPlugins:
    for name, (start, stop) in plugins.items():
        install(name, BODY.format(name=name, start=start or "pass", stop=stop or "pass"))
    loaded = load_plugins(Config(plugins=tuple(PluginSetting(name) for name in plugins)), registry=install.registry)
    for name, instance in loaded.authorizers():
        _record(name, instance, calls)
    return loaded


def _record(name: str, instance: Any, calls: list[str]) -> None:
    class Log(list[str]):
        def append(self, what: str) -> None:
            calls.append(f"{what} {name}")

    type(instance).start.__globals__["log"] = Log()


async def test_plugins_start_in_order_and_stop_in_reverse(install: Any) -> None:
    calls: list[str] = []
    async with PluginLifecycle(living(install, calls, a=("", ""), b=("", ""), c=("", ""))):
        assert calls == ["start a", "start b", "start c"]
    assert calls[3:] == ["stop c", "stop b", "stop a"]


async def test_a_half_failed_start_is_stopped_too_and_the_error_names_the_plugin(install: Any) -> None:
    calls: list[str] = []
    loaded = living(install, calls, a=("", ""), b=("raise OSError('port taken')", ""), c=("", ""))
    with pytest.raises(PluginError) as caught:
        await PluginLifecycle(loaded).start()
    assert str(caught.value) == (
        "$.plugins.b: plugin b of dist-b 1.2: start failed: OSError: port taken; check its options, or report it to its authors"
    )
    assert isinstance(caught.value.__cause__, OSError)
    assert calls == ["start a", "start b", "stop b", "stop a"]


async def test_a_failing_stop_is_logged_and_the_others_still_stop(install: Any, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    lifecycle = PluginLifecycle(living(install, calls, a=("", ""), b=("", "raise OSError('stuck')"), c=("", "")))
    await lifecycle.start()
    with caplog.at_level(logging.ERROR):
        await lifecycle.stop()
    assert calls[3:] == ["stop c", "stop b", "stop a"]
    (record,) = caplog.records
    assert record.getMessage() == "plugin b of dist-b 1.2 failed to stop"
    assert record.exc_info is not None


async def test_stopping_twice_stops_once(install: Any) -> None:
    calls: list[str] = []
    lifecycle = PluginLifecycle(living(install, calls, a=("", "")))
    await lifecycle.start()
    await lifecycle.stop()
    await lifecycle.stop()
    assert calls == ["start a", "stop a"]


async def test_a_start_that_hangs_is_cut_and_named(install: Any) -> None:
    calls: list[str] = []
    loaded = living(install, calls, a=("import asyncio; await asyncio.Event().wait()", ""))
    with pytest.raises(PluginError, match=r"plugin a of dist-a 1.2: start failed: took longer than 0.01 s"):
        await PluginLifecycle(loaded, start_timeout=0.01).start()
    assert calls == ["start a", "stop a"]


async def test_a_timeout_of_the_plugins_own_is_not_ours(install: Any) -> None:
    loaded = living(install, [], a=("raise TimeoutError('upstream')", ""))
    with pytest.raises(PluginError, match="start failed: TimeoutError: upstream"):
        await PluginLifecycle(loaded).start()


async def test_a_stop_that_hangs_does_not_hold_up_the_others(install: Any, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    loaded = living(install, calls, a=("", ""), b=("", "import asyncio; await asyncio.Event().wait()"))
    lifecycle = PluginLifecycle(loaded, stop_timeout=0.01)
    await lifecycle.start()
    await lifecycle.stop()
    assert calls[2:] == ["stop b", "stop a"]
    assert "plugin b of dist-b 1.2 took longer than 0.01 s to stop" in caplog.text


async def test_being_cancelled_while_starting_stops_what_was_started(install: Any) -> None:
    calls: list[str] = []
    loaded = living(install, calls, a=("", ""), b=("import asyncio; await asyncio.Event().wait()", ""))
    task = asyncio.create_task(PluginLifecycle(loaded).start())
    while "start b" not in calls:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert calls == ["start a", "start b", "stop b", "stop a"]


async def test_being_cancelled_while_stopping_still_stops_the_rest(install: Any) -> None:
    calls: list[str] = []
    loaded = living(install, calls, a=("", ""), b=("", "import asyncio; await asyncio.Event().wait()"))
    lifecycle = PluginLifecycle(loaded)
    await lifecycle.start()
    task = asyncio.create_task(lifecycle.stop())
    while "stop b" not in calls:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert calls[2:] == ["stop b", "stop a"]


async def test_start_and_stop_are_optional_and_may_be_plain_functions(install: Any) -> None:
    install("a")
    install("b", "class Plain(Thing):\n    def start(self): self.started = True\n\n@hookimpl\ndef meshless_register_authorizer():\n    return spec(AuthorizerSpec, create=Plain)\n")  # fmt: skip  # noqa: E501 - source of a plugin
    loaded = load_plugins(Config(plugins=(PluginSetting("a"), PluginSetting("b"))), registry=install.registry)
    (_, _), (_, plain) = loaded.authorizers()
    async with PluginLifecycle(loaded):
        assert plain.started is True  # type: ignore[union-attr]  # the test's own class

"""One request with each HTTP library: the URL's host is the service id."""

from __future__ import annotations

import asyncio

import aiohttp
import httpx
import requests
from meshless_sdk.aiohttp import MeshConnector
from meshless_sdk.httpx import AsyncMeshTransport, MeshTransport
from meshless_sdk.requests import MeshAdapter
from meshless_sdk.urllib3 import MeshPoolManager

URL = "http://http.cart.shop/"


async def with_asyncio() -> None:
    async with httpx.AsyncClient(transport=AsyncMeshTransport()) as client:
        print("httpx, async:", (await client.get(URL)).text)
    async with aiohttp.ClientSession(connector=MeshConnector()) as session, session.get(URL) as response:
        print("aiohttp:", await response.text())


with httpx.Client(transport=MeshTransport()) as client:
    print("httpx:", client.get(URL).text)
with requests.Session() as session:
    session.mount("http://", MeshAdapter())
    print("requests:", session.get(URL).text)
with MeshPoolManager() as http:
    print("urllib3:", http.request("GET", URL).data.decode())
asyncio.run(with_asyncio())

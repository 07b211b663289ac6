"""Serve browser.html and forward its requests under /v1 to the server, so that the browser sees one origin.

The server sends no CORS headers, so a browser does not let a page of another origin read its answers. In production a reverse
proxy puts the page and the server behind one host name; this program stands in for it.

Run:     pip install httpx starlette uvicorn, then python examples/browser.py [PORT]
Prints:  the url of the page.
"""

import os
import sys
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, StreamingResponse
from starlette.routing import Route

server = httpx.AsyncClient(base_url=os.environ.get("SERVER_URL", "http://127.0.0.1:8000"), timeout=None)
port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080


async def page(_):
    return FileResponse(Path(__file__).with_name("browser.html"))


async def generate(request):
    headers = {"content-type": "application/json"}
    sent = server.build_request("POST", request.url.path, content=await request.body(), headers=headers)
    answer = await server.send(sent, stream=True)  # forward each part at once, so that a stream stays a stream
    parts, closing = answer.aiter_raw(), BackgroundTask(answer.aclose)
    return StreamingResponse(parts, answer.status_code, media_type=answer.headers["content-type"], background=closing)


print(f"http://127.0.0.1:{port}/", flush=True)
routes = [Route("/", page), Route("/v1/images/generations", generate, methods=["POST"])]
uvicorn.run(Starlette(routes=routes), port=port, log_level="warning")

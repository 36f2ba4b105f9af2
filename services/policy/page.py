"""The page at `/`: static files that hold no data; what they show they fetch from the routes under /v1, with the visitor's key.

It needs no other site. Its policy lets it run its own scripts and styles and reach its own endpoint, nothing else, so that a model's words
can do nothing even if they were ever taken for markup.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

FILES = Path(__file__).with_name("page")
INDEX = "index.html"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # kept by the browser, and asked about each time: a page and scripts of two releases do not mix
}


def page_routes() -> APIRouter:
    """GET `/` and `/static/<file>`, read once; they need no key."""
    router = APIRouter(include_in_schema=False)
    for file in sorted(FILES.iterdir()):
        _add_file(router, "/" if file.name == INDEX else f"/static/{file.name}", file)
    return router


def _add_file(router: APIRouter, path: str, file: Path) -> None:
    content = file.read_bytes()
    media_type = MEDIA_TYPES[file.suffix]
    headers = HEADERS | {"etag": f'"{hashlib.sha256(content).hexdigest()[:16]}"'}

    async def send(request: Request) -> Response:
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    router.add_api_route(path, send, methods=["GET", "HEAD"])

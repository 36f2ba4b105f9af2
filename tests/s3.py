"""An object store on loopback, for what must work on more than this machine's disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pyarrow.fs import FileSystem

BUCKET = "runs"


@contextmanager
def object_store() -> Iterator[str]:
    """The URL of an empty bucket, `s3://runs/{}?...`: put the key between. The environment says how to sign in."""
    from moto.server import ThreadedMotoServer

    server: Any = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as environment:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.setenv(name, "test")
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server.start()
        try:
            _, port = server.get_host_and_port()
            options = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
            FileSystem.from_uri(f"s3://{BUCKET}?{options}")[0].create_dir(BUCKET)
            yield f"s3://{BUCKET}/{{}}?{options}"
        finally:
            server.stop()

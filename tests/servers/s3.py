"""A real S3 server with real credentials on this machine: SeaweedFS, whose binary comes as a Python package."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KEY, SECRET = "mudit-test", "kept-out-of-logs"


@dataclass(frozen=True)
class S3:
    """A running server with an empty bucket."""

    endpoint: str
    bucket: str = "mudit"


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[S3]:
    """Starts the server with its files in `folder`; stops it at the end. Raises RuntimeError with its log if it does not start."""
    weed = Path(sys.executable).with_name("weed")
    folder.mkdir(parents=True)
    credentials = {"accessKey": KEY, "secretKey": SECRET}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [{"name": "test", "credentials": [credentials], "actions": actions}]}))
    ports = dict(zip(("s3", "master", "volume", "filer"), _free_ports(4), strict=True))
    log = (folder / "server.log").open("w")
    command = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.config={config}"]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    # Services that we do not use, on fixed ports that something else may have.
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += ["-master.volumeSizeLimitMB=64", "-volume.max=40"]
    server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        made = S3(f"http://127.0.0.1:{ports['s3']}")
        _make_bucket(made, server, folder / "server.log")
        yield made
    finally:
        server.kill()  # asked politely, it takes half a minute to close what nobody will read again
        server.wait()
        log.close()


def _free_ports(count: int) -> list[int]:
    """Ports that are free, and so are their neighbours 10,000 above, which SeaweedFS uses for gRPC."""
    found: list[int] = []
    for port in range(21_000, 30_000):
        if len(found) < count and _free(port) and _free(port + 10_000):
            found.append(port)
    return found


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _make_bucket(server: S3, process: subprocess.Popen[bytes], log: Path) -> None:
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        config=Config(retries={"max_attempts": 1}, connect_timeout=2, read_timeout=10),
    )
    for _ in range(120):
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(server.endpoint, timeout=2)
        except urllib.error.HTTPError:
            pass  # it answers, and wants credentials
        except OSError:
            time.sleep(0.5)
            continue
        try:
            client.create_bucket(Bucket=server.bucket)
            client.put_object(Bucket=server.bucket, Key="ready", Body=b"yes")
            client.delete_object(Bucket=server.bucket, Key="ready")
        except (BotoCoreError, ClientError):
            time.sleep(0.5)
        else:
            return
    raise RuntimeError(f"the S3 server did not start:\n{log.read_text()[-3000:]}")

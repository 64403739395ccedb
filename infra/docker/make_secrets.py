"""Makes the keys and passwords of the containers; what is there stays, so that it may run before every start.

Run as `python -m infra.docker.make_secrets`, as root, in a container without a network. Each secret is made once, in
`/secrets/setup`, which no other container has. From there each container gets a folder, which is a volume of its own,
with what it needs and nothing else, readable by its account alone.
"""

import base64
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from shared.keys import generate_key_files, write_once
from shared.settings import DEFAULT_PORTS

FOLDER = Path("/secrets")
SETUP = "setup"
# The object store's files; its image has an account of its own only in some versions.
OBJECTS_DATA = Path("/data/objects")
# User and group in each image; OURS is the one of Dockerfile.
ROOT = (0, 0)
OURS = (10001, 10001)
ACCOUNTS = {"mongo": (999, 999), "redis": (999, 1000), "objects": OURS, "grafana": (472, 0)}
# Every service but the gateway has documents.
STORING = tuple(service for service in DEFAULT_PORTS if service != "gateway")
KEY_FILES = {
    "gateway": ("internal.jwk", "internal-jwks.json", "receipts.key"),
    "auth": ("internal-jwks.json", "auth.jwk", "auth-pepper.key", "secrets.key"),
    "webhooks": ("internal-jwks.json", "secrets.key"),
}
OTHER_KEY_FILES = ("internal-jwks.json",)
BUCKET = "mymacro"
MONGO_KEY_BYTES = 756


def make(folder: Path = FOLDER) -> dict[str, dict[str, str]]:
    """Make what is missing in `folder`; the files of each container by name, as they are now."""
    made = _made(folder / SETUP)
    found = {**_engines(made), **{service: _service(service, made) for service in DEFAULT_PORTS}}
    for container, files in found.items():
        for name, text in files.items():
            (folder / container).mkdir(exist_ok=True, mode=0o700)
            write_once(folder / container / name, lambda text=text: text)
    return found


def give(folder: Path, account: tuple[int, int]) -> None:
    """Hand a folder of secrets and its files to `account`, for nobody else to read."""
    for path in (folder, *folder.iterdir()):
        os.chown(path, *account)
        path.chmod(0o700 if path.is_dir() else 0o600)


def _made(folder: Path) -> Mapping[str, str]:
    generate_key_files(folder)
    for name in ("mongo-root", "redis", "objects-id", "objects-key", "grafana", *(f"mongo-{one}" for one in STORING)):
        write_once(folder / name, lambda: secrets.token_urlsafe(32))
    write_once(folder / "mongo-set", lambda: base64.b64encode(secrets.token_bytes(MONGO_KEY_BYTES)).decode())
    return {path.name: path.read_text().strip() for path in folder.iterdir()}


def _engines(made: Mapping[str, str]) -> dict[str, dict[str, str]]:
    passwords = {f"{service}_password": made[f"mongo-{service}"] for service in STORING}
    allowed = [f"{action}:{BUCKET}" for action in ("Read", "Write", "List", "Tagging")]
    credentials = [{"accessKey": made["objects-id"], "secretKey": made["objects-key"]}]
    # Gateways ask with INFO how long Redis has been up: it does not know tickets that were used before.
    redis = f"user default on >{made['redis']} ~mymacro:* resetchannels +@all -@dangerous -@admin +info"
    return {
        "mongo": {"root_password": made["mongo-root"], "set_key": made["mongo-set"], **passwords},
        "redis": {"password": made["redis"], "users.acl": redis},
        "objects": {
            "s3.json": json.dumps({"identities": [{"name": BUCKET, "credentials": credentials, "actions": allowed}]})
        },
        "grafana": {"admin_password": made["grafana"]},
    }


def _service(service: str, made: Mapping[str, str]) -> dict[str, str]:
    """Key files, and settings that are secret under their names, as SETTINGS_DIR wants them."""
    files = {name: made[name] for name in KEY_FILES.get(service, OTHER_KEY_FILES)}
    files |= {"objects_s3_access_key_id": made["objects-id"], "objects_s3_secret_access_key": made["objects-key"]}
    if service == "gateway":
        return files | {"gateway_rates_url": f"redis://:{made['redis']}@redis:6379/0"}
    user = f"{service}:{made[f'mongo-{service}']}"
    return files | {"database_url": f"mongodb://{user}@mongo:27017/mymacro?replicaSet=rs0&authSource=admin"}


def main() -> None:
    """Make the secrets and hand each container's to its account."""
    found = make()
    give(FOLDER / SETUP, ROOT)
    for container in found:
        give(FOLDER / container, ACCOUNTS.get(container, OURS))
    os.chown(OBJECTS_DATA, *ACCOUNTS["objects"])


if __name__ == "__main__":
    main()

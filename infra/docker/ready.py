"""The health check of a service's container: exit code 0 when its /readyz answers 200, else 1.

Run as `python -m infra.docker.ready`; SERVICE says which service, its port comes from a variable such as INGEST_PORT.
"""

import http.client
import os
import sys

TIMEOUT_S = 4.0


def ready(service: str) -> bool:
    """Whether `service` answers on this machine that it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ[f"{service.upper()}_PORT"]), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if ready(os.environ["SERVICE"]) else 1)

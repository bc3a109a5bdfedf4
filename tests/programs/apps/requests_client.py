"""Files of an HTTP server by requests, one and eight at once: ``requests_client.py URL``.

The server has ``blob`` and, in ``blob.sha256``, its digest.
"""

from __future__ import annotations

import hashlib
import sys
import threading

import requests

url = sys.argv[1]
with requests.Session() as session:
    listing = session.get(url, timeout=100)
    print(f"{listing.status_code} {listing.reason}, blob listed: {'blob' in listing.text}")
    absent = session.get(f"{url}/absent", timeout=100)
    print(f"{absent.status_code} {absent.reason}")
    expected = session.get(f"{url}/blob.sha256", timeout=100).text
    with session.get(f"{url}/blob", stream=True, timeout=100) as response:
        digest = hashlib.sha256()
        for piece in response.iter_content(65536):
            digest.update(piece)
    print(f"{response.headers['content-length']} bytes, whole: {digest.hexdigest() == expected}")

digests: list[str] = []


def fetch() -> None:
    digests.append(hashlib.sha256(requests.get(f"{url}/blob", timeout=100).content).hexdigest())


threads = [threading.Thread(target=fetch) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(f"at once: {digests.count(expected)}")

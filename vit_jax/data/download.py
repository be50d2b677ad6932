"""Fetches one file of known content, in pieces where the connection breaks."""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from vit_jax.errors import UserError

_TIMEOUT = 10  # seconds without a byte
_BLOCK = 2**20


def sha256(path: Path) -> str:
  """Returns the hex digest of a file."""
  with path.open("rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()


def fetch(
  url: str,
  path: Path,
  checksum: str,
  progress: Callable[[int, int | None], None] = lambda have, total: None,
) -> Path:
  """Downloads a file, unless it is there; continues where an earlier attempt broke off.

  Args:
    url: where from.
    path: where to; `path` with ".part" holds what has come so far.
    checksum: SHA-256 of the whole, as hex digits.
    progress: called with (bytes so far, bytes in all or None).

  Returns:
    `path`.

  Raises:
    UserError: no connection (at once: there are no retries), or another content than expected.
  """
  part = path.with_name(path.name + ".part")
  if path.is_file():
    if sha256(path) == checksum:
      return path
    path.unlink()
  have = part.stat().st_size if part.is_file() else 0
  request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
  try:
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
      if response.status != 206:  # the server sends all of it
        have = 0
      path.parent.mkdir(parents=True, exist_ok=True)
      length = response.headers.get("Content-Length")
      total = have + int(length) if length else None
      with part.open("ab" if have else "wb") as f:
        while block := response.read(_BLOCK):
          f.write(block)
          have += len(block)
          progress(have, total)
      if total is not None and have < total:
        raise OSError(f"the connection broke off after {have:,} of {total:,} bytes")
  except urllib.error.HTTPError as e:
    if e.code != 416:  # 416: nothing is left to send, the part is complete
      raise UserError(
        f"{url} answers {e.code} {e.reason}: download it elsewhere and give it with --from-file"
      ) from None
  except (OSError, http.client.HTTPException) as e:
    reason = getattr(e, "reason", e)
    raise UserError(
      f"cannot download {url} ({reason}): check the connection and run the same "
      "command again, or download it elsewhere and give it with --from-file"
    ) from None
  if not part.is_file() or sha256(part) != checksum:
    part.unlink(missing_ok=True)
    raise UserError(
      f"{url} has not the expected content (SHA-256 {checksum[:16]}…): run the same "
      "command again, or give a good copy with --from-file"
    )
  return part.replace(path)

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from vit_jax.data import download
from vit_jax.errors import UserError

_CONTENT = bytes(range(256)) * 5000
_SHA = hashlib.sha256(_CONTENT).hexdigest()


class _Handler(BaseHTTPRequestHandler):
  ranges: list = []

  def do_GET(self):
    text = self.headers.get("Range")
    type(self).ranges.append(text)
    start = int(text.removeprefix("bytes=").removesuffix("-")) if text else 0
    if self.path == "/gone":
      self.send_error(404)
      return
    if start >= len(_CONTENT):
      self.send_error(416)
      return
    resume = text and self.path != "/whole"
    body = _CONTENT[start:] if resume else _CONTENT
    self.send_response(206 if resume else 200)
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    self.wfile.write(body[:100_000] if self.path == "/breaks" else body)

  def log_message(self, *args):
    pass


@pytest.fixture(scope="module")
def server():
  http = HTTPServer(("127.0.0.1", 0), _Handler)
  threading.Thread(target=http.serve_forever, daemon=True).start()
  yield f"http://127.0.0.1:{http.server_port}"
  http.shutdown()


def test_downloads_and_reports(server, tmp_path):
  seen = []
  path = download.fetch(f"{server}/a", tmp_path / "d" / "a", _SHA, lambda *x: seen.append(x))
  assert path.read_bytes() == _CONTENT
  assert seen[-1] == (len(_CONTENT), len(_CONTENT))
  _Handler.ranges.clear()
  assert download.fetch(f"{server}/a", path, _SHA) == path
  assert _Handler.ranges == []  # it is there


@pytest.mark.parametrize("route", ["a", "whole"])
def test_continues_where_it_broke_off(server, tmp_path, route):
  (tmp_path / "a.part").write_bytes(_CONTENT[:700_001])
  path = download.fetch(f"{server}/{route}", tmp_path / "a", _SHA)
  assert path.read_bytes() == _CONTENT
  assert _Handler.ranges[-1] == "bytes=700001-"
  assert not (tmp_path / "a.part").exists()


def test_a_complete_part_is_taken(server, tmp_path):
  (tmp_path / "a.part").write_bytes(_CONTENT)
  assert download.fetch(f"{server}/a", tmp_path / "a", _SHA).read_bytes() == _CONTENT


def test_another_content_is_refused_and_deleted(server, tmp_path):
  with pytest.raises(UserError, match="has not the expected content"):
    download.fetch(f"{server}/a", tmp_path / "a", "0" * 64)
  assert list(tmp_path.iterdir()) == []


def test_a_broken_connection_is_continued_by_the_next_command(server, tmp_path):
  with pytest.raises(UserError, match="run the same command again"):
    download.fetch(f"{server}/breaks", tmp_path / "a", _SHA)
  assert (tmp_path / "a.part").stat().st_size == 100_000
  assert download.fetch(f"{server}/a", tmp_path / "a", _SHA).read_bytes() == _CONTENT


def test_a_server_error_names_the_way_out(server, tmp_path):
  with pytest.raises(UserError, match="answers 404 .*--from-file"):
    download.fetch(f"{server}/gone", tmp_path / "a", _SHA)


def test_without_a_connection_it_fails_at_once(tmp_path):
  start = time.monotonic()
  with pytest.raises(UserError, match="cannot download .*--from-file") as e:
    download.fetch("http://127.0.0.1:9/x", tmp_path / "a", _SHA)
  assert time.monotonic() - start < 5
  assert "\n" not in str(e.value)

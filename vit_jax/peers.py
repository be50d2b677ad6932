"""Stops a process with one line as soon as another of its run is gone.

A step waits for all processes, so that one that is killed leaves the others waiting; JAX gives it
up when its heartbeat has been missing for 100 seconds, and ends them with a trace of C++ calls. The
operating system is faster: it closes a dead process's connections. Here every process has one to
process 0, which tells the rest, and one that ends in good order says so before. What no system can
close, because a machine has lost its power or the network fails, is left to JAX's heartbeat.
"""

import atexit
import contextlib
import logging
import os
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from typing import NoReturn

EXIT_CODE = 3
# What processes say: goodbye, or which of them is lost.
_SAID = struct.Struct(">cI")
_BYE, _LOST = b".", b"!"
# Seconds from a mistake that all processes find to the end of the last of them: each says it for
# itself. Without process 0 there is no such time, for JAX ends the others with its trace at once.
GRACE = 2.0
_PATIENCE = 60.0  # seconds that the processes have to connect
# What a process sends first: the ticket that process 0 gives to all, and its own number. The ticket
# is the port, and before it a number that nobody else knows.
_HELLO = struct.Struct(">II")
_PORT = 2**16 - 1


def _stop(index: int, others: Iterable[socket.socket]) -> NoReturn:
  """Ends this process because another is gone, and tells others which."""
  text = (
    f"error: process {index} of this run is gone (killed, out of memory or stopped by an error: "
    "see its own output); the same command on all processes continues from the last checkpoint"
  )
  for connection in others:
    with contextlib.suppress(OSError):  # it has left already
      connection.sendall(_SAID.pack(_LOST, index))
  # Past all that waits for the other processes: collectives, checkpoints, JAX's own farewell.
  os.write(2, f"\n{text}\n".encode())
  os._exit(EXIT_CODE)


def _follow(peers: dict[socket.socket, int]) -> None:
  """Reads from the connections until all have said goodbye, or one breaks."""
  while peers:
    for connection in select.select(list(peers), [], [])[0]:
      try:
        kind, lost = _SAID.unpack(connection.recv(_SAID.size, socket.MSG_WAITALL))
      except (OSError, struct.error):  # cut off
        kind = b""
      index = peers.pop(connection)
      if kind == _LOST:
        _stop(lost, [])
      if kind != _BYE:
        if index:
          time.sleep(GRACE)
        _stop(index, [c for c, i in peers.items() if i])


def _greeting(connection: socket.socket) -> bytes:
  """Returns the first bytes that come, as many as a process of the run sends."""
  connection.settimeout(_PATIENCE / 12)
  try:
    return connection.recv(_HELLO.size, socket.MSG_WAITALL)
  except OSError:
    return b""
  finally:
    connection.settimeout(_PATIENCE)


def _say_goodbye(peers: list[socket.socket]) -> None:
  for connection in peers:
    with contextlib.suppress(OSError):  # it has left already
      connection.sendall(_SAID.pack(_BYE, 0))


def watch(host: str, index: int, count: int, of_first: Callable[[int], int]) -> None:
  """Connects the processes and watches the connections from a thread; all processes must call.

  Where they cannot connect (a firewall, say), a warning says so and nothing is watched.

  Args:
    host: of process 0.
    index: of this process.
    count: of processes.
    of_first: returns what process 0 gives, to all.
  """
  peers: dict[socket.socket, int] = {}
  try:
    if index:
      ticket = of_first(0)
      connection = socket.create_connection((host, ticket & _PORT), _PATIENCE)
      connection.sendall(_HELLO.pack(ticket, index))
      peers[connection] = 0
    else:
      with socket.create_server(("", 0), backlog=count) as listener:
        listener.settimeout(_PATIENCE)
        ticket = secrets.randbits(15) << 16 | listener.getsockname()[1]
        of_first(ticket)
        while len(peers) < count - 1:
          connection, _ = listener.accept()
          said = _greeting(connection)
          if len(said) == _HELLO.size and _HELLO.unpack(said)[0] == ticket:
            peers[connection] = _HELLO.unpack(said)[1]
          else:
            connection.close()  # somebody who looks for open ports
  except OSError as e:
    _say_goodbye(list(peers))
    logging.warning("process %d does not watch the others: %s", index, e)
    return
  atexit.register(_say_goodbye, list(peers))
  threading.Thread(target=_follow, args=(peers,), name="peers", daemon=True).start()

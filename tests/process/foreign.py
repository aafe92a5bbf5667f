"""An agent or a worker in another language, from proto/cluster/v1/control.proto alone.

Its argument is a behaviour: `die` exits before it is ready, `hang` is never ready, `fail` says why
it ends, `pings` answers pings, `frozen` says that it does and does not, `panics` tells of an
exception, `talks` sends a message and takes those under the action `all`; nothing is a good process.
"""

import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import time

VERSION = 2
# Numbers of the bodies in Control.
WELCOME, TAKEN, READY, CLUSTER_READY, ENDED, PING, PONG, PANICKED = range(1, 9)
STANDBY, LEAD, RETIRE = range(10, 13)
SEND, DELIVER, DELIVERED, RECEIPT = range(13, 17)
TO_ALL = 1
TAKEN_HERE, UNHANDLED = 1, 2


def varint(number):
    encoded = bytearray()
    while True:
        number, low = number >> 7, number & 0x7F
        encoded.append(low | (0x80 if number else 0))
        if not number:
            return bytes(encoded)


def field(number, value):
    """A field: an integer, or bytes (which strings and messages are too)."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(message):
    """The fields of a message, as number and value."""
    at = 0

    def read():
        nonlocal at
        number = shift = 0
        while True:
            byte = message[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while at < len(message):
        key = read()
        value = read()
        if key & 7 == 2:
            value, at = message[at : at + value], at + value
        yield key >> 3, value


class Link:
    def __init__(self):
        # Nothing that this process starts may hold the link.
        self.socket = socket.socket(fileno=os.dup(0))
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.close(null)
        self.received = b""
        self.descriptors = []

    def send(self, number, body=b""):
        control = field(number, body)
        self.socket.sendall(struct.pack(">I", len(control)) + control)

    def receive(self):
        """The next frame, as its number and body."""
        while True:
            if len(self.received) >= 4:
                (length,) = struct.unpack(">I", self.received[:4])
                if len(self.received) >= 4 + length:
                    control = self.received[4 : 4 + length]
                    self.received = self.received[4 + length :]
                    for number, body in fields(control):
                        return number, body
            try:
                data, descriptors, _, _ = socket.recv_fds(self.socket, 65536, 32)
            except ConnectionResetError:
                data = b""
            if not data:
                # The master is gone.
                os._exit(110)
            self.received += data
            self.descriptors += descriptors


def say(name, what):
    os.write(1, f"{name} {os.getpid()} {what}\n".encode())


def main():
    behaviour = sys.argv[1] if len(sys.argv) > 1 else ""
    assert os.environ["CLUSTER_CLIENT_MASTER"] == str(os.getppid())
    assert os.environ["FOREIGN"] == behaviour
    link = Link()
    number, body = link.receive()
    assert number == WELCOME
    welcome = {"listeners": []}
    for number, value in fields(body):
        if number == 7:
            welcome["listeners"].append(value.decode())
        else:
            welcome[number] = value
    assert welcome[1] == VERSION, welcome
    assert len(welcome[6]) == 32
    if 3 in welcome:
        place = dict(fields(welcome[3]))
        name = f"worker-{place.get(1, 0)}"
        say(name, f"runs {welcome[5]} {welcome.get(4, 0)} of {place.get(2, 0)} in Python")
    else:
        name = "agent"
        say(name, f"runs {welcome[5]} {welcome.get(4, 0)} in Python")
        listener = socket.socket(fileno=link.descriptors[welcome["listeners"].index("cluster")])
        assert listener.getsockname() == ("127.0.0.1", welcome[5])
    link.send(TAKEN, field(1, VERSION) + field(2, int(behaviour in ("pings", "frozen")))
              + field(3, int(behaviour == "talks")))

    if behaviour == "die":
        sys.exit("a line of Python before its end")
    if behaviour == "fail":
        link.send(ENDED, field(3, b"no upstream for Python"))
        sys.exit(1)

    def stop(*_):
        say(name, "shuts down")
        link.send(ENDED, field(1, b""))
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    if behaviour == "hang":
        while True:
            time.sleep(1000)
    if name != "agent" and behaviour == "":
        greet(welcome)
        say(name, "has seen the agent")
    if "http" in welcome["listeners"]:
        listener = socket.socket(fileno=link.descriptors[welcome["listeners"].index("http")])
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
    if name == "agent" and not welcome.get(8):
        # Another agent lives, and this one may neither accept nor connect.
        say(name, "stands by")
        link.send(STANDBY)
        while link.receive()[0] != LEAD:
            pass
    link.send(READY)
    say(name, "ready")
    while True:
        number, body = link.receive()
        if number == RETIRE:
            # Nothing was accepted, and so there is nothing to hand over.
            stop()
        if number == CLUSTER_READY:
            say(name, "cluster-ready")
        if number == CLUSTER_READY and behaviour == "talks":
            text = json.dumps(7).encode()
            link.send(SEND, field(1, 1) + field(2, TO_ALL) + field(4, b"all") + field(5, text))
        if number == DELIVER:
            message = dict(fields(body))
            sender = dict(fields(message[2]))
            action, data = message[3].decode(), json.loads(message[4])
            say(name, f"heard {action} {data} from role {sender[1]} {sender[3]}")
            outcome = TAKEN_HERE if action == "all" else UNHANDLED
            link.send(DELIVERED, field(1, message[1]) + field(2, outcome))
        if number == RECEIPT:
            receipt = dict(fields(body))
            say(name, f"has receipt {receipt[1]} {receipt.get(3, 0)} {receipt.get(4, 0)}")
        if number == CLUSTER_READY and behaviour == "panics":
            link.send(PANICKED, field(1, 1) + field(2, b"an exception of Python"))
        if number == PING and behaviour == "pings":
            seq = dict(fields(body))[1]
            link.send(PONG, field(1, seq) + field(2, 1))
            if seq == 3:
                say(name, "answered three pings")


def serve(listener):
    """Answers each connection with the pid of this process."""
    while True:
        # It does not block, and another process may be faster.
        select.select([listener], [], [])
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            continue
        with connection:
            connection.sendall(str(os.getpid()).encode())


def greet(welcome):
    """The first word of the Local Server on the cluster port: its version and a nonce."""
    with socket.create_connection(("127.0.0.1", welcome[5]), timeout=30) as server:
        head = b""
        while len(head) < 4:
            head += server.recv(4 - len(head))
        (length,) = struct.unpack(">I", head)
        hello = b""
        while len(hello) < length:
            hello += server.recv(length - len(hello))
        assert any(number != 1 for number, _ in fields(hello)), hello


main()

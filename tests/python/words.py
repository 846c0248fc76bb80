"""Sends notifications that are for no operation, as any NIXL agent can.

    words.py TARGET COUNT BYTES NAME...

TARGET is the target agent's metadata in hexadecimal, without compression. An agent of each NAME, in which `%00` is a zero byte, sends
COUNT notifications of BYTES bytes, in turns. Prints "ready" once all have met the target, begins when a line comes on stdin, and
prints "sent" at the end. Stays until stdin ends.
"""

import os
import sys

# NIXL and UCX may print on stdout too.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import nixl._bindings as nixl


def agent(name, target):
    config = nixl.nixlAgentConfig()
    config.useProgThread = True
    agent = nixl.nixlAgent(name, config)
    parameters, _ = agent.getPluginParams("UCX")
    agent.createBackend("UCX", parameters)
    peer = agent.loadRemoteMD(target)
    peer = peer.decode() if isinstance(peer, bytes) else peer
    agent.makeConnection(peer, [])
    return agent, peer


def answer(word):
    print(word, file=answers, flush=True)


target, count, size = bytes.fromhex(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
agents = [agent(name.replace("%00", "\0"), target) for name in sys.argv[4:]]
answer("ready")
sys.stdin.readline()
payload = b"x" * size
for _ in range(count):
    for sender, peer in agents:
        sender.genNotif(peer, payload)
answer("sent")
sys.stdin.read()

"""The tiny Flower app that `flower_stock` submits to stock Flower daemons: one message to all sites and back, timed."""

PYPROJECT = """\
project = {name = "roundtrip", version = "1.0.0", dependencies = []}
[tool.flwr.app]
publisher = "benchmark"
components = {serverapp = "server_app:app", clientapp = "client_app:app"}
[tool.flwr.app.config]
"""

CLIENT_APP = """\
import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict, Message
from flwr.clientapp import ClientApp

app = ClientApp()

@app.query()
def query(message, context):
    # Every byte differs from what came in and from what the other sites send, so that Flower's
    # content-addressed object store can not skip a transfer.
    reply = message.content["payload"]["bytes"].numpy() + np.uint8(1 + context.node_config["partition-id"])
    return Message(RecordDict({"payload": ArrayRecord({"bytes": Array(reply)})}), reply_to=message)
"""

SERVER_APP = """\
import json, os, time
import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict, Message
from flwr.serverapp import ServerApp

app = ServerApp()

def exchange(grid, nodes, size, deadline):
    sent = np.frombuffer(np.random.default_rng().bytes(size), dtype=np.uint8)
    content = RecordDict({"payload": ArrayRecord({"bytes": Array(sent)})})
    messages = [Message(content, dst_node_id=node, message_type="query") for node in nodes]
    start = time.perf_counter()
    replies = list(grid.send_and_receive(messages, timeout=deadline - time.time()))
    elapsed = time.perf_counter() - start
    assert len(replies) == len(nodes), f"{len(replies)} of {len(nodes)} replies arrived in time"
    errors = [reply.error.reason for reply in replies if reply.has_error()]
    assert not errors, f"error replies: {errors}"
    offsets = [np.unique(reply.content["payload"]["bytes"].numpy() - sent).tolist() for reply in replies]
    assert sorted(offsets) == [[1 + site] for site in range(len(nodes))], "wrong payload in a reply"
    return elapsed

def measure(grid, config):
    while len(nodes := list(grid.get_node_ids())) < config["sites"]:
        assert time.time() < config["deadline"], f"only {len(nodes)} of {config['sites']} SuperNodes connected"
        time.sleep(0.2)
    exchange(grid, nodes, config["small-bytes"], config["deadline"])  # warm-up: SuperNodes fetch the app
    return {name: [exchange(grid, nodes, config[name + "-bytes"], config["deadline"])
                   for _ in range(config[name + "-repetitions"])] for name in ("small", "large")}

@app.main()
def main(grid, context):
    path = context.run_config["result-path"]
    try:
        result = measure(grid, context.run_config)
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump(result, file)
    os.replace(path + ".part", path)  # the waiting process never sees half a file
"""

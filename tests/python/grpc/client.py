"""A gRPC client of the agent, of code that grpcio-tools makes of proto files when it runs.

client.py ADDRESS PROTO_FOLDER ACTION [ARGUMENT...]: prints one JSON object a line; exits 1 with the status where a call is refused.
With CERTIFICATES set in the environment (a folder with ca.pem, client.pem, client.key) the connection is encrypted.
"""

import json
import os
import sys
import tempfile
import threading

import grpc
from google.protobuf import json_format
from grpc_tools import protoc


def generate(folder):
    """Compiles every proto file below a folder into a temporary one, and makes it importable."""
    out = tempfile.mkdtemp(prefix="saker-grpc-")
    files = []
    for path, _, names in os.walk(folder):
        files += [os.path.join(path, name) for name in names if name.endswith(".proto")]
    google = os.path.join(os.path.dirname(protoc.__file__), "_proto")
    arguments = ["protoc", f"-I{folder}", f"-I{google}", f"--python_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(arguments + files) != 0:
        sys.exit("the proto files do not compile")
    sys.path.insert(0, out)


def channel(address):
    folder = os.environ.get("CERTIFICATES")
    if folder is None:
        # gRPC's C core names the socket's path, percent-encoded, as the host it speaks to, which is no host: docs/grpc.md.
        options = [("grpc.default_authority", "localhost")] if address.startswith("unix:") else []
        return grpc.insecure_channel(address, options)
    read = lambda name: open(os.path.join(folder, name), "rb").read() if os.path.exists(os.path.join(folder, name)) else None
    credentials = grpc.ssl_channel_credentials(read("ca.pem"), read("client.key"), read("client.pem"))
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", "localhost")])


def show(message):
    print(json.dumps(json_format.MessageToDict(message, preserving_proto_field_name=True)), flush=True)


def take(stream, count):
    for message in stream:
        show(message)
        count -= 1
        if count == 0:
            stream.cancel()
            return


def saker(address, action, arguments):
    from saker.v1 import agent_pb2 as pb, agent_pb2_grpc

    stub = agent_pb2_grpc.AgentServiceStub(channel(address))
    if action == "status":
        show(stub.GetStatus(pb.GetStatusRequest()))
    elif action == "rules":
        token = ""
        while True:
            page = stub.ListRules(pb.ListRulesRequest(page_size=int(arguments[0]), page_token=token))
            show(page)
            token = page.next_page_token
            if not token:
                break
    elif action == "reload":
        show(stub.ReloadRules(pb.ReloadRulesRequest()))
    elif action == "alerts":
        request = json_format.ParseDict(json.loads(arguments[0]), pb.WatchAlertsRequest())
        take(stub.WatchAlerts(request), int(arguments[1]))
    elif action == "events":
        request = json_format.ParseDict(json.loads(arguments[0]), pb.WatchEventsRequest())
        take(stub.WatchEvents(request), int(arguments[1]))
    elif action == "oversized":
        filter = pb.AlertFilter(rules=["x" * (8 << 20)])
        take(stub.WatchAlerts(pb.WatchAlertsRequest(filter=filter)), 1)
    elif action == "malformed":
        raw = channel(address).unary_unary("/saker.v1.AgentService/ListRules")
        raw(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
    elif action == "unknown":
        channel(address).unary_unary("/saker.v1.AgentService/Nothing")(b"")
    elif action == "stuck":
        # Takes the first message of each stream and then nothing, without letting go, until stdin ends.
        streams = [stub.WatchEvents(pb.WatchEventsRequest()) for _ in range(int(arguments[0]))]
        for stream in streams:
            show(next(stream))
        sys.stdin.read()
        # What each stream ends with, if it has ended.
        for stream in streams:
            try:
                for _ in stream:
                    pass
            except grpc.RpcError as error:
                print(json.dumps({"code": error.code().name}), flush=True)
    elif action == "health":
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        health = health_pb2_grpc.HealthStub(channel(address))
        show(health.Check(health_pb2.HealthCheckRequest(service=arguments[0])))
    elif action == "reflection":
        from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

        database = ProtoReflectionDescriptorDatabase(channel(address))
        found = database.FindFileContainingSymbol("saker.v1.AgentService")
        print(json.dumps({"services": sorted(database.get_services()), "file": found.name}))
    else:
        sys.exit(f"no action {action}")


def falco(address, action, arguments):
    import outputs_pb2
    import outputs_pb2_grpc
    import version_pb2
    import version_pb2_grpc

    if action == "version":
        show(version_pb2_grpc.serviceStub(channel(address)).version(version_pb2.request()))
        return
    stub = outputs_pb2_grpc.serviceStub(channel(address))
    if action == "get":
        for message in stub.get(outputs_pb2.request()):
            show(message)
    elif action == "sub":
        done = threading.Event()

        def requests():
            yield outputs_pb2.request()
            done.wait()

        stream = stub.sub(requests())
        # The answer's head says that the subscription is there.
        stream.initial_metadata()
        print(json.dumps({"subscribed": True}), flush=True)
        take(stream, int(arguments[0]))
        done.set()
    else:
        sys.exit(f"no action {action}")


def main():
    address, folder, action, *arguments = sys.argv[1:]
    generate(folder)
    try:
        if os.path.exists(os.path.join(folder, "outputs.proto")):
            falco(address, action, arguments)
        else:
            saker(address, action, arguments)
    except grpc.RpcError as error:
        print(json.dumps({"code": error.code().name, "details": error.details()}), flush=True)
        sys.exit(1)


main()

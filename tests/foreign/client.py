"""A client that knows nothing of Kapok but its .proto files.

usage: client.py PROTO_FOLDER STUBS_FOLDER HOST:PORT CREDENTIAL_FILE
"""

import pathlib
import re
import sys
import time

import grpc
import grpc_tools
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_tools import protoc

PROTO, STUBS, ADDRESS = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
CREDENTIAL = pathlib.Path(sys.argv[4]).read_text(encoding="ascii")
DEADLINE = 30  # seconds, for each call


def make_stubs():
    """Makes the stubs, as any user would."""
    STUBS.mkdir()
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    files = sorted(str(file.relative_to(PROTO)) for file in PROTO.glob("kapok/*/v1/*.proto"))
    arguments = ["protoc", f"-I{PROTO}", f"-I{well_known}"]
    arguments += [f"--python_out={STUBS}", f"--grpc_python_out={STUBS}"]
    assert protoc.main(arguments + files) == 0, "no stubs"
    sys.path.insert(0, str(STUBS))
    print(f"made stubs from {len(files)} files")


make_stubs()

# pylint: disable=wrong-import-position
from kapok.common.v1 import instance_pb2 as common
from kapok.fabric.v1 import event_pb2, event_pb2_grpc
from kapok.fabric.v1 import image_pb2, image_pb2_grpc
from kapok.fabric.v1 import instance_pb2, instance_pb2_grpc
from kapok.fabric.v1 import node_pb2, node_pb2_grpc
from kapok.fabric.v1 import operation_pb2, operation_pb2_grpc


def blocks(kind):
    """The PEM blocks of a kind in the credential."""
    marks = f"-----BEGIN {kind}-----.*?-----END {kind}-----\\n"
    return [block.encode() for block in re.findall(marks, CREDENTIAL, re.DOTALL)]


def connect():
    """With the system administrator's certificate; gives what a client without one gets, too."""
    fabric = re.search("^# fabric: (.*)$", CREDENTIAL, re.MULTILINE).group(1)
    name = (("grpc.ssl_target_name_override", f"controller.{fabric}.kapok.internal"),)
    key, certificates = blocks("PRIVATE KEY")[0], blocks("CERTIFICATE")
    root = certificates[-1]
    with_one = grpc.ssl_channel_credentials(root, key, certificates[0])
    without = grpc.ssl_channel_credentials(root)
    return (grpc.secure_channel(ADDRESS, with_one, options=name),
            grpc.secure_channel(ADDRESS, without, options=name))


def refused(call, message, code):
    """A call that must be refused; gives the error."""
    try:
        call(message, timeout=DEADLINE)
    except grpc.RpcError as error:
        assert error.code() == code, error
        return error
    raise AssertionError(f"{message} was accepted")


def reflect(channel):
    """The server describes itself: the same services as the files."""
    reflection = ProtoReflectionDescriptorDatabase(channel)
    services = set(reflection.get_services())
    wanted = {f"kapok.fabric.v1.{kind}Service" for kind in
              ("Node", "Instance", "Image", "Operation", "Event", "Tenant", "User", "Token",
               "Certificate", "Auth", "Audit")}
    assert "kapok.fabric.v1.EnrollService" not in services, "joining has a port of its own"
    assert wanted <= services, services
    assert "grpc.health.v1.Health" in services, services
    service = DescriptorPool(reflection).FindServiceByName("kapok.fabric.v1.InstanceService")
    assert "CreateInstance" in [method.name for method in service.methods]
    print(f"reflection shows {len(services)} services")


def wait_for_nodes(nodes, count):
    """The nodes come up by themselves."""
    end = time.monotonic() + 60
    while True:
        answer = nodes.ListNodes(node_pb2.ListNodesRequest(), timeout=DEADLINE).nodes
        ready = [node for node in answer if node.state == node_pb2.NODE_STATE_READY]
        if len(ready) >= count:
            print(f"{len(ready)} nodes are ready")
            return
        assert time.monotonic() < end, answer
        time.sleep(0.2)


def import_image(images):
    """A raw image of 4 MiB, in pieces."""
    size, piece = 4 << 20, 256 << 10

    def parts():
        yield image_pb2.ImportImageRequest(header=image_pb2.ImportImageHeader(
            name="blank", format=common.DISK_FORMAT_RAW, size_bytes=size,
            arch=common.ARCH_X86_64))
        for _ in range(size // piece):
            yield image_pb2.ImportImageRequest(data=bytes(piece))

    image = images.ImportImage(parts(), timeout=DEADLINE)
    assert image.size_bytes == size and image.digest.startswith("sha256:"), image
    print(f"imported {image.digest}")


def watch(operations, operation):
    """Follows an operation to its end."""
    states = []
    request = operation_pb2.WatchOperationRequest(operation=operation.id)
    for operation in operations.WatchOperation(request, timeout=DEADLINE):
        states.append(operation_pb2.OperationState.Name(operation.state))
    assert operation.state == operation_pb2.OPERATION_STATE_SUCCEEDED, operation
    print(f"{operation.instance_name}: {' -> '.join(states)}")


def main():
    """Creates, watches and deletes."""
    channel, stranger = connect()
    for nobody in (stranger, grpc.insecure_channel(ADDRESS)):
        refused(node_pb2_grpc.NodeServiceStub(nobody).ListNodes, node_pb2.ListNodesRequest(),
                grpc.StatusCode.UNAVAILABLE)
    print("without a certificate nothing is answered")
    reflect(channel)
    nodes = node_pb2_grpc.NodeServiceStub(channel)
    instances = instance_pb2_grpc.InstanceServiceStub(channel)
    operations = operation_pb2_grpc.OperationServiceStub(channel)
    events = event_pb2_grpc.EventServiceStub(channel)
    wait_for_nodes(nodes, 4)
    import_image(image_pb2_grpc.ImageServiceStub(channel))

    wanted = instance_pb2.CreateInstanceRequest(
        name="from-python", image="blank", vcpus=1, memory_mib=256,
        run_policy=common.RUN_POLICY_RESTART_ON_CRASH, request_id="python-1")
    operation = instances.CreateInstance(wanted, timeout=DEADLINE)
    again = instances.CreateInstance(wanted, timeout=DEADLINE)
    assert operation.id == again.id, "one request id, one effect"
    watch(operations, operation)
    name = instance_pb2.GetInstanceRequest(instance="from-python")
    instance = instances.GetInstance(name, timeout=DEADLINE)
    assert instance.phase == common.PHASE_RUNNING, instance

    for field, value in (("name", "x</name>"), ("vcpus", 0), ("memory_mib", 1 << 63)):
        bad = instance_pb2.CreateInstanceRequest()
        bad.CopyFrom(wanted)
        bad.name, bad.request_id = "bad", ""
        setattr(bad, field, value)
        error = refused(instances.CreateInstance, bad, grpc.StatusCode.INVALID_ARGUMENT)
        assert field in error.details(), error
    huge = instance_pb2.CreateInstanceRequest(
        name="huge", image="blank", vcpus=1, memory_mib=1 << 20,
        run_policy=common.RUN_POLICY_RESTART_ON_CRASH)
    error = refused(instances.CreateInstance, huge, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert "sim-1" in error.details(), error

    delete = instance_pb2.DeleteInstanceRequest(instance="from-python", etag=instance.etag)
    watch(operations, instances.DeleteInstance(delete, timeout=DEADLINE))
    refused(instances.GetInstance, name, grpc.StatusCode.NOT_FOUND)

    request = event_pb2.WatchEventsRequest(after_sequence=0, until_now=True)
    kinds = [event.kind for answer in events.WatchEvents(request, timeout=DEADLINE)
             for event in answer.events]
    for kind in ("instance.created", "incarnation.placed", "instance.removed"):
        assert kind in kinds, kinds
    print(f"read {len(kinds)} events")
    print("all done")


main()

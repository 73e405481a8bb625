"""The Python client against the API server that KUBECONFIG names: each function is one check."""

import json
import sys
import threading
import time

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.informer import SharedInformer

NAMESPACE = "default"
PATIENCE = 30


def config_map(name, **data):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name), data=data)


def refused(call, code, reason):
    """Runs a call that the server must refuse; returns the message of the Status."""
    try:
        call()
    except ApiException as error:
        status = json.loads(error.body)
        assert (error.status, status["reason"]) == (code, reason), error.body
        return status["message"]
    raise AssertionError("it was not refused")


def create_read_replace(core):
    made = core.create_namespaced_config_map(NAMESPACE, config_map("one", a="b"))
    assert made.metadata.uid and made.metadata.creation_timestamp.tzinfo
    read = core.read_namespaced_config_map("one", NAMESPACE)
    assert read.data == {"a": "b"} and read.metadata.uid == made.metadata.uid
    read.data["c"] = "d"
    core.replace_namespaced_config_map("one", NAMESPACE, read)
    message = refused(
        lambda: core.replace_namespaced_config_map("one", NAMESPACE, read), 409, "Conflict"
    )
    assert "the object has been modified" in message, message


def patches_of_three_types(core):
    service = client.V1Service(
        metadata=client.V1ObjectMeta(name="web"),
        spec=client.V1ServiceSpec(
            ports=[
                client.V1ServicePort(name="dns", port=53, protocol="UDP"),
                client.V1ServicePort(name="dns-tcp", port=53, protocol="TCP"),
            ]
        ),
    )
    core.create_namespaced_service(NAMESPACE, service)

    def patch(content_type, body):
        return core.patch_namespaced_service(
            "web", NAMESPACE, body, _content_type=f"application/{content_type}+json"
        )

    strategic = {"spec": {"ports": [{"port": 53, "protocol": "TCP", "targetPort": 5353}]}}
    ports = patch("strategic-merge-patch", strategic).spec.ports
    assert {p.name: p.target_port for p in ports} == {"dns": 53, "dns-tcp": 5353}, ports
    merged = patch("merge-patch", {"metadata": {"labels": {"a": "b"}}})
    assert merged.metadata.labels == {"a": "b"}
    operations = [{"op": "replace", "path": "/metadata/labels/a", "value": "c"}]
    assert patch("json-patch", operations).metadata.labels == {"a": "c"}
    failing = [{"op": "test", "path": "/metadata/labels/a", "value": "x"}]
    refused(lambda: patch("json-patch", failing), 422, "Invalid")


def server_side_validation(core):
    # The typed client checks bodies itself; the dynamic one sends what it is given.
    maps = dynamic.DynamicClient(core.api_client).resources.get(api_version="v1", kind="ConfigMap")
    body = {"metadata": {"name": "strict"}, "data": {"a": "b"}, "dta": {}}
    strict = [("fieldValidation", "Strict")]
    create = lambda: maps.create(body=body, namespace=NAMESPACE, query_params=strict)
    message = refused(create, 400, "BadRequest")
    assert message.endswith('strict decoding error: unknown field "dta"'), message


def dry_run_keeps_nothing(core):
    core.create_namespaced_config_map(NAMESPACE, config_map("dry"), dry_run="All")
    refused(lambda: core.read_namespaced_config_map("dry", NAMESPACE), 404, "NotFound")


def pagination(core):
    for i in range(11):
        core.create_namespaced_config_map(NAMESPACE, config_map(f"page-{i:02}"))
    names, token, versions, sizes = [], None, set(), []
    while True:
        page = core.list_namespaced_config_map(NAMESPACE, limit=4, _continue=token)
        names += [m.metadata.name for m in page.items if m.metadata.name.startswith("page-")]
        versions.add(page.metadata.resource_version)
        sizes.append(len(page.items))
        token = page.metadata._continue
        if not token:
            break
    assert names == [f"page-{i:02}" for i in range(11)], names
    assert len(versions) == 1 and max(sizes) == 4, (versions, sizes)


def selectors(core):
    labelled = config_map("labelled")
    labelled.metadata.labels = {"tier": "front"}
    core.create_namespaced_config_map(NAMESPACE, labelled)
    found = core.list_namespaced_config_map(NAMESPACE, label_selector="tier in (front, back)")
    assert [m.metadata.name for m in found.items] == ["labelled"]
    found = core.list_namespaced_config_map(NAMESPACE, field_selector="metadata.name=page-03")
    assert [m.metadata.name for m in found.items] == ["page-03"]


def watches_see_every_change(core):
    version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version

    def change():
        core.create_namespaced_config_map(NAMESPACE, config_map("watched", n="0"))
        core.patch_namespaced_config_map("watched", NAMESPACE, {"data": {"n": "1"}})
        core.delete_namespaced_config_map("watched", NAMESPACE)

    changing = threading.Thread(target=change)
    changing.start()
    seen = []
    watching = watch.Watch()
    for event in watching.stream(
        core.list_namespaced_config_map,
        NAMESPACE,
        resource_version=version,
        timeout_seconds=PATIENCE,
    ):
        if event["object"].metadata.name == "watched":
            seen.append((event["type"], event["object"].data["n"]))
        if event["type"] == "DELETED":
            watching.stop()
    changing.join()
    assert seen == [("ADDED", "0"), ("MODIFIED", "1"), ("DELETED", "1")], seen


def watches_end_at_their_timeout(core):
    events = watch.Watch().stream(core.list_namespaced_config_map, NAMESPACE, timeout_seconds=1)
    assert sum(1 for _ in events) >= 12


def an_informer_stays_equal_to_the_server(core):
    """List, watch from there, apply to a cache; several short watches, as informers do."""
    listed = core.list_namespaced_config_map(NAMESPACE)
    cache = {m.metadata.name: m.metadata.resource_version for m in listed.items}
    version = listed.metadata.resource_version

    def follow():
        nonlocal version
        for event in watch.Watch().stream(
            core.list_namespaced_config_map,
            NAMESPACE,
            resource_version=version,
            timeout_seconds=1,
            allow_watch_bookmarks=True,
        ):
            metadata = event["raw_object"]["metadata"]
            version = metadata["resourceVersion"]
            if event["type"] == "DELETED":
                cache.pop(metadata["name"])
            elif event["type"] in ("ADDED", "MODIFIED"):
                cache[metadata["name"]] = version

    def is_equal():
        follow()
        now = core.list_namespaced_config_map(NAMESPACE)
        return cache == {m.metadata.name: m.metadata.resource_version for m in now.items}

    for round_ in range(3):
        core.create_namespaced_config_map(NAMESPACE, config_map(f"cached-{round_}"))
        core.patch_namespaced_config_map("page-00", NAMESPACE, {"data": {"r": str(round_)}})
        core.delete_namespaced_config_map(f"page-{round_ + 1:02}", NAMESPACE)
        follow()
    # On a busy machine the last watch may have ended before its last event.
    until(is_equal)


def the_librarys_informer_follows(core):
    informer = SharedInformer(core.list_namespaced_config_map, namespace=NAMESPACE)
    informer.start()
    try:
        follows = lambda keys: until(lambda: keys <= set(informer.cache.list_keys()))
        follows({f"{NAMESPACE}/one", f"{NAMESPACE}/labelled"})
        core.create_namespaced_config_map(NAMESPACE, config_map("informed"))
        follows({f"{NAMESPACE}/informed"})
        core.delete_namespaced_config_map("informed", NAMESPACE)
        until(lambda: f"{NAMESPACE}/informed" not in informer.cache.list_keys())
    finally:
        informer.stop()


def until(condition):
    """Polls with a bound."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def the_dynamic_client_discovers_kinds(core):
    found = dynamic.DynamicClient(core.api_client)
    deployments = found.resources.get(api_version="apps/v1", kind="Deployment")
    body = {
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "nginx"}]},
            },
        },
    }
    deployments.create(body=body, namespace=NAMESPACE)
    scale = client.AppsV1Api(core.api_client).patch_namespaced_deployment_scale(
        "web", NAMESPACE, {"spec": {"replicas": 2}}
    )
    assert scale.spec.replicas == 2
    assert deployments.get(name="web", namespace=NAMESPACE).spec.replicas == 2


def errors_are_statuses(core):
    message = refused(lambda: core.read_namespaced_service("none", NAMESPACE), 404, "NotFound")
    assert message == 'services "none" not found', message
    invalid = {"metadata": {"name": "x"}, "spec": {"ports": [{"port": 70000}]}}
    refused(lambda: core.create_namespaced_service(NAMESPACE, invalid), 422, "Invalid")
    future = lambda: core.list_namespaced_config_map(NAMESPACE, resource_version="999999")
    refused(future, 504, "Timeout")


def delete_one_and_all(core):
    status = core.delete_namespaced_config_map("one", NAMESPACE)
    assert status["status"] == "Success", status
    refused(lambda: core.delete_namespaced_config_map("one", NAMESPACE), 404, "NotFound")
    core.delete_collection_namespaced_config_map(NAMESPACE)
    assert core.list_namespaced_config_map(NAMESPACE).items == []


CHECKS = [
    create_read_replace,
    patches_of_three_types,
    server_side_validation,
    dry_run_keeps_nothing,
    pagination,
    selectors,
    watches_see_every_change,
    watches_end_at_their_timeout,
    an_informer_stays_equal_to_the_server,
    the_librarys_informer_follows,
    the_dynamic_client_discovers_kinds,
    errors_are_statuses,
    delete_one_and_all,
]


def main():
    config.load_kube_config()
    core = client.CoreV1Api()
    for check in CHECKS:
        print(check.__name__, flush=True)
        check(core)
    print(f"{len(CHECKS)} checks passed")


if __name__ == "__main__":
    sys.exit(main())

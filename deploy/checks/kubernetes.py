"""The Helm chart and the kustomizations: linted, rendered with each choice, held against Kubernetes' own schemas.

usage: kubernetes.py KUBECTL [SCHEMA]

SCHEMA is what `backstop config schema` prints: rendered configurations are held against it. No cluster is asked.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import helm_python
import kubernetes_validate
import yaml

from configuration import faults_in

DEPLOY = Path(__file__).resolve().parent.parent
DOCS = DEPLOY.parent / "docs"
CHART = DEPLOY / "helm" / "backstop"
KUBERNETES = ["1.28", "1.31", "1.34", "1.37"]

# What the chart must refuse, and the word its message must have.
REFUSED = [
    ({"clientAddress": {"mode": "proxy"}}, "trusted"),
    ({"clientAddress": {"mode": "elsewhere"}}, "clientAddress"),
    ({"smtps": {"enabled": True}}, "certificate"),
    ({"tls": {"required": True}}, "certificate"),
    ({"tls": {"certManager": {"enabled": True}}}, "issuerRef"),
    ({"sharedCache": {"mode": "external"}}, "urlSecret"),
    ({"clientAddress": {"mode": "hostNetwork"}}, "admin.tokenSecret"),
    (
        {
            "clientAddress": {"mode": "hostNetwork"},
            "autoscaling": {"enabled": True},
            "admin": {"tokenSecret": {"name": "backstop-admin"}},
        },
        "autoscaling",
    ),
    (
        {
            "clientAddress": {"mode": "hostNetwork"},
            "sharedCache": {"mode": "bundled"},
            "admin": {"tokenSecret": {"name": "backstop-admin"}},
        },
        "bundled",
    ),
    (
        {
            "clientAddress": {"mode": "hostNetwork"},
            "networkPolicy": {"enabled": True},
            "admin": {"tokenSecret": {"name": "backstop-admin"}},
        },
        "firewall",
    ),
    ({"admin": {"bind": "hostIP"}}, "hostNetwork"),
    ({"config": "[log]\nformat = \"json\"\n"}, "[[route]]"),
    ({"config": "[[listener]]\nname = \"mine\"\n[[route]]\n"}, "written by the chart"),
    ({"sharedCache": {"mode": "external", "url": "memcached://cache:11211"}}, "url"),
    ({"replicas": 3}, "replicas"),
    ({"service": {"port": 70000}}, "port"),
    ({"image": {"digest": "latest"}}, "digest"),
]

# Kinds that are not Kubernetes' own: the keys of `spec` their definitions know, those that must be there first.
FOREIGN = {
    "ServiceMonitor": ({"selector", "endpoints"}, {"namespaceSelector"}),
    "PrometheusRule": ({"groups"}, set()),
    "Certificate": ({"secretName", "issuerRef", "dnsNames"}, {"privateKey", "duration", "renewBefore"}),
    "TCPRoute": ({"parentRefs", "rules"}, set()),
}

faults = []


def fault(where, what):
    faults.append(f"{where}: {what}")


def check_object(where, item, schema):
    kind = item.get("kind", "?")
    where = f"{where}: {kind} {item.get('metadata', {}).get('name', '?')}"
    if kind in FOREIGN:
        needed, allowed = FOREIGN[kind]
        keys = set(item["spec"])
        if needed - keys or keys - needed - allowed:
            fault(where, f"spec lacks {needed - keys}, does not know {keys - needed - allowed}")
    else:
        for version in KUBERNETES:
            try:
                kubernetes_validate.validate(item, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                fault(where, f"Kubernetes {version}: {error}")
    if kind == "PrometheusRule" and len(item["spec"]["groups"]) < 2:
        fault(where, "has no alerts or no recording rules")
    if kind == "ServiceMonitor" and not all(
        {"targetLabel": "job", "replacement": "backstop"} in endpoint.get("relabelings", [])
        for endpoint in item["spec"]["endpoints"]
    ):
        fault(where, "its job is not the one that the alerts look for")
    if "subPath" in json.dumps(item):
        fault(where, "subPath: what is mounted so is never read again")
    for key, text in item.get("data", {}).items() if kind == "ConfigMap" else []:
        if key.endswith(".toml"):
            for found in faults_in(text, schema):
                fault(f"{where}: {key}", found)
    template = item.get("spec", {}).get("template")
    if template and kind in ("Deployment", "DaemonSet"):
        check_pod(where, item, template)


def check_pod(where, item, template):
    """What the schemas do not hold: names that must meet."""
    labels, pod = template["metadata"]["labels"], template["spec"]
    if not item["spec"]["selector"]["matchLabels"].items() <= labels.items():
        fault(where, "its selector does not choose its own pods")
    if pod.get("automountServiceAccountToken") is not False or pod.get("enableServiceLinks") is not False:
        fault(where, "a token or service links are put into the pod")
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    for container in pod["containers"]:
        ports = {port["name"] for port in container.get("ports", [])}
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container.get(name, {})
            asked = (probe.get("httpGet") or probe.get("tcpSocket") or {}).get("port")
            if asked is not None and asked not in ports:
                fault(where, f"{name} asks the port {asked}, which is not there")
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                fault(where, f"mounts {mount['name']}, which is no volume")
        security = container.get("securityContext", {})
        if security.get("capabilities", {}).get("drop") != ["ALL"] or not security.get("readOnlyRootFilesystem"):
            fault(where, f"{container['name']} may do more than it needs")


def check_way_to_cache(where, values, items):
    """Where a policy says what goes out, the shared cache, and its sentinels, are let."""
    cache = values.get("sharedCache", {})
    for item in items:
        if item["kind"] == "NetworkPolicy" and cache.get("mode") == "external" and "egress" in item["spec"]:
            let = {port["port"] for rule in item["spec"]["egress"] for port in rule["ports"]}
            named = {int(port) for port in re.findall(r":(\d+)", cache.get("url", ""))}
            wanted = named | set(cache.get("ports", [6379, 6380, 26379]))
            if wanted - let:
                fault(where, f"the policy does not let out to {wanted - let}")


def check_set(where, items, schema):
    """All objects of one rendering."""
    pods = [
        item["spec"]["template"]["metadata"]["labels"]
        for item in items
        if item["kind"] in ("Deployment", "DaemonSet")
    ]
    on_nodes = [
        item["spec"]["template"]["metadata"]["labels"]
        for item in items
        if item["kind"] in ("Deployment", "DaemonSet") and item["spec"]["template"]["spec"].get("hostNetwork")
    ]
    for item in items:
        check_object(where, item, schema)
        if item["kind"] == "NetworkPolicy":
            named = [item["spec"]["podSelector"]["matchLabels"]]
            named += [
                peer["podSelector"]["matchLabels"]
                for rule in item["spec"].get("ingress", [])
                for peer in rule.get("from", [])
                if "podSelector" in peer
            ]
            if any(labels.items() <= on_node.items() for labels in named for on_node in on_nodes):
                fault(where, f"the NetworkPolicy {item['metadata']['name']} chooses pods on a node's own network")
        selector = item.get("spec", {}).get("selector", {})
        if item["kind"] == "Service" and not any(selector.items() <= labels.items() for labels in pods):
            fault(where, f"the Service {item['metadata']['name']} leads to no pod")
    print(f"{where}: {', '.join(sorted(item['kind'] for item in items))}")


def documents(text):
    return [item for item in yaml.safe_load_all(text) if item]


def check_installed():
    """A test that follows an installation at once finds no pod ready unless that was waited for."""
    for page in (DOCS / "kubernetes.md", CHART / "README.md"):
        for piece in re.findall(r"```sh\n(.*?)```", page.read_text(), re.S):
            waited = re.search(r"^helm install .*--wait --timeout \d", piece, re.M)
            if re.search(r"^helm test ", piece, re.M) and not waited:
                fault(page.name, "helm test does not wait for helm install")


def documented():
    """The values that the guides tell to write."""
    guide = re.search(r"cat > my-values.yaml <<'YAML'\n(.*?)\nYAML\n", (DOCS / "kubernetes.md").read_text(), re.S)
    readme = re.search(r"```yaml\n(# my-values.yaml\n.*?)```", (CHART / "README.md").read_text(), re.S)
    return {"the guide's values": yaml.safe_load(guide[1]), "the README's values": yaml.safe_load(readme[1])}


def leaves(values, above=()):
    """The paths of all that can be set; what is empty is one."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key)


def check_tried(choices):
    tried = {path[:depth] for values in choices.values() for path in leaves(values) for depth in range(1, len(path) + 1)}
    for path in leaves(yaml.safe_load((CHART / "values.yaml").read_text())):
        if path not in tried:
            fault("chart", f"no file in ci/ sets {'.'.join(path)}")


def check_chart(schema):
    choices = {"defaults": {}}
    for path in sorted((CHART / "ci").glob("*-values.yaml")):
        choices[path.stem] = yaml.safe_load(path.read_text())
    choices |= documented()
    check_tried(choices)
    check_installed()
    for name, values in choices.items():
        where = f"chart with {name}"
        linted = helm_python.lint(str(CHART), values, strict=True, namespace="mail")
        for message in linted.get("messages", []):
            if message.get("severity", 0) > 1 or "rror" in str(message.get("severity")):
                fault(where, f"lint: {message}")
        if linted.get("errors"):
            fault(where, f"lint: {linted['errors']}")
        with helm_python.Chart.load(str(CHART)) as chart:
            chart.validate_schema(values)
            rendered = chart.render(values, name="mx", namespace="mail")
        notes = [text for path, text in rendered.items() if path.endswith("NOTES.txt")]
        if notes and not notes[0].strip():
            fault(where, "the notes are empty")
        manifests = "\n---\n".join(text for path, text in rendered.items() if path.endswith(".yaml"))
        check_set(where, documents(manifests), schema)
        check_way_to_cache(where, values, documents(manifests))
    for values, word in REFUSED:
        try:
            with helm_python.Chart.load(str(CHART)) as chart:
                chart.validate_schema(values)
                chart.render(values, name="mx", namespace="mail")
        except helm_python.HelmError as error:
            if word not in str(error):
                fault("chart", f"{values} is refused without the word {word}: {error}")
        else:
            fault("chart", f"{values} should be refused")
    print(f"chart: {len(REFUSED)} wrong choices refused")


def check_kustomizations(kubectl, schema):
    for directory in [DEPLOY / "kustomize/base", *sorted((DEPLOY / "kustomize/overlays").iterdir())]:
        where = f"kustomize {directory.name}"
        built = subprocess.run([kubectl, "kustomize", directory], capture_output=True, text=True, check=False)
        if built.returncode or built.stderr.strip():
            fault(where, built.stderr.strip())
        else:
            check_set(where, documents(built.stdout), schema)
    for path in sorted((DEPLOY / "kustomize/examples").glob("*.yaml")):
        for item in documents(path.read_text()):
            check_object(path.name, item, schema)
    for path in sorted(DOCS.glob("*.md")):
        for piece in re.findall(r"```yaml\n(.*?)```", path.read_text(), re.S):
            for item in documents(piece):
                if "kind" in item:
                    check_object(path.name, item, schema)


def main():
    schema = json.loads(Path(sys.argv[2]).read_text()) if len(sys.argv) > 2 else None
    check_chart(schema)
    check_kustomizations(sys.argv[1], schema)
    for text in faults:
        print(f"FAULT {text}", file=sys.stderr)
    sys.exit(bool(faults))


main()

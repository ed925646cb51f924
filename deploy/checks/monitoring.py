"""Dashboards, rules and alerts: well formed, and about metrics that exist.

Metrics that exist are those of docs/metrics.md, which a test holds against the source. What promtool checks (syntax of rules,
their unit tests) is not repeated here.
"""

import json
import re
import sys
from pathlib import Path

import promql_parser
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
DASHBOARDS = ROOT / "dashboards"
CHART = ROOT / "deploy" / "helm" / "backstop" / "files"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()

# Prometheus' own.
FOREIGN = {"up", "ALERTS"}
MAX_UID = 40

faults = []


def fault(where, what):
    faults.append(f"{where}: {what}")


def existing():
    """The series of docs/metrics.md; a histogram has three."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", (ROOT / "docs/metrics.md").read_text(), re.M)
    names = set(FOREIGN)
    for name, kind in rows:
        names |= {f"{name}_{end}" for end in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    if len(rows) < 20:
        fault("docs/metrics.md", "has too few rows to be read rightly")
    return names


def recorded():
    groups = yaml.safe_load((DASHBOARDS / "rules.yaml").read_text())["groups"]
    return {rule["record"] for group in groups for rule in group["rules"]}


def names_in(where, expression):
    """The metrics an expression names; the parser tells whether it is one."""
    plain = re.sub(r"\$__rate_interval|\$__interval|\$__range", "5m", expression)
    plain = re.sub(r"\$(\w+)", r"\1", plain)
    try:
        promql_parser.parse(plain)
    except Exception as error:  # The parser has no exception of its own.
        fault(where, f"{error} in {expression}")
        return set()
    bare = re.sub(r'"(\\.|[^"\\])*"', '""', plain)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    words = set(re.findall(r"[A-Za-z_:][A-Za-z0-9_:]*(?!\s*\(|[A-Za-z0-9_:])", bare))
    return words - {"and", "or", "unless", "offset", "bool", "d", "h", "m"}


def check_expression(where, expression, known):
    used = names_in(where, expression)
    if not used and "vector(" not in expression:
        fault(where, f"names no metric: {expression}")
    for name in sorted(used - known):
        fault(where, f"there is no {name}")
    if re.search(r"rate\([^[]*\[\d", expression) and where.startswith("dashboard"):
        fault(where, f"a fixed range instead of $__rate_interval: {expression}")


def check_dashboard(path, known):
    board = json.loads(path.read_text())
    name = f"dashboard {path.name}"
    if not board.get("uid") or len(board["uid"]) > MAX_UID or board.get("id") is not None:
        fault(name, "needs a uid and no id")
    variables = {variable["name"]: variable["type"] for variable in board["templating"]["list"]}
    if variables.get("datasource") != "datasource":
        fault(name, "needs the variable datasource")
    ids, taken, rows = set(), set(), 0
    for panel in board["panels"]:
        where = f"{name}: {panel['title']}"
        if panel["id"] in ids:
            fault(where, "its id is another's")
        ids.add(panel["id"])
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        if cells & taken or place["x"] + place["w"] > 24:
            fault(where, "overlaps another, or the edge")
        taken |= cells
        if panel["type"] == "row":
            rows += 1
            continue
        if not panel.get("description") or not panel["fieldConfig"]["defaults"].get("unit"):
            fault(where, "needs a description and a unit")
        for target in panel["targets"]:
            if target["datasource"]["uid"] != "${datasource}":
                fault(where, "its data source is wired in")
            used = set(re.findall(r"\$(?!__)\{?(\w+)", target["expr"])) - set(variables)
            if used:
                fault(where, f"uses variables that are not there: {used}")
            check_expression(where, target["expr"], known)
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.search(r"label_values\((\w+)", variable["query"]["query"])[1]
            if asked not in known:
                fault(name, f"the variable {variable['name']} asks for {asked}, which is not there")
            # Every target of a Prometheus has a job and an instance: all of them are those of Backstop, not anything.
            if variable["name"] in ("job", "instance") and (variable.get("allValue") or not asked.startswith("backstop_")):
                fault(name, f"all of the variable {variable['name']} are more than Backstop's")
    print(f"{name}: {len(ids) - rows} panels in {rows} rows")


def check_rules(known):
    tests = (DASHBOARDS / "rules_test.yaml").read_text()
    count = 0
    for path in (DASHBOARDS / "rules.yaml", DASHBOARDS / "alerts.yaml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                name = rule.get("alert") or rule["record"]
                where = f"{path.name}: {name}"
                check_expression(where, rule["expr"], known)
                count += 1
                if "record" in rule:
                    continue
                if rule["labels"].get("severity") not in ("critical", "warning", "info"):
                    fault(where, "needs a severity")
                if set(rule["annotations"]) != {"summary", "description", "runbook_url"}:
                    fault(where, "needs summary, description and runbook_url")
                if rule["annotations"].get("runbook_url") != f"docs/runbook.md#{name.lower()}":
                    fault(where, "its runbook_url leads elsewhere")
                if f"\n## {name}\n" not in RUNBOOK:
                    fault(where, "has no section in docs/runbook.md")
                if f'alertname="{name}",alertstate="firing"' not in tests:
                    fault(where, "no unit test sees it fire")
    print(f"rules and alerts: {count}")


def check_copies():
    """The chart can only read files of its own."""
    for name in ("rules.yaml", "alerts.yaml", "backstop.json"):
        if (CHART / name).read_bytes() != (DASHBOARDS / name).read_bytes():
            fault("chart", f"cp dashboards/{name} deploy/helm/backstop/files/")


def main():
    known = existing() | recorded()
    for path in sorted(DASHBOARDS.glob("*.json")):
        check_dashboard(path, known)
    check_rules(known)
    check_copies()
    for text in faults:
        print(f"FAULT {text}", file=sys.stderr)
    sys.exit(bool(faults))


main()

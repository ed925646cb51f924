"""The documentation: links lead somewhere, and pieces of configuration are ones the program knows.

usage: documents.py [SCHEMA]
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from configuration import ROOT, faults_in

faults = []


def anchors(text):
    """The names of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def check_links(page, text):
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.S)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            faults.append(f"{page.relative_to(ROOT)}: {link} leads nowhere")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text()):
            faults.append(f"{page.relative_to(ROOT)}: {link} names no heading")


def check_configurations(page, text, schema):
    for piece in re.findall(r"```toml\n(.*?)```", text, re.S):
        for fault in faults_in(piece, schema, whole=False):
            faults.append(f"{page.relative_to(ROOT)}: {fault} in\n{piece}")


def check_commands(page, text):
    """What is typed beside what stands there: a project of Compose is known by its file, a workload by the name it was given."""
    for line in text.splitlines():
        if "docker compose " in line and "docker compose --file " not in line:
            faults.append(f"{page.relative_to(ROOT)}: which file? {line.strip()}")
        if page.name == "runbook.md" and re.search(r"kubectl .*(deployment|daemonset)/", line):
            faults.append(f"{page.relative_to(ROOT)}: $D is the workload: {line.strip()}")


def main():
    schema = json.loads(Path(sys.argv[1]).read_text()) if len(sys.argv) > 1 else None
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    pages = [ROOT / name for name in listed.stdout.split()]
    for page in pages:
        text = page.read_text()
        check_links(page, text)
        check_configurations(page, text, schema)
        check_commands(page, text)
    for page in sorted((ROOT / "deploy" / "compose").glob("*.yaml")):
        check_commands(page, page.read_text())
    print(f"{len(pages)} pages")
    for fault in faults:
        print(f"FAULT {fault}", file=sys.stderr)
    sys.exit(bool(faults))


main()

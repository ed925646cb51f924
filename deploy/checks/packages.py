"""Packages: what is upgraded goes on running until somebody restarts it, as docs/operations.md says.

A package that restarted the service would end sessions in the middle of the day; one that restarted the socket would reset those
who wait in its queue. deploy/package looks into what was built; this looks at what it is built from.
"""

import sys
import tomllib

from configuration import ROOT

faults = []
metadata = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["metadata"]
for unit in metadata["deb"]["systemd-units"]:
    for switch in ("enable", "start", "restart-after-upgrade", "stop-on-upgrade"):
        # Each is on where it is left out.
        if unit.get(switch, True):
            faults.append(f"Cargo.toml: {unit['unit-name']}: {switch} must be false")
for script in [key for key in metadata["generate-rpm"] if key.endswith("_script")]:
    if "systemctl" in metadata["generate-rpm"][script]:
        faults.append(f"Cargo.toml: generate-rpm: {script} tells systemd what to do")
for text in faults:
    print(f"FAULT {text}", file=sys.stderr)
sys.exit(bool(faults))

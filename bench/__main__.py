"""`python -m bench`: skerry beside its peers, in one run on this machine."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from bench import (
    build,
    clients,
    crowd,
    full_machines,
    machine_copies,
    memory,
    network,
    rate,
    real_builds,
    registry,
    report,
    speed,
    transfer,
    unpack,
    vm,
)
from bench.measure import Outcome, say
from bench.world import World

Benchmark = Callable[[World, int], Outcome]

BENCHMARKS: dict[str, Benchmark] = {
    "api_cycle": speed.api_cycle,
    "docker_cli": speed.docker_cli,
    "skerry_cli": speed.skerry_cli,
    "runtime_run": speed.runtime_run,
    "exec": speed.exec_true,
    "net_run": network.net_run,
    "net_ports": network.net_ports,
    "net_throughput": network.net_throughput,
    "ps500": crowd.ps500,
    "streams200": crowd.streams200,
    "logs_1g": clients.logs_1g,
    "copy_500m": clients.copy_500m,
    "compose8": clients.compose8,
    "vm_run": vm.vm_run,
    "vm_boot": vm.vm_boot,
    "vm_exec": vm.vm_exec,
    "rate8": rate.rate8,
    "memory100": memory.memory100,
    "unpack": unpack.unpack,
    "transfer": transfer.transfer,
    "build_cached": build.build_cached,
    "build_runs": build.build_runs,
    "build_fan_out": build.build_fan_out,
    "build_context": build.build_context,
    **{f"build_real_{name}": real_builds.real(name) for name in real_builds.NAMES},
    "vm_start": full_machines.vm_start,
    "vm_clone": full_machines.vm_clone,
    "vm_states": full_machines.vm_states,
    "vm_snapshot": machine_copies.vm_snapshot,
    "vm_fork": machine_copies.vm_fork,
    "vm_fork_memory": machine_copies.vm_fork_memory,
    "registry_pull": registry.registry_pull,
    "registry_push": registry.registry_push,
}


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="may be repeated")
    parser.add_argument("--runs", type=int, default=30, help="recorded rounds (30)")
    parser.add_argument("--quick", action="store_true", help="8 rounds: a first impression")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    return parser.parse_args()


def main() -> int:
    """Run what was chosen, print the table, write the results."""
    chosen = options()
    if os.geteuid() != 0:
        say("the benchmarks start container engines: run them as root")
        return 1
    # SIGTERM has to unwind as Ctrl-C does, or the daemons stay.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    runs = 8 if chosen.quick else chosen.runs
    outcomes: list[Outcome] = []
    try:
        with World() as world:
            for name in chosen.only or BENCHMARKS:
                if BENCHMARKS[name] not in crowd.ROWS:
                    world.clear()
                say(f"{name} …")
                outcomes.append(BENCHMARKS[name](world, runs))
                say(report.table(outcomes[-1:]))
    except KeyboardInterrupt:
        say("interrupted; what was measured so far:")
    print(report.table(outcomes))
    say(f"written to {report.save(outcomes, chosen.save)}")
    if chosen.check:
        return int(not all(one.met(target) for one in outcomes for target in one.targets))
    return 0


if __name__ == "__main__":
    sys.exit(main())

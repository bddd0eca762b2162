"""Reads the control groups of this process, which limit the memory and the processor time of a container."""

from __future__ import annotations

from pathlib import Path

ROOT, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def group_folders(controller: str, root: Path = ROOT, membership: Path = MEMBERSHIP) -> list[tuple[int, Path]]:
    """Returns version (1 or 2) and folder of each group that may limit this process, with those above it.

    Args:
        controller: ``memory`` or ``cpu``.
        root: folder of all groups.
        membership: file with the groups of this process.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    folders = {(2, root), (1, root / controller)}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        folder = Path(path.lstrip("/"))
        for parent in (folder, *folder.parents):
            if not controllers:
                folders.add((2, root / parent))
            elif controller in controllers.split(","):
                folders.add((1, root / controller / parent))
    return sorted(folders)


def cpu_quota(root: Path = ROOT, membership: Path = MEMBERSHIP) -> float | None:
    """Returns the lowest limit of processor time of the container, in cores; None without a limit."""
    limits = []
    for version, folder in group_folders("cpu", root, membership):
        try:
            if version == 2:
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            limits.append(int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            continue  # no such group, or no limit: "max"
    return min((limit for limit in limits if limit > 0), default=None)  # -1: no limit

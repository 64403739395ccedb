"""On what kind of file system a folder lies. SQLite's shared memory works on a disk of the machine alone."""

from pathlib import Path

# As /proc/mounts calls them.
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "gpfs", "beegfs"})
# Clients in user space call themselves so: of folders over SSH, of buckets, of clusters of disks.
NETWORK_FUSE = frozenset({"sshfs", "glusterfs", "ceph", "juicefs", "s3fs", "rclone", "gcsfuse", "mountpoint-s3"})
MOUNTS = Path("/proc/self/mounts")


def network_filesystem(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """The network file system on which `folder` lies or will lie; None for any other, and where nothing tells."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return None
    place = str(folder.resolve())
    kind, longest = "", -1
    for line in lines:
        _, point, found, *_ = line.split(" ")
        point = point.replace("\\040", " ").rstrip("/")
        # Of mounts at one point the last one is seen.
        if len(point) >= longest and (place + "/").startswith(point + "/"):
            kind, longest = found, len(point)
    over_network = kind in NETWORK or kind.removeprefix("fuse.") in NETWORK_FUSE
    return kind if over_network else None

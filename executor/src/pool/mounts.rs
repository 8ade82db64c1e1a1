//! Whether something is mounted at a path of the host.
//!
//! libvirt cannot say it. The executor shares the host's PID namespace (or is a plain service there), so process 1 is
//! the host's, and its mount table is the host's.

use std::io;

const HOST_MOUNTS: &str = "/proc/1/mountinfo";

/// Whether the host has a mount exactly at `path`.
pub(super) fn is_mount_point(path: &str) -> io::Result<bool> {
    Ok(has_mount(&std::fs::read_to_string(HOST_MOUNTS)?, path))
}

fn has_mount(mountinfo: &str, path: &str) -> bool {
    // Field 5 of proc_pid_mountinfo(5) is the mount point; a blank in it is written \040.
    mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).any(|point| point == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_path_counts() {
        let table = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n41 22 0:37 / /srv/shared rw shared:5 - nfs4 nas:/vm rw\n";
        assert!(has_mount(table, "/srv/shared"));
        assert!(!has_mount(table, "/srv"));
        assert!(!has_mount(table, "/srv/shared/vm"));
    }
}

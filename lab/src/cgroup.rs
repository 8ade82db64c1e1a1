//! Control groups: one subtree per lab, `/sys/fs/cgroup[/CONTROLLER]/TAG/HOST`. A host's group is the root of its
//! cgroup namespace, where the hierarchies are mounted afresh, so that kubelet, containerd and libvirt see an
//! ordinary machine. Every process of the lab is in the subtree, which is how a clean-up finds them all.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{CGROUP2_SUPER_MAGIC, statfs},
};

use crate::{Error, ProcessId, Result, error::FileContext as _};

const ROOT: &str = "/sys/fs/cgroup";

/// The hierarchies of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cgroups {
    /// One unified hierarchy.
    V2,
    /// One hierarchy per controller or set of controllers.
    V1(Vec<Hierarchy>),
}

/// One hierarchy of cgroup v1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Its directory below `/sys/fs/cgroup`, for example `cpu,cpuacct` or `systemd`.
    dir: String,
    /// Its mount options, for example `cpu,cpuacct` or `none,name=systemd`.
    options: String,
}

/// The hierarchies of cgroup v1 in the text of `/proc/self/cgroup`. The named ones too: containerd wants each
/// hierarchy of a process to be mounted.
fn parse_v1(text: &str) -> Vec<Hierarchy> {
    text.lines()
        .filter_map(|line| line.split(':').nth(1))
        .filter(|controllers| !controllers.is_empty())
        .map(|controllers| match controllers.strip_prefix("name=") {
            Some(name) => Hierarchy { dir: name.to_owned(), options: format!("none,{controllers}") },
            None => Hierarchy { dir: controllers.to_owned(), options: controllers.to_owned() },
        })
        .collect()
}

impl Cgroups {
    /// Those of the machine; to be asked before `/sys` or `/proc` is another one.
    pub(crate) fn of_machine() -> Result<Self> {
        if statfs(ROOT).file("look at", ROOT)?.filesystem_type() == CGROUP2_SUPER_MAGIC {
            return Ok(Self::V2);
        }
        let path = "/proc/self/cgroup";
        let mut hierarchies = parse_v1(&fs::read_to_string(path).file("read", path)?);
        hierarchies.retain(|hierarchy| Path::new(ROOT).join(&hierarchy.dir).is_dir());
        Ok(Self::V1(hierarchies))
    }

    fn roots(&self) -> Vec<PathBuf> {
        match self {
            Self::V2 => vec![PathBuf::from(ROOT)],
            Self::V1(hierarchies) => hierarchies.iter().map(|h| Path::new(ROOT).join(&h.dir)).collect(),
        }
    }

    /// Makes the group of a host, with all controllers.
    pub(crate) fn make(&self, tag: &str, host: &str) -> Result<()> {
        for root in self.roots() {
            let group = root.join(tag).join(host);
            fs::create_dir_all(&group).file("create", &group)?;
            match self {
                // Beside the slices of systemd, as container engines do it without systemd. The controllers stay
                // enabled at the root: to take one away might hit a unit that came to need it.
                Self::V2 => {
                    enable_controllers(&root);
                    enable_controllers(&root.join(tag));
                }
                // A cpuset of v1 starts empty: nothing may enter it.
                Self::V1(_) => {
                    for file in ["cpuset.cpus", "cpuset.mems"] {
                        if let Ok(value) = fs::read_to_string(root.join(file)) {
                            for group in [root.join(tag), group.clone()] {
                                fs::write(group.join(file), &value).file("write", group.join(file))?;
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The groups that a process of the host is put into.
    pub(crate) fn groups(&self, tag: &str, host: &str) -> Vec<PathBuf> {
        let groups = self.roots().into_iter().map(|root| root.join(tag).join(host));
        match self {
            Self::V1(_) => groups.collect(),
            Self::V2 => {
                groups.map(|group| Some(group.join("init")).filter(|leaf| leaf.is_dir()).unwrap_or(group)).collect()
            }
        }
    }

    /// In v2 only leaves have processes: moves those of the host into one. To be done after the cgroup namespace was
    /// made, whose root is where its maker was.
    pub(crate) fn move_into_leaf(&self, tag: &str, host: &str) -> Result<()> {
        if *self != Self::V2 {
            return Ok(());
        }
        let group = Path::new(ROOT).join(tag).join(host);
        let leaf = group.join("init");
        fs::create_dir_all(&leaf).file("create", &leaf)?;
        for pid in pids(&group) {
            // A process that has ended meanwhile needs no move.
            let _ = fs::write(leaf.join("cgroup.procs"), pid.to_string());
        }
        enable_controllers(&group);
        Ok(())
    }

    /// Mounts the hierarchies at `target`, inside the host's namespaces.
    pub(crate) fn mount(&self, target: &Path) -> Result<()> {
        let none = None::<&str>;
        let hierarchies = match self {
            Self::V2 => {
                return mount(Some("cgroup2"), target, Some("cgroup2"), MsFlags::empty(), none).file("mount", target);
            }
            Self::V1(hierarchies) => hierarchies,
        };
        mount(Some("cgroup"), target, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).file("mount", target)?;
        for Hierarchy { dir, options } in hierarchies {
            let path = target.join(dir);
            fs::create_dir(&path).file("create", &path)?;
            mount(Some("cgroup"), &path, Some("cgroup"), MsFlags::empty(), Some(options.as_str()))
                .file("mount", &path)?;
            for name in dir.split(',').filter(|_| dir.contains(',')) {
                let link = target.join(name);
                std::os::unix::fs::symlink(dir, &link).file("create", link)?;
            }
        }
        Ok(())
    }

    /// All processes below the group of a lab, or of one of its hosts.
    pub(crate) fn processes(&self, tag: &str, host: Option<&str>) -> Vec<ProcessId> {
        let mut found: Vec<ProcessId> = Vec::new();
        for root in self.roots() {
            let mut groups = vec![group_of(&root, tag, host)];
            while let Some(group) = groups.pop() {
                found.extend(pids(&group).into_iter().filter_map(|pid| ProcessId::now(Path::new("/proc"), pid)));
                groups.extend(subdirectories(&group));
            }
        }
        found.sort_by_key(|process| process.pid);
        found.dedup();
        found
    }

    /// Removes the groups of a lab, or of one of its hosts. True if they are gone; a group with a process stays.
    pub(crate) fn remove(&self, tag: &str, host: Option<&str>) -> bool {
        let mut gone = true;
        for root in self.roots() {
            let top = group_of(&root, tag, host);
            remove_group(&top);
            gone &= !top.exists();
        }
        gone
    }
}

fn group_of(root: &Path, tag: &str, host: Option<&str>) -> PathBuf {
    let group = root.join(tag);
    host.map_or(group.clone(), |host| group.join(host))
}

fn remove_group(group: &Path) {
    for below in subdirectories(group) {
        remove_group(&below);
    }
    // Fails while a process is in it: the caller asks again.
    let _ = fs::remove_dir(group);
}

fn subdirectories(group: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(group) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).filter(|path| path.is_dir()).collect()
}

fn pids(group: &Path) -> Vec<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Enables every controller that the group has for the groups below it; one that refuses is not to be had there.
fn enable_controllers(group: &Path) {
    let available = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    for controller in available.split_ascii_whitespace() {
        let _: io::Result<()> = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Says that a lab's processes could not be ended.
pub(crate) fn still_there(tag: &str, processes: &[ProcessId]) -> Error {
    let pids: Vec<_> = processes.iter().map(|process| process.pid.to_string()).collect();
    Error::Unexpected {
        what: format!("cgroup {tag}"),
        reason: format!("processes {} do not end; look at them with ps", pids.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(dir: &str, options: &str) -> Hierarchy {
        Hierarchy { dir: dir.into(), options: options.into() }
    }

    #[test]
    fn v1_lines_become_hierarchies() {
        let text = "12:pids:/user.slice\n9:name=systemd:/user.slice/x\n3:cpu,cpuacct:/\n0::/user.slice\n";
        assert_eq!(
            parse_v1(text),
            [
                hierarchy("pids", "pids"),
                hierarchy("systemd", "none,name=systemd"),
                hierarchy("cpu,cpuacct", "cpu,cpuacct")
            ]
        );
    }

    #[test]
    fn the_unified_hierarchy_is_none_of_v1() {
        assert!(parse_v1("0::/user.slice/user-0.slice\n").is_empty());
    }
}

//! What a lab could spoil on the machine, and must not.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use kubevmm_lab::artifacts::Artifacts;

use crate::{Outcome, text};

/// What is the same also while the lab is up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    mounts: Vec<String>,
    settings: BTreeMap<PathBuf, String>,
    kvm: Option<(u32, u32)>,
    rules: String,
    firewall: String,
}

/// What the lab adds to and takes away again, and the settings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) settings: Settings,
    links: String,
    routes: String,
    cgroups: BTreeSet<PathBuf>,
    /// Names in `/run/netns`.
    networks: Vec<PathBuf>,
}

impl Settings {
    pub(crate) fn look(artifacts: &Artifacts) -> Outcome<Self> {
        let mut settings = BTreeMap::new();
        for dir in ["kernel", "vm", "net/ipv4/conf/all", "net/ipv4/conf/default", "net/ipv6/conf/all"] {
            for entry in fs::read_dir(Path::new("/proc/sys").join(dir))? {
                let path = entry?.path();
                let changes_by_itself = path.ends_with("kernel/ns_last_pid") || path.ends_with("vm/stat_refresh");
                if path.is_file() && !changes_by_itself {
                    // Some cannot be read by anybody.
                    settings.insert(path.clone(), fs::read_to_string(&path).unwrap_or_default());
                }
            }
        }
        let forwarding = PathBuf::from("/proc/sys/net/ipv4/ip_forward");
        settings.insert(forwarding.clone(), fs::read_to_string(forwarding)?);
        Ok(Self {
            mounts: fs::read_to_string("/proc/self/mountinfo")?.lines().map(str::to_owned).collect(),
            settings,
            kvm: fs::metadata("/dev/kvm").ok().map(|kvm| (kvm.mode(), kvm.gid())),
            rules: text(Command::new("ip").arg("rule"))?,
            firewall: firewall(artifacts)?,
        })
    }
}

/// The machine's iptables, of both kinds, without what they have counted. The machine itself may have no program that
/// tells, the hosts' root file system has; and where a table was never asked for, asking would make it.
fn firewall(artifacts: &Artifacts) -> Outcome<String> {
    let mut all = String::new();
    for (program, tables) in [
        ("iptables-nft-save", None),
        ("ip6tables-nft-save", None),
        ("iptables-legacy-save", Some("/proc/net/ip_tables_names")),
        ("ip6tables-legacy-save", Some("/proc/net/ip6_tables_names")),
    ] {
        let tables: Vec<_> = match tables {
            None => vec![String::new()],
            Some(path) => fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect(),
        };
        for table in tables {
            let mut command = Command::new("chroot");
            command.arg(&artifacts.root).arg(program).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
            if !table.is_empty() {
                command.args(["--table", &table]);
            }
            let rules = text(&mut command)?;
            let rules = rules.lines().filter(|line| !line.starts_with('#'));
            all.extend(rules.flat_map(|line| [line.split(" [").next().unwrap_or_default(), "\n"]));
        }
    }
    Ok(all)
}

impl Machine {
    pub(crate) fn look(artifacts: &Artifacts) -> Outcome<Self> {
        let mut networks: Vec<_> = match fs::read_dir("/run/netns") {
            Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?,
            Err(_) => Vec::new(),
        };
        networks.sort();
        Ok(Self {
            settings: Settings::look(artifacts)?,
            links: text(Command::new("ip").args(["-brief", "address"]))?,
            routes: text(Command::new("ip").args(["-4", "route", "show", "table", "all"]))?,
            cgroups: cgroups()?,
            networks,
        })
    }
}

/// The hierarchies and the groups at their tops; what is below these is the affair of who made them, such as another
/// lab or systemd, whose units come and go.
fn cgroups() -> Outcome<BTreeSet<PathBuf>> {
    let units = ["service", "scope", "slice", "mount", "socket"];
    let mut found = directories(Path::new("/sys/fs/cgroup"))?;
    // The unified hierarchy has its groups here, the others theirs one level below.
    for hierarchy in found.clone() {
        found.extend(directories(&hierarchy)?);
    }
    found.retain(|path| path.extension().is_none_or(|extension| units.iter().all(|unit| extension != *unit)));
    Ok(found)
}

fn directories(dir: &Path) -> Outcome<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.insert(entry.path());
        }
    }
    Ok(found)
}

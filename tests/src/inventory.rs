//! What lies on the hosts: so that a story can be shown to leave nothing behind.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use crate::host::{CONTROLLER, EXECUTOR, EXTENDER, Host, lines};

/// Directories whose files are looked at: definitions, state and volumes. Logs and caches are not.
const DIRECTORIES: &str = "/etc/libvirt /var/lib/libvirt /var/lib/kubevmm /srv /run/libvirt/qemu";

/// One process for each pod; how the kernel shows its name.
const SHIM: &str = "containerd-shim";
/// The process of a placement pod.
const PAUSE: &str = "kubevmm-pause";

/// What lies on the hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory(BTreeMap<String, BTreeSet<String>>);

impl Inventory {
    /// Looks at the hosts.
    ///
    /// # Errors
    /// When a host does not answer.
    pub fn take(hosts: &[Host]) -> Result<Self> {
        let mut all = BTreeMap::new();
        for host in hosts {
            all.insert(host.name.to_string(), of_host(host)?);
        }
        Ok(Self(all))
    }

    /// What is here and was not there `before`, one a line; empty when there is nothing more.
    pub fn more_than(&self, before: &Self) -> Vec<String> {
        let none = BTreeSet::new();
        let mut more = Vec::new();
        for (host, items) in &self.0 {
            let known = before.0.get(host).unwrap_or(&none);
            more.extend(items.difference(known).map(|item| format!("{host}: {item}")));
        }
        more
    }

    /// The same without what belongs to pods: their processes are the kubelet's to end.
    #[must_use]
    pub fn without_pods(mut self) -> Self {
        for items in self.0.values_mut() {
            items.retain(|item| !item.starts_with("pod "));
        }
        self
    }

    /// Every item whose name speaks of `word`.
    pub fn that_names(&self, word: &str) -> Vec<String> {
        let all = self.0.iter().flat_map(|(host, items)| items.iter().map(move |item| format!("{host}: {item}")));
        all.filter(|item| item.contains(word)).collect()
    }

    /// Fails when there is more than `before`.
    ///
    /// # Errors
    /// With the list of what is more.
    pub fn is_no_more_than(&self, before: &Self) -> Result<()> {
        match self.more_than(before) {
            more if more.is_empty() => Ok(()),
            more => bail!("there is more:\n{}", more.join("\n")),
        }
    }
}

fn of_host(host: &Host) -> Result<BTreeSet<String>> {
    let mut items = BTreeSet::new();
    let mut add = |kind: &str, names: Vec<String>| items.extend(names.iter().map(|name| format!("{kind} {name}")));
    add("domain", host.domains()?);
    add("network", host.networks()?);
    let pools = host.pools()?;
    for pool in &pools {
        // A pool whose directory is not there has no volumes that could be listed.
        add(&format!("volume {pool}"), host.volumes(pool).unwrap_or_default());
    }
    add("pool", pools);
    // A network's DHCP server keeps its leases by the bridge's name, and which bridge it was is chance; libvirt leaves a
    // key of a running domain when the host crashes.
    let others = "! -path '*/dnsmasq/*' ! -path '*/libvirt/qemu/domain-*/master-key.aes'";
    let files = host.sh(&format!("find {DIRECTORIES} -type f {others} 2>/dev/null || true"))?;
    add("file", lines(&files));
    let links = host.sh("ls /sys/class/net | grep -vE '^(veth|cni|lo$)' || true")?;
    add("interface", lines(&links));
    // The n-th process of a name: so that one more shows.
    let numbered = |name: &str, count: usize| (1..=count).map(|n| format!("{name} no. {n}")).collect();
    let mut processes = BTreeMap::<String, usize>::new();
    for process in host.processes() {
        *processes.entry(process.name).or_default() += 1;
    }
    for (name, count) in &processes {
        if ["qemu", "dnsmasq", "virt", "libvirt", "ssh", "swtpm"].iter().any(|start| name.starts_with(start)) {
            add("process", numbered(name, *count));
        }
    }
    // Of pods, but for the project's own: which of them are where is chance.
    let count = |name: &str| processes.get(name).copied().unwrap_or_default();
    let own = count(EXECUTOR) + count(CONTROLLER) + count(EXTENDER);
    add("pod", numbered("shim", count(SHIM).saturating_sub(own)));
    add("pod", numbered("pause", count(PAUSE)));
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(items: &[&str]) -> Inventory {
        Inventory([("h1".to_owned(), items.iter().map(|item| (*item).to_owned()).collect())].into())
    }

    #[test]
    fn more_is_told_and_less_is_not() {
        let (before, after) = (inventory(&["domain a", "domain b"]), inventory(&["domain b", "domain c"]));
        assert_eq!(after.more_than(&before), ["h1: domain c"]);
        assert!(inventory(&["domain a"]).is_no_more_than(&before).is_ok());
        assert_eq!(after.that_names("c"), ["h1: domain c"]);
    }
}

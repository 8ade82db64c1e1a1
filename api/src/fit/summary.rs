//! One message of what all hosts say.

use super::{Refusal, Why};
use crate::requirements::Requirements;

/// The most different refusals, and the most hosts of each, that a message has.
const SHOWN: usize = 10;

/// Why no host can take the VM: the reason of `Scheduled`, which is that of the nearest miss, and a message that tells of
/// each host, those that nearly could first.
pub fn summary(needs: &Requirements, refusals: &[(&str, Refusal)]) -> (&'static str, String) {
    let has = |node: &str| refusals.iter().any(|(host, _)| *host == node);
    if let Some(home) = needs.home.as_deref().filter(|home| !has(home)) {
        let message = format!(
            "the VM was imported from the host {home}, and there is no Hypervisor of that name (kubectl get hv): bring \
             the host back, or import the domain from the right one"
        );
        return ("HostNotFound", message);
    }
    for disk in &needs.local_disks {
        let (name, node) = (&disk.name, &disk.node);
        let lies = format!("the volume of the VirtualMachineDisk {name} lies on the host {node}");
        let Some((_, refusal)) = refusals.iter().find(|(host, _)| host == node) else {
            let message = format!(
                "{lies}, and there is no Hypervisor of that name (kubectl get hv): make another disk, with the right \
                 spec.source.existing.nodeName"
            );
            return ("HostNotFound", message);
        };
        if refusal.why == Why::Silent {
            return ("DataOnLostHost", format!("{lies}, which does not answer: bring the host back"));
        }
    }
    let home = needs.home.as_deref();
    let considered: Vec<_> = refusals.iter().filter(|(host, _)| home.is_none_or(|home| *host == home)).collect();
    if considered.is_empty() {
        return ("NoHypervisor", "there is no Hypervisor: no executor runs on any node".into());
    }
    let whose =
        if home.is_some() { "the VM is an imported one, which stays on its host" } else { "no host can take the VM" };
    (reason(needs, &considered), format!("{whose}: {}", told(&considered)))
}

fn reason(needs: &Requirements, refusals: &[&(&str, Refusal)]) -> &'static str {
    // Where the VM's data lies is what counts; the other hosts have no part in it.
    let own = needs.local_disks.first().and_then(|disk| refusals.iter().find(|(host, _)| *host == disk.node));
    if let Some((_, refusal)) = own.filter(|_| needs.home.is_none()) {
        return if refusal.why.is_of_host() { "HostOfDataNotReady" } else { refusal.reason() };
    }
    refusals.iter().map(|(_, refusal)| refusal.why).max().map_or(Why::NotReady.reason(), Why::reason)
}

/// What each of some hosts says.
pub fn words(refusals: &[(&str, Refusal)]) -> String {
    told(&refusals.iter().collect::<Vec<_>>())
}

/// The nearest misses first, the hosts that say the same together.
fn told(refusals: &[&(&str, Refusal)]) -> String {
    let mut groups: Vec<(&Refusal, Vec<&str>)> = Vec::new();
    for (host, refusal) in refusals {
        match groups.iter_mut().find(|(known, _)| known.message == refusal.message) {
            Some((_, hosts)) => hosts.push(host),
            None => groups.push((refusal, vec![host])),
        }
    }
    groups.sort_by_key(|(refusal, _)| std::cmp::Reverse(refusal.why));
    let each: Vec<String> = groups
        .iter()
        .map(|(refusal, hosts)| {
            let mut hosts = hosts.clone();
            hosts.sort_unstable();
            format!("{}: {}", some_of(&hosts, ", "), refusal.message)
        })
        .collect();
    let each: Vec<&str> = each.iter().map(String::as_str).collect();
    some_of(&each, "; ")
}

fn some_of(all: &[&str], between: &str) -> String {
    let shown = all.get(..SHOWN).unwrap_or(all).join(between);
    match all.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

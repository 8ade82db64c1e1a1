//! The table of `node list`. Pure.

use kube::ResourceExt as _;
use kubevmm_api::Hypervisor;

use super::{Cordons, problems, state};
use crate::hardware::word;
use crate::table::{NONE, cell, render};

/// Problems that a line shows; `describe` shows all.
const MOST_PROBLEMS: usize = 3;

/// Lays the hosts out, by name.
pub(crate) fn table(hypervisors: &[Hypervisor], cordons: &Cordons, wide: bool) -> String {
    let mut headers = vec!["NODE", "STATUS", "VMS", "VCPUS", "MEMORY", "ACCELERATOR", "LIBVIRT"];
    if wide {
        headers.extend(["QEMU", "CPU MODEL", "FOREIGN", "POOLS", "NETWORKS", "IMAGES"]);
    }
    headers.push("PROBLEMS");
    let mut hosts: Vec<_> = hypervisors.iter().collect();
    hosts.sort_by_key(|host| host.name_any());
    let rows: Vec<_> = hosts.into_iter().map(|host| row(host, cordons, wide)).collect();
    render(&headers, &rows, 0)
}

fn row(hypervisor: &Hypervisor, cordons: &Cordons, wide: bool) -> Vec<String> {
    let status = hypervisor.status.clone().unwrap_or_default();
    let number = |count: Option<i32>| count.map_or(NONE.into(), |count| count.to_string());
    let usage = status.usage.as_ref();
    let mut row = vec![
        hypervisor.name_any(),
        state(hypervisor, cordons),
        number(status.domain_count),
        cell(usage.map(|usage| usage.cpu.as_str())),
        cell(usage.map(|usage| usage.memory.as_str())),
        cell(status.accelerator.as_ref().map(|accelerator| word(&accelerator.kind)).as_deref()),
        cell(status.libvirt_version.as_deref()),
    ];
    if wide {
        let of = |ready: usize, all: usize| format!("{ready}/{all}");
        row.extend([
            cell(status.hypervisor_version.as_deref()),
            cell(status.capabilities.as_ref().and_then(|capabilities| capabilities.cpu.model.as_deref())),
            number(status.foreign_count),
            of(status.pools.iter().filter(|pool| pool.ready).count(), status.pools.len()),
            of(status.networks.iter().filter(|network| network.ready).count(), status.networks.len()),
            status.images.len().to_string(),
        ]);
    }
    let mut problems = problems(hypervisor);
    let more = problems.len().saturating_sub(MOST_PROBLEMS);
    problems.truncate(MOST_PROBLEMS);
    if more > 0 {
        problems.push(format!("{more} more"));
    }
    row.push(cell(Some(&problems.join("; "))));
    row
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::testing::{documents, golden};

    fn list(wide: bool) -> String {
        let cordons = Cordons::Known(BTreeSet::from(["h2".into()]));
        table(&documents("nodes.yaml"), &cordons, wide)
    }

    #[test]
    fn the_table_of_hosts() {
        golden("nodes.txt", &list(false));
    }

    #[test]
    fn the_wide_table_of_hosts() {
        golden("nodes-wide.txt", &list(true));
    }
}

//! What runs in a lab.

use std::{fs, net::Ipv4Addr, path::Path};

use crate::{HostName, Lab, ProcessId, Result, cgroup::Cgroups, host::Host};

/// One host of a lab.
#[derive(Debug, Clone)]
pub struct HostStatus {
    /// Its name.
    pub name: HostName,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its process 1, by the machine's pid; `None` when it is down.
    pub init: Option<ProcessId>,
    /// Its processes.
    pub processes: Vec<ProcessStatus>,
}

/// One process of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessStatus {
    /// Its pid on the machine.
    pub pid: i32,
    /// Its name, as the kernel knows it.
    pub name: String,
    /// Its resident memory in KiB.
    pub memory_kib: u64,
}

impl Lab {
    /// All hosts with their processes.
    ///
    /// # Errors
    /// When the machine's cgroups cannot be read.
    pub fn status(&self) -> Result<Vec<HostStatus>> {
        let cgroups = Cgroups::of_machine()?;
        let options = self.options();
        let status = |name: HostName| {
            let processes = cgroups.processes(&options.tag, Some(&name.to_string()));
            HostStatus {
                name,
                address: options.address(name),
                init: Host::new(options, name).init(),
                processes: processes.into_iter().filter_map(|process| describe(process.pid)).collect(),
            }
        };
        Ok(self.hosts().into_iter().map(status).collect())
    }
}

fn describe(pid: i32) -> Option<ProcessStatus> {
    let proc = Path::new("/proc").join(pid.to_string());
    let name = fs::read_to_string(proc.join("comm")).ok()?.trim().to_owned();
    Some(ProcessStatus { pid, name, memory_kib: resident(&fs::read_to_string(proc.join("status")).ok()?) })
}

fn resident(status: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    value.and_then(|value| value.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_in_kib() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    1234 kB\n"), 1234);
        assert_eq!(resident("Name:\tkthread\n"), 0);
    }
}

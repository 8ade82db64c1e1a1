//! What many executors that have nothing to do write to the API server.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;

use super::Place;
use super::audit::Audit;
use crate::api;
use crate::wait::{wait_for, within};

/// The user of the lab's kubeconfig.
const USER: &str = "admin";
/// What an idle executor writes.
const RENEWAL: &str = "update leases";
/// So long nothing but renewals is seen before it counts as idle.
const CALM: Duration = Duration::from_secs(15);

/// Runs `executors` of them on libvirt's test driver; their writes within `seconds`, by verb and resource.
///
/// # Errors
/// When an executor does not come up, or they do not come to rest.
pub fn measure(place: &Place, executors: usize, seconds: u64) -> Result<BTreeMap<String, usize>> {
    let nodes: Vec<String> = (0..executors).map(|n| format!("idle-{n}")).collect();
    nodes.iter().try_for_each(|node| place.node(node))?;
    let running: Vec<_> = nodes.iter().map(|node| place.executor(node, "test:///default")).collect::<Result<_>>()?;
    wait_for("all executors have reported", within(180), || {
        let hypervisors = place.api.list(api::HYPERVISOR, "")?;
        let ready = hypervisors.iter().filter(|hypervisor| api::is_true(hypervisor, "Ready")).count();
        Ok((ready >= executors).then_some(()))
    })?;
    wait_for("the executors have come to rest", within(180), || {
        let audit = Audit::from_now(place.lab)?;
        sleep(CALM);
        Ok(audit.writes(USER)?.keys().all(|write| write == RENEWAL).then_some(()))
    })?;
    let audit = Audit::from_now(place.lab)?;
    sleep(Duration::from_secs(seconds));
    let writes = audit.writes(USER)?;
    drop(running);
    Ok(writes)
}

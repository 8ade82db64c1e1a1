//! Where evicting other pods would help. The scheduler looks at CPU and memory only: it must not evict anybody from a
//! node that lacks what the VM needs.

use std::collections::BTreeMap;
use std::time::Instant;

use kubevmm_api::fit::check;
use kubevmm_api::requirements::Requirements;

use crate::cache::State;
use crate::protocol::{ExtenderPreemptionArgs, ExtenderPreemptionResult, MetaPod, MetaVictims};

/// Who would be evicted, by node.
pub type Proposed = BTreeMap<String, MetaVictims>;

/// The proposal, in the form of the answer.
pub fn proposed(args: ExtenderPreemptionArgs) -> Proposed {
    let by_uid = args.node_name_to_meta_victims.unwrap_or_default();
    let whole = args.node_name_to_victims.unwrap_or_default().into_iter().map(|(node, victims)| {
        let pods = victims.pods.unwrap_or_default();
        let pods = pods.into_iter().map(|pod| MetaPod { uid: pod.metadata.uid }).collect();
        (node, MetaVictims { pods: Some(pods), violations: victims.violations })
    });
    whole.chain(by_uid).collect()
}

/// Of an ordinary pod: everywhere.
pub fn everywhere(proposed: Proposed) -> ExtenderPreemptionResult {
    ExtenderPreemptionResult { node_name_to_meta_victims: proposed }
}

/// Where a VM with these needs could run without the victims; `pod` is the UID of its pod.
pub fn helpful(
    needs: &Requirements,
    pod: &str,
    proposed: Proposed,
    state: &State,
    now: Instant,
) -> ExtenderPreemptionResult {
    let helps = |(node, victims): &(String, MetaVictims)| {
        let victims = victims.pods.iter().flatten().map(|victim| victim.uid.as_str());
        let without: Vec<&str> = victims.chain([pod]).collect();
        check(needs, &state.facts(node, now, &without)).is_ok()
    };
    ExtenderPreemptionResult { node_name_to_meta_victims: proposed.into_iter().filter(helps).collect() }
}

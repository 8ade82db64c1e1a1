//! How well the nodes suit that can take a pod.

use std::borrow::Cow;
use std::time::Instant;

use kubevmm_api::fit::{Policy, score};
use kubevmm_api::requirements::Requirements;

use crate::cache::State;
use crate::protocol::{Candidates, HostPriority, MAX_SCORE};
use crate::side_by_side::each;

/// Of an ordinary pod: all alike.
pub fn alike<'a>(candidates: &'a Candidates<'_>) -> Vec<HostPriority<'a>> {
    candidates.names().into_iter().map(|host| HostPriority { host: Cow::Borrowed(host), score: 0 }).collect()
}

/// Of a VM with these needs; `pod` is the UID of its pod.
pub fn prioritize<'a>(
    needs: &Requirements,
    pod: &str,
    candidates: &'a Candidates<'_>,
    state: &State,
    now: Instant,
    policy: Policy,
) -> Vec<HostPriority<'a>> {
    let own = [pod];
    let scored = |host: &'a str| {
        // Of 100, rounded.
        let score = (score(needs, &state.facts(host, now, &own), policy) * MAX_SCORE + 50) / 100;
        HostPriority { host: Cow::Borrowed(host), score }
    };
    each(&candidates.names(), |host| scored(host))
}

//! Which nodes can take a pod.

use std::borrow::Cow;
use std::time::Instant;

use kubevmm_api::fit::{Refusal, check};
use kubevmm_api::requirements::Requirements;

use crate::cache::State;
use crate::protocol::{Candidates, ExtenderFilterResult, Messages, Name, NodeList, node_name};
use crate::side_by_side::each;

/// kube-scheduler writes each different message into the pod's condition. Of more nodes than a person reads, the reason is
/// told alone.
const IN_WORDS: usize = 50;

/// Of an ordinary pod: all of them.
pub fn all(candidates: Candidates<'_>) -> ExtenderFilterResult<'_> {
    match candidates {
        Candidates::Names(names) => ExtenderFilterResult { node_names: Some(names), ..Default::default() },
        Candidates::Nodes(nodes) => ExtenderFilterResult { nodes: Some(nodes), ..Default::default() },
    }
}

/// Those that can take a VM with these needs; `pod` is the UID of its pod.
pub fn filter<'a>(
    needs: &Requirements,
    pod: &str,
    candidates: Candidates<'a>,
    state: &State,
    now: Instant,
) -> ExtenderFilterResult<'a> {
    let own = [pod];
    let mut answer = ExtenderFilterResult::default();
    let asked = |node: &str| check(needs, &state.facts(node, now, &own));
    match candidates {
        Candidates::Names(names) => {
            let mut able = Vec::with_capacity(names.len());
            let asked = each(&names, |name| asked(&name.0));
            for (name, said) in names.into_iter().zip(asked) {
                match said {
                    Ok(()) => able.push(name),
                    Err(refusal) => refuse(&mut answer, name.0, refusal),
                }
            }
            answer.node_names = Some(able);
        }
        Candidates::Nodes(nodes) => {
            let mut able = Vec::new();
            for node in nodes.items {
                match asked(node_name(&node)) {
                    Ok(()) => able.push(node),
                    Err(refusal) => refuse(&mut answer, Cow::Owned(node_name(&node).to_owned()), refusal),
                }
            }
            answer.nodes = Some(NodeList { metadata: nodes.metadata, items: able });
        }
    }
    answer
}

fn refuse<'a>(answer: &mut ExtenderFilterResult<'a>, node: Cow<'a, str>, refusal: Refusal) {
    let Messages(list) =
        if refusal.resolvable { &mut answer.failed_nodes } else { &mut answer.failed_and_unresolvable_nodes };
    let message = if list.len() < IN_WORDS { refusal.message } else { refusal.reason().to_owned() };
    list.push((node, message));
}

/// The answer when there is none.
pub fn error(message: String) -> ExtenderFilterResult<'static> {
    ExtenderFilterResult { error: message, ..Default::default() }
}

/// Names, for tests and benches.
pub fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Candidates<'a> {
    Candidates::Names(names.into_iter().map(|name| Name(Cow::Borrowed(name))).collect())
}

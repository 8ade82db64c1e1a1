//! What the API server says when it refuses an object of a VM, in the words of VMs. Pure.

use crate::vm::candidates::Refusal;

/// What counts of a VM.
const COUNTED: &str = "a VM counts with its memory and what QEMU needs besides, with its CPU request, and with its virtual CPUs as its CPU limit";

/// Reason and message for what the API server says.
pub fn explain(said: &str) -> Refusal {
    let why = said.split_once("is forbidden: ").map_or(said, |(_, why)| why);
    if let Some(message) = quota(why) {
        return ("QuotaExceeded", message);
    }
    if why.contains(" usage per ") || why.contains("limit to request ratio per ") {
        let message = format!(
            "the LimitRange of the namespace refuses the VM: {why}; {COUNTED}: change spec.memory.size or spec.cpu of the \
             VM, or have the LimitRange changed"
        );
        return ("LimitRangeExceeded", message);
    }
    let advice = if why.contains("no PriorityClass with name") {
        ": create the PriorityClass, or change spec.placement.priorityClassName of the VM"
    } else {
        ""
    };
    ("PodRefused", format!("the API server refuses it (tried again by itself): {said}{advice}"))
}

/// `exceeded quota: NAME, requested: A=1,B=2, used: A=3,B=4, limited: A=3,B=5`.
fn quota(why: &str) -> Option<String> {
    let (name, amounts) = why.strip_prefix("exceeded quota: ")?.split_once(", requested: ")?;
    let (requested, amounts) = amounts.split_once(", used: ")?;
    let (used, limited) = amounts.split_once(", limited: ")?;
    let of = |list: &str, key: &str| {
        list.split(',').find_map(|one| Some(one.split_once('=').filter(|(known, _)| *known == key)?.1.to_owned()))
    };
    let each: Option<Vec<String>> = requested
        .split(',')
        .map(|one| {
            let (key, amount) = one.split_once('=')?;
            Some(format!("{amount} of {key}, of which {} are used of {}", of(used, key)?, of(limited, key)?))
        })
        .collect();
    Some(format!(
        "the ResourceQuota {name} of the namespace has no room for the VM, which asks for {}; {COUNTED}: stop or delete what \
         is not needed in the namespace, make the VM smaller, or have the quota raised",
        each?.join(", and for ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_told_with_what_is_asked_and_used() {
        let (reason, message) = explain(
            "pods \"kubevmm-web-0123abcd\" is forbidden: exceeded quota: compute, requested: \
             limits.cpu=2,requests.memory=393Mi, used: limits.cpu=0,requests.memory=1Gi, limited: \
             limits.cpu=1,requests.memory=1Gi",
        );
        assert_eq!(reason, "QuotaExceeded");
        assert!(
            message.starts_with(
                "the ResourceQuota compute of the namespace has no room for the VM, which asks for 2 of limits.cpu, of which \
                 0 are used of 1, and for 393Mi of requests.memory, of which 1Gi are used of 1Gi; a VM counts"
            ),
            "{message}"
        );
        assert!(message.ends_with("or have the quota raised"));
    }

    #[test]
    fn a_limit_range_is_told_as_it_is() {
        for why in [
            "maximum memory usage per Container is 100Mi, but limit is 393Mi",
            "[minimum cpu usage per Pod is 1, but request is 100m, maximum memory usage per Pod is 1Mi, but limit is 2Mi]",
            "cpu max limit to request ratio per Container is 2, but provided ratio is 10.000000",
        ] {
            let (reason, message) = explain(&format!("pods \"x\" is forbidden: {why}"));
            assert_eq!(reason, "LimitRangeExceeded");
            assert!(message.contains(&format!("refuses the VM: {why}; a VM counts")), "{message}");
        }
    }

    #[test]
    fn anything_else_is_repeated() {
        let said = "pods \"x\" is forbidden: no PriorityClass with name high was found";
        let (reason, message) = explain(said);
        assert_eq!(reason, "PodRefused");
        assert!(message.contains(said) && message.ends_with("change spec.placement.priorityClassName of the VM"));
        let odd = "pods \"x\" is forbidden: exceeded quota: compute, because";
        assert_eq!(explain(odd).0, "PodRefused");
    }
}
